// Who gets pages, and in which DP group.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "scheduler/scheduler.h"

namespace baton::scheduler {
namespace {

// Each costs a look into the prefix trees; a long queue behind one that does not fit is not tried whole in each turn.
constexpr int kMissesMax = 64;

}  // namespace

// The pages that a sequence has at the most, as far as they are reserved for. The KV of the last generated token is
// never needed.
int64_t Scheduler::pages_at_most(const Sequence& s) const {
  const int64_t growth =
      std::min<int64_t>(std::max<int64_t>(s.new_tokens_left() - 1, 0), options_.reserved_decode_tokens);
  return pages_for(s.size() + growth);
}

// Outstanding work of a sequence that has pages. A prebuilt prompt costs nothing here.
double Scheduler::work_of(const Sequence& s) const {
  const auto growth = static_cast<double>(std::min<int64_t>(s.new_tokens_left(), options_.reserved_decode_tokens));
  const double decode = growth * options_.cost.chunk(s.size(), 1);
  return s.state == SequenceState::kComputing ? decode + options_.cost.chunk(s.planned, s.left()) : decode;
}

double Scheduler::work_of(const DpGroup& group) const {
  double work = group.promised_work;
  for (const Sequence* s : group.active) work += work_of(*s);
  return work;
}

int Scheduler::active_count() const {
  return count(SequenceState::kReserved) + count(SequenceState::kComputing) + count(SequenceState::kRunning) +
         count(SequenceState::kDone);
}

// The tokens of `s` that may come from the prefix tree: at least one is computed here, and those whose logits are
// wanted too.
int64_t Scheduler::match_limit(const Sequence& s) const {
  const int64_t limit = s.size() - 1;
  return s.logits_from >= 0 ? std::min(limit, s.logits_from) : limit;
}

// Groups that `s` may go to, the one with the least outstanding work first, counting what `s` would have to compute
// there.
std::vector<int> Scheduler::groups_by_load(const Sequence& s) const {
  if (s.wanted_group) return {*s.wanted_group};
  std::vector<int> order(groups_.size());
  std::iota(order.begin(), order.end(), 0);
  if (order.size() == 1) return order;
  // Ties go round, so that idle groups share the work.
  std::rotate(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(admissions_ % order.size()), order.end());
  std::vector<double> load;
  for (const DpGroup& group : groups_) {
    const int64_t cached = group.memory.cached_tokens(s.tokens, s.cache_salt, match_limit(s));
    const double own = s.entry == EntryMode::kPrebuilt ? 0 : options_.cost.chunk(cached, s.size() - cached);
    load.push_back(work_of(group) + own);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&load](int a, int b) { return load[static_cast<size_t>(a)] < load[static_cast<size_t>(b)]; });
  return order;
}

void Scheduler::withdraw_promise(Sequence& s) {
  if (s.promised_work == 0) return;
  group_of(s).promised_work -= s.promised_work;
  s.promised_work = 0;
}

// Pages for everything that `s` knows now, if the group can also bear its growth and that of all who are there.
bool Scheduler::take_pages(Sequence& s, int group_index) {
  DpGroup& group = groups_[static_cast<size_t>(group_index)];
  std::vector<kv::PageLease> pages = group.memory.match(s.tokens, s.cache_salt, match_limit(s));
  const auto cached_pages = static_cast<int64_t>(pages.size());
  const int64_t now = pages_for(s.size()) - cached_pages;
  if (pages_at_most(s) - cached_pages + group.owed > group.memory.available()) return false;
  auto fresh = group.memory.reserve(static_cast<int>(now));
  if (!fresh) return false;
  withdraw_promise(s);
  s.group = group_index;
  s.planned = s.computed = s.cached = cached_pages * options_.page_tokens;
  s.pages = std::move(pages);
  std::move(fresh->begin(), fresh->end(), std::back_inserter(s.pages));
  list_pages(s);
  move_to(s, s.entry == EntryMode::kPrebuilt ? SequenceState::kReserved : SequenceState::kComputing);
  activate(s);
  ++admissions_;
  if (!s.ever_admitted) {
    s.ever_admitted = true;
    s.first_cached = s.cached;
    prompt_tokens_ += static_cast<uint64_t>(s.size());
    cached_tokens_ += static_cast<uint64_t>(s.cached);
  }
  return true;
}

