// Who gets pages, and in which DP group.
#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "scheduler/scheduler.h"

namespace baton::scheduler {

// Pages that a sequence may still ask for, its prompt's excepted. The KV of the last generated token is never needed.
int64_t Scheduler::growth_pages(const Sequence& s) const {
  const int64_t growth =
      std::min<int64_t>(std::max<int64_t>(s.new_tokens_left() - 1, 0), options_.reserved_decode_tokens);
  return pages_for(s.size() + growth) - pages_for(s.size());
}

// Outstanding work of a sequence that has pages. A prebuilt prompt costs nothing here.
double Scheduler::work_of(const Sequence& s) const {
  const auto growth = static_cast<double>(std::min<int64_t>(s.new_tokens_left(), options_.reserved_decode_tokens));
  const double decode = growth * options_.cost.chunk(s.size(), 1);
  return s.state == SequenceState::kComputing ? decode + options_.cost.chunk(s.computed, s.left()) : decode;
}

double Scheduler::work_of(const DpGroup& group) const {
  double work = group.promised_work;
  for (const auto& [id, s] : group.active) work += work_of(*s);
  return work;
}

int Scheduler::active_count() const {
  int count = 0;
  for (const DpGroup& group : groups_) count += static_cast<int>(group.active.size());
  return count;
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
  int64_t worst = now + growth_pages(s);
  for (const auto& [id, other] : group.active) {
    worst += growth_pages(*other) + pages_for(other->size()) - static_cast<int64_t>(other->pages.size());
  }
  if (!group.memory.has(worst)) return false;
  auto fresh = group.memory.reserve(static_cast<int>(now));
  if (!fresh) return false;
  withdraw_promise(s);
  s.group = group_index;
  s.computed = s.cached = cached_pages * options_.page_tokens;
  s.pages = std::move(pages);
  std::move(fresh->begin(), fresh->end(), std::back_inserter(s.pages));
  s.state = s.entry == EntryMode::kPrebuilt ? SequenceState::kReserved : SequenceState::kComputing;
  group.active.emplace(s.id, &s);
  ++admissions_;
  if (!s.ever_admitted) {
    s.ever_admitted = true;
    s.first_cached = s.cached;
    prompt_tokens_ += static_cast<uint64_t>(s.size());
    cached_tokens_ += static_cast<uint64_t>(s.cached);
  }
  return true;
}

// What a round of admission knows of each group.
struct Scheduler::Round {
  std::vector<bool> full;           // an earlier request waits for pages here
  std::vector<int64_t> uncomputed;  // prompt tokens that are admitted and not computed
  int64_t uncomputed_total = 0;

  [[nodiscard]] bool all_full() const { return std::find(full.begin(), full.end(), false) == full.end(); }
};

// More prompts would not make the next step larger: their pages had better wait. A group without work may always take
// one.
bool Scheduler::step_is_full(const Round& round, const std::optional<int>& group) const {
  if (round.uncomputed_total < options_.chunked_prefill_size) return false;
  if (group) return round.uncomputed[static_cast<size_t>(*group)] > 0;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (!round.full[g] && round.uncomputed[g] == 0) return false;
  }
  return true;
}

bool Scheduler::try_admit(Sequence& s, Round* round) {
  for (const int g : groups_by_load(s)) {
    const auto index = static_cast<size_t>(g);
    if (round->full[index]) continue;
    // With prompts enough for a step, only a group that has none takes another.
    if (s.entry != EntryMode::kPrebuilt && round->uncomputed_total >= options_.chunked_prefill_size &&
        round->uncomputed[index] > 0)
      continue;
    if (!take_pages(s, g)) {
      round->full[index] = true;
      continue;
    }
    if (s.state == SequenceState::kComputing) {
      round->uncomputed[index] += s.left();
      round->uncomputed_total += s.left();
    }
    return true;
  }
  return false;
}

void Scheduler::admit(Turn* turn) {
  Round round{std::vector<bool>(groups_.size(), false), std::vector<int64_t>(groups_.size(), 0), 0};
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (const auto& [id, s] : groups_[g].active) {
      if (s->state != SequenceState::kComputing) continue;
      round.uncomputed[g] += s->left();
      round.uncomputed_total += s->left();
    }
  }
  int room = options_.max_running_requests - active_count();
  for (auto next = waiting_.begin(); next != waiting_.end() && room > 0 && !round.all_full();) {
    Sequence& s = at(*next);
    const bool wait = s.entry != EntryMode::kPrebuilt && step_is_full(round, s.wanted_group);
    if (wait && !prebuilt_seen_ && step_is_full(round, std::nullopt)) break;  // nobody behind can be admitted either
    if (wait || (s.wanted_group && round.full[static_cast<size_t>(*s.wanted_group)]) || !try_admit(s, &round)) {
      ++next;
      continue;
    }
    turn->admitted.push_back(s.id);
    next = waiting_.erase(next);
    --room;
  }
}

}  // namespace baton::scheduler
