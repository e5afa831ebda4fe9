#include "scheduler/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace baton::scheduler {

Scheduler::Scheduler(const SchedulerOptions& options) : options_(options) {
  BATON_CHECK(options.dp >= 1 && options.pages_per_group >= 1 && options.page_tokens >= 1);
  BATON_CHECK(options.pp >= 1, "{} stages", options.pp);
  kept_turns_.resize(static_cast<size_t>(steps_max()));
  BATON_CHECK(options.max_running_requests >= 1 && options.chunked_prefill_size >= 1 && options.logits_rows_max >= 1);
  for (int g = 0; g < options.dp; ++g) {
    groups_.push_back(
        DpGroup{GroupMemory(options.pages_per_group, options.page_tokens, options.prefix_cache), {}, 0, 0});
  }
}

int64_t Scheduler::sequence_tokens_max() const { return int64_t{options_.pages_per_group} * options_.page_tokens; }

Sequence& Scheduler::at(SequenceId id) {
  Sequence* found = sequences_.find(id);
  BATON_CHECK(found != nullptr, "sequence {} is unknown", id);
  return *found;
}

const Sequence& Scheduler::sequence(SequenceId id) const {
  Sequence* found = sequences_.find(id);
  BATON_CHECK(found != nullptr, "sequence {} is unknown", id);
  return *found;
}

int64_t Scheduler::pages_for(int64_t tokens) const {
  return (tokens + options_.page_tokens - 1) / options_.page_tokens;
}

void Scheduler::move_to(Sequence& s, SequenceState state) {
  --in_state_[static_cast<size_t>(s.state)];
  ++in_state_[static_cast<size_t>(state)];
  s.state = state;
}

namespace {

template <typename Sequences>
auto place_of(const Sequence& s, Sequences& oldest_first) {
  return std::lower_bound(oldest_first.begin(), oldest_first.end(), s.id,
                          [](const Sequence* other, SequenceId id) { return other->id < id; });
}

}  // namespace

// It has pages now.
void Scheduler::activate(Sequence& s) {
  std::vector<Sequence*>& active = group_of(s).active;
  active.insert(place_of(s, active), &s);
  note_owed(s);
}

// It has none any more, if it had.
void Scheduler::deactivate(Sequence& s) {
  if (s.group < 0) return;
  DpGroup& group = group_of(s);
  const auto place = place_of(s, group.active);
  if (place == group.active.end() || *place != &s) return;
  group.active.erase(place);
  group.owed -= s.owed;
  s.owed = 0;
}

// The tokens or the pages of a sequence with pages have changed.
void Scheduler::note_owed(Sequence& s) {
  const int64_t owed = pages_at_most(s) - static_cast<int64_t>(s.pages.size());
  group_of(s).owed += owed - s.owed;
  s.owed = owed;
}

void Scheduler::audit() const {
  std::array<int, kSequenceStates> in_state{};
  sequences_.for_each([&](const Sequence& s) { ++in_state[static_cast<size_t>(s.state)]; });
  BATON_CHECK(in_state == in_state_, "sequences are in other states than noted");
  size_t with_pages = 0;
  for (const DpGroup& group : groups_) {
    int64_t owed = 0;
    for (size_t i = 0; i < group.active.size(); ++i) {
      const Sequence& s = *group.active[i];
      BATON_CHECK(i == 0 || group.active[i - 1]->id < s.id, "sequence {} is out of order", s.id);
      BATON_CHECK(&s == &sequence(s.id) && &group == &groups_[static_cast<size_t>(s.group)] && !s.pages.empty(),
                  "sequence {} has no pages of this group", s.id);
      BATON_CHECK(s.owed == pages_at_most(s) - static_cast<int64_t>(s.pages.size()), "sequence {} owes {} pages", s.id,
                  s.owed);
      owed += s.owed;
    }
    BATON_CHECK(owed == group.owed, "{} pages may be asked for, noted {}", owed, group.owed);
    with_pages += group.active.size();
    group.memory.audit();
  }
  sequences_.for_each([&](const Sequence& s) {
    BATON_CHECK(!s.pages.empty() || s.owed == 0, "sequence {} has no pages and owes {}", s.id, s.owed);
    with_pages -= s.pages.empty() ? 0 : 1;
    BATON_CHECK(s.page_numbers.size() == s.pages.size(), "sequence {} has other pages than listed", s.id);
    for (size_t i = 0; i < s.pages.size(); ++i)
      BATON_CHECK(s.pages[i].page().value() == s.page_numbers[i], "sequence {} has other pages than listed", s.id);
  });
  BATON_CHECK(with_pages == 0, "sequences with pages are not listed");
}