// What a round of admission knows of one group.
struct Scheduler::RoundGroup {
  std::vector<int64_t> left;    // of admitted prompts that are not computed
  int64_t first_left = 0;       // of the one that the step begins with
  double allowance = HUGE_VAL;  // work that may still go before those who were skipped here

  [[nodiscard]] int64_t total() const { return std::accumulate(left.begin(), left.end(), int64_t{0}); }
  // Tokens that are computed before those of a new prompt of `size` where prompts share: the shorter rests, and the
  // half step of the first.
  [[nodiscard]] int64_t before(int64_t size, int64_t half) const {
    int64_t tokens = first_left > size ? std::min(first_left, half) : 0;
    for (const int64_t other : left) tokens += other <= size ? other : 0;
    return tokens;
  }
};

struct Scheduler::Round {
  std::vector<RoundGroup> groups;
  int room = 0;         // sequences that may still be admitted
  int misses_left = 0;  // requests that may still be found not to fit

  [[nodiscard]] bool all_closed() const {
    return std::all_of(groups.begin(), groups.end(), [](const RoundGroup& group) { return group.allowance <= 0; });
  }
};

Scheduler::Round Scheduler::begin_round() const {
  Round round{std::vector<RoundGroup>(groups_.size()), options_.max_running_requests - active_count(), kMissesMax};
  const auto prompts = computing_prompts();
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (const Sequence* s : prompts[g]) round.groups[g].left.push_back(s->left());
    if (!prompts[g].empty()) round.groups[g].first_left = prompts[g].front()->left();
  }
  return round;
}

// The groups where the next step would compute some of its prompt, and where it passes nobody too far; elsewhere its
// pages had better wait. A group without work may always take a prompt.
std::vector<bool> Scheduler::open_groups(const Sequence& s, const Round& round) const {
  const double work = whole_work(s);
  const bool joins_step = s.entry != EntryMode::kPrebuilt && (!passes() || pass_allowance(s) > 0);
  const int64_t half = std::max<int64_t>(1, options_.chunked_prefill_size / (2 * options_.dp));
  std::vector<int64_t> before(groups_.size(), 0);
  for (size_t g = 0; g < groups_.size() && joins_step; ++g) {
    const RoundGroup& group = round.groups[g];
    before[g] = options_.policy == QueuePolicy::kFair ? group.before(s.size(), half) : group.total();
  }
  const bool step_is_full = std::accumulate(before.begin(), before.end(), int64_t{0}) >= options_.chunked_prefill_size;
  std::vector<bool> open(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    const bool wanted = !s.wanted_group || *s.wanted_group == static_cast<int>(g);
    open[g] = wanted && work <= round.groups[g].allowance && !(step_is_full && before[g] > 0);
  }
  return open;
}

Scheduler::Trial Scheduler::try_admit(Sequence& s, Round* round) {
  const std::vector<bool> open = open_groups(s, *round);
  if (std::find(open.begin(), open.end(), true) == open.end()) return Trial::kNotYet;
  if (round->room <= 0) return Trial::kNoRoom;
  for (const int g : groups_by_load(s)) {
    if (!open[static_cast<size_t>(g)] || !take_pages(s, g)) continue;
    note_admission(s, round);
    return Trial::kAdmitted;
  }
  --round->misses_left;
  return Trial::kNoRoom;
}

// Those behind `s` may pass it, to an extent.
void Scheduler::skip(const Sequence& s, Trial why, Round* round) const {
  if (!passes() && why == Trial::kNotYet) return;  // nor will those behind it find a place in the step
  for (size_t g = 0; g < groups_.size(); ++g) {
    double& allowance = round->groups[g].allowance;
    if (!s.wanted_group || *s.wanted_group == static_cast<int>(g)) allowance = std::min(allowance, pass_allowance(s));
  }
}

