// In which order waiting requests are tried, and how far each may be passed.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/random.h"
#include "scheduler/scheduler.h"

namespace baton::scheduler {
namespace {

// Beyond it the queue is served by arrival where its order would ask the prefix trees.
constexpr size_t kMatchedQueueMax = 128;

}  // namespace

// To the end of the queue; after a retraction, to its old place.
void Scheduler::enqueue(Sequence& s) {
  if (s.ticket == 0) {
    s.ticket = ++last_ticket_;
    s.queued_at = computed_work_;
  }
  move_to(s, SequenceState::kWaiting);
  ++changes_;
  const auto place = std::upper_bound(waiting_.begin(), waiting_.end(), &s,
                                      [](const Sequence* a, const Sequence* b) { return a->ticket < b->ticket; });
  waiting_.insert(place, &s);
}

SequenceId Scheduler::last_waiting() const {
  const auto last = std::min_element(waiting_.begin(), waiting_.end(), [](const Sequence* a, const Sequence* b) {
    return a->priority != b->priority ? a->priority < b->priority : a->ticket > b->ticket;
  });
  BATON_CHECK(last != waiting_.end());
  return (*last)->id;
}

double Scheduler::prompt_work(const Sequence& s) const { return options_.cost.chunk(0, s.size()); }

// Of all that it computes or holds pages for to its end.
double Scheduler::whole_work(const Sequence& s) const { return options_.cost.chunk(0, s.size() + s.new_tokens_left()); }

// The work of later requests that may still go before it; none or less: it holds its place.
double Scheduler::pass_allowance(const Sequence& s) const {
  return passes() ? kPassFactor * whole_work(s) - s.passed_queue : 0;
}

// Among equals of the policy the greater goes first.
double Scheduler::urgency(const Sequence& s) const {
  const auto uncached = [this, &s] {
    int64_t cached = 0;
    for (const DpGroup& group : groups_)
      cached = std::max(cached, group.memory.cached_tokens(s.tokens, s.cache_salt, match_limit(s)));
    return s.size() - cached;
  };
  switch (options_.policy) {
    case QueuePolicy::kFair:
    case QueuePolicy::kFirstCome:
      return 0;
    case QueuePolicy::kLongestPrefix:
      return static_cast<double>(s.size() - uncached());
    case QueuePolicy::kLongestOutput:
      return s.max_new_tokens;
    case QueuePolicy::kShortestPrompt:
      return -static_cast<double>(uncached());
    case QueuePolicy::kHighestResponse:
      return (computed_work_ - s.queued_at) / prompt_work(s);
    case QueuePolicy::kRandom:
      return Random(turns_ ^ (s.id.value() << 32)).uniform();
  }
  return 0;
}

std::vector<Sequence*> Scheduler::queue_order() const {
  const bool by_arrival = !passes() || options_.policy == QueuePolicy::kFair ||
                          (waiting_.size() > kMatchedQueueMax && (options_.policy == QueuePolicy::kLongestPrefix ||
                                                                  options_.policy == QueuePolicy::kShortestPrompt));
  if (by_arrival && !options_.priorities) return waiting_;
  struct Place {
    int priority;
    bool holds;
    double urgency;
    Sequence* sequence;
  };
  std::vector<Place> places;
  places.reserve(waiting_.size());
  for (Sequence* s : waiting_) {
    const bool holds = by_arrival || pass_allowance(*s) <= 0;
    places.push_back({s->priority, holds, holds ? 0 : urgency(*s), s});
  }
  std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    if (a.priority != b.priority) return a.priority > b.priority;
    return a.holds != b.holds ? a.holds : a.urgency > b.urgency;
  });
  std::vector<Sequence*> order;
  order.reserve(places.size());
  for (const Place& place : places) order.push_back(place.sequence);
  return order;
}

}  // namespace baton::scheduler