void Scheduler::add(NewSequence fresh) {
  BATON_CHECK(fresh.id > last_id_, "sequence {} after {}", fresh.id, last_id_);
  const auto prompt_tokens = static_cast<int64_t>(fresh.prompt.size());
  BATON_CHECK(
      prompt_tokens >= 1 && fresh.max_new_tokens >= 0 && prompt_tokens + fresh.max_new_tokens <= sequence_tokens_max(),
      "{} + {} tokens in a pool of {}", prompt_tokens, fresh.max_new_tokens, sequence_tokens_max());
  BATON_CHECK(!fresh.dp_rank || (*fresh.dp_rank >= 0 && *fresh.dp_rank < options_.dp), "group of {}", options_.dp);
  last_id_ = fresh.id;
  Sequence& s = sequences_.insert(fresh.id, std::make_unique<Sequence>());
  ++in_state_[static_cast<size_t>(s.state)];
  s.id = fresh.id;
  s.entry = fresh.entry;
  s.wanted_group = fresh.dp_rank;
  s.tokens = std::move(fresh.prompt);
  s.prompt_tokens = prompt_tokens;
  s.logits_from = fresh.logits_from;
  s.max_new_tokens = fresh.max_new_tokens;
  s.cache_salt = std::move(fresh.cache_salt);
  s.priority = options_.priorities ? fresh.priority : 0;
  if (s.entry == EntryMode::kHeld && !s.wanted_group) s.wanted_group = groups_by_load(s).front();
  if (s.wanted_group) {
    s.group = *s.wanted_group;
    s.promised_work = options_.cost.chunk(0, s.size());
    group_of(s).promised_work += s.promised_work;
  }
  if (s.entry == EntryMode::kHeld) {
    move_to(s, SequenceState::kHeld);
  } else {
    enqueue(s);
  }
}

void Scheduler::release(SequenceId id) {
  Sequence& s = at(id);
  BATON_CHECK(s.state == SequenceState::kHeld, "sequence {} is not held", id);
  enqueue(s);
}

void Scheduler::join(SequenceId id, int32_t first_token) {
  Sequence& s = at(id);
  BATON_CHECK(s.state == SequenceState::kReserved, "sequence {} has no reserved pages", id);
  for (const kv::PageLease& lease : s.pages) {
    BATON_CHECK(group_of(s).memory.ledger().state(lease.page()) == kv::PageState::kOwned,
                "page {} can still be written", lease.page());
  }
  s.computed = s.planned = s.size();
  share(s);
  s.tokens.push_back(first_token);
  note_owed(s);
  move_to(s, SequenceState::kRunning);
  ++changes_;
}

void Scheduler::complete(const kv::StepPlan& plan) {
  BATON_CHECK(steps_under_way(), "no step is under way");
  ++completed_steps_;
  std::erase_if(kept_, [this](const KeptPages& kept) { return kept.until <= completed_steps_; });
  for (const kv::Segment& segment : plan.segments) {
    Sequence* found = sequences_.find(segment.sequence);
    if (found == nullptr) continue;
    Sequence& s = *found;
    BATON_CHECK(s.computed == segment.begin && s.under_way > 0, "sequence {} is at {}, the segment at {}", s.id,
                s.computed, segment.begin);
    const auto count = static_cast<int64_t>(segment.tokens.size());
    if (s.state == SequenceState::kComputing) {
      computed_work_ += options_.cost.chunk(s.computed, count);
      ++changes_;
    }
    s.computed += count;
    --s.under_way;
    if (s.computed < s.size() - (s.awaits ? 1 : 0)) continue;
    if (s.state == SequenceState::kComputing) share(s);
    move_to(s, s.awaits ? SequenceState::kRunning : SequenceState::kDone);
  }
}