// What `s` goes before: of those that wait for any group, it is one group's part.
void Scheduler::note_admission(const Sequence& s, Round* round) {
  --round->room;
  const auto admitted_to = static_cast<size_t>(s.group);
  const double work = whole_work(s), part = work / options_.dp;
  for (size_t g = 0; g < groups_.size(); ++g) round->groups[g].allowance -= g == admitted_to ? work : part;
  for (Sequence* other : waiting_) {
    const bool earlier = other->priority != s.priority ? other->priority > s.priority : other->ticket < s.ticket;
    if (other->state != SequenceState::kWaiting || !earlier) continue;
    if (other->wanted_group && *other->wanted_group != s.group) continue;
    other->passed_queue += other->wanted_group ? work : part;
  }
  if (s.state != SequenceState::kComputing) return;
  RoundGroup& group = round->groups[admitted_to];
  if (group.left.empty()) group.first_left = s.left();
  group.left.push_back(s.left());
}

// Retracts the least of the running sequences that `s` may displace. False: there is none.
bool Scheduler::preempt_for(const Sequence& s, Round* round, Turn* turn) {
  if (!options_.priorities || !options_.preemption_threshold) return false;
  Sequence* victim = nullptr;
  for (const DpGroup& group : groups_) {
    for (Sequence* other : group.active) {
      if (other->state != SequenceState::kRunning || (s.wanted_group && *s.wanted_group != other->group)) continue;
      if (int64_t{s.priority} - other->priority < *options_.preemption_threshold) continue;
      const bool lesser = victim == nullptr || (other->priority != victim->priority ? other->priority < victim->priority
                                                                                    : other->ticket > victim->ticket);
      if (lesser) victim = other;
    }
  }
  if (victim == nullptr) return false;
  if (steps_under_way()) {
    turn->waits_for_steps = true;
    return false;
  }
  retract(*victim);
  turn->retracted.push_back(victim->id);
  ++round->room;
  return true;
}

// Whether a round would admit nobody, because the last one did and nothing is different: the queue, who runs, how much
// of the prompts is left. A request that found no room finds none as long as no group has more spare pages, whatever is
// evicted meanwhile: running sequences only use what they owed. Not known where the order of the queue changes by
// itself.
bool Scheduler::is_blocked() const {
  const QueuePolicy policy = options_.policy;
  const bool order_stays =
      policy != QueuePolicy::kRandom && policy != QueuePolicy::kLongestPrefix && policy != QueuePolicy::kShortestPrompt;
  return order_stays && blocked_at_ == changes_ &&
         std::all_of(groups_.begin(), groups_.end(),
                     [](const DpGroup& group) { return spare_pages(group) <= group.spare_at_block; });
}

void Scheduler::note_blocked() {
  blocked_at_ = changes_;
  for (DpGroup& group : groups_) group.spare_at_block = spare_pages(group);
}

void Scheduler::admit(Turn* turn) {
  if (waiting_.empty() || admissions_held_ || is_blocked()) return;
  ++admission_rounds_;
  Round round = begin_round();
  for (Sequence* s : queue_order()) {
    if (round.all_closed() || round.misses_left <= 0) break;
    Trial trial = try_admit(*s, &round);
    while (trial == Trial::kNoRoom && preempt_for(*s, &round, turn)) trial = try_admit(*s, &round);
    if (trial == Trial::kAdmitted) {
      turn->admitted.push_back(s->id);
    } else if (round.room <= 0) {
      break;
    } else {
      skip(*s, trial, &round);
    }
  }
  std::erase_if(waiting_, [](const Sequence* s) { return s->state != SequenceState::kWaiting; });
  if (turn->admitted.empty() && turn->retracted.empty() && !turn->waits_for_steps) note_blocked();
}

}  // namespace baton::scheduler