void Scheduler::abandon_steps() {
  completed_steps_ = planned_steps_;
  kept_.clear();
}

void Scheduler::append(SequenceId id, int32_t token) {
  Sequence& s = at(id);
  BATON_CHECK(s.awaits || s.state == SequenceState::kDone, "sequence {} has tokens left to compute", id);
  s.logits_from = -1;
  if (s.awaits) {
    s.tokens.back() = token;
    s.awaits = false;
    return;
  }
  s.tokens.push_back(token);
  note_owed(s);
  move_to(s, SequenceState::kRunning);
}

std::vector<kv::PageLease> Scheduler::finish(SequenceId id) {
  Sequence& s = at(id);
  if (s.state == SequenceState::kWaiting) std::erase(waiting_, &s);
  withdraw_promise(s);
  deactivate(s);
  ++changes_;
  // A reserved sequence's pages hold nothing yet, or something half written.
  if (s.state != SequenceState::kReserved) remember(s);
  if (s.under_way > 0) {
    KeptPages& kept = kept_.emplace_back();
    kept.until = planned_steps_;
    for (const kv::PageLease& lease : s.pages) kept.pages.push_back(lease.share());
  }
  std::vector<kv::PageLease> pages = std::move(s.pages);
  --in_state_[static_cast<size_t>(s.state)];
  sequences_.erase(id);
  return pages;
}

void Scheduler::remember(const Sequence& s) {
  if (s.pages.empty()) return;
  groups_[static_cast<size_t>(s.group)].memory.remember(std::span(s.tokens).first(static_cast<size_t>(s.computed)),
                                                        s.cache_salt, s.pages);
}

// A prompt is complete. A sequence of one token ends now, perhaps with peers reading its pages: it keeps its own.
void Scheduler::share(Sequence& s) {
  remember(s);
  if (s.new_tokens_left() <= 1) return;
  auto replaced =
      group_of(s).memory.adopt(std::span(s.tokens).first(static_cast<size_t>(s.computed)), s.cache_salt, &s.pages);
  list_pages(s);
  if (s.under_way > 0) kept_.push_back({planned_steps_, std::move(replaced)});
}

void Scheduler::list_pages(Sequence& s) {
  s.page_numbers.clear();
  for (const kv::PageLease& lease : s.pages) s.page_numbers.push_back(lease.page().value());
}

void Scheduler::flush_cache() {
  for (DpGroup& group : groups_) group.memory.flush();
}

SchedulerCounts Scheduler::counts() const {
  SchedulerCounts counts;
  counts.held = count(SequenceState::kHeld);
  counts.waiting = count(SequenceState::kWaiting);
  counts.reserved = count(SequenceState::kReserved);
  counts.computing = count(SequenceState::kComputing);
  counts.running = count(SequenceState::kRunning) + count(SequenceState::kDone);
  for (const DpGroup& group : groups_) {
    for (const Sequence* s : group.active) {
      const bool runs = s->state == SequenceState::kRunning || s->state == SequenceState::kDone;
      if (runs) counts.running_tokens += s->size();
    }
  }
  counts.prompt_tokens = prompt_tokens_;
  counts.cached_tokens = cached_tokens_;
  counts.retractions = retractions_;
  counts.admission_rounds = admission_rounds_;
  counts.retracted_prompt_tokens = retracted_prompt_tokens_;
  counts.retracted_new_tokens = retracted_new_tokens_;
  return counts;
}

std::vector<int> Scheduler::bound_waiting() const {
  std::vector<int> bound(groups_.size());
  if (count(SequenceState::kHeld) + count(SequenceState::kWaiting) == 0) return bound;
  sequences_.for_each([&](const Sequence& s) {
    if (s.state != SequenceState::kHeld && s.state != SequenceState::kWaiting) return;
    const int group = s.wanted_group.value_or(s.entry == EntryMode::kHeld ? s.group : -1);
    if (group >= 0) ++bound[static_cast<size_t>(group)];
  });
  return bound;
}

}  // namespace baton::scheduler
