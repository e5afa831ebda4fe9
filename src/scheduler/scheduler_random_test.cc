#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "scheduler/machine_test.h"

namespace baton::scheduler {
namespace {

// Random arrivals, groups, salts, aborts, holds and transfers on pools so small that retraction and eviction are
// common.
RC_GTEST_PROP(Scheduler, EveryRequestEndsAndEveryPageComesBack, (uint64_t seed)) {
  Random random(seed);
  SchedulerOptions options = small(static_cast<int>(8 + random.below(24)), static_cast<int>(1 + random.below(3)));
  options.pp = static_cast<int>(1 + random.below(3));
  options.mixed_chunk = random.below(2) == 0;
  options.prefix_cache = random.below(4) != 0;
  options.max_running_requests = static_cast<int>(1 + random.below(12));
  options.chunked_prefill_size = static_cast<int64_t>(1 + random.below(40));
  options.reserved_decode_tokens = static_cast<int>(random.below(12));
  options.policy = static_cast<QueuePolicy>(random.below(7));
  options.priorities = random.below(3) == 0;
  if (random.below(2) == 0) options.preemption_threshold = 1;
  Machine m(options, random.below(2) == 0);
  if (random.below(2) == 0) m.stop_one_in = 1 + random.below(8);
  std::set<SequenceId> held, reserved;
  std::vector<SequenceId> alive;
  // Peers may write what was granted at once, or later.
  std::set<SequenceId> filled;
  m.planned = [&](const Turn& turn) {
    for (const SequenceId id : turn.admitted) {
      const Sequence& s = m.scheduler.sequence(id);
      if (s.state != SequenceState::kReserved) continue;
      for (size_t i = static_cast<size_t>(s.cached / options.page_tokens); i < s.pages.size(); ++i)
        m.scheduler.ledger(s.group).grant(s.pages[i]);
      reserved.insert(id);
      if (random.below(2) == 0) {
        m.fill(id);
        filled.insert(id);
      }
    }
  };
  const auto settle = [&](SequenceId id) {
    const Sequence& s = m.scheduler.sequence(id);
    for (size_t i = static_cast<size_t>(s.cached / options.page_tokens); i < s.pages.size(); ++i)
      m.scheduler.ledger(s.group).settle(s.pages[i]);
  };
  const auto arrive = [&] {
    const int64_t most = m.scheduler.sequence_tokens_max();
    const auto length = static_cast<int>(1 + random.below(static_cast<uint64_t>(std::min<int64_t>(most - 1, 60))));
    const auto new_tokens =
        static_cast<int>(1 + random.below(static_cast<uint64_t>(std::min<int64_t>(most - length, 30))));
    std::optional<int> group;
    if (random.below(3) == 0) group = static_cast<int>(random.below(static_cast<uint64_t>(options.dp)));
    const EntryMode entry = static_cast<EntryMode>(random.below(3));
    const SequenceId id = m.add(prompt_of(length, static_cast<int32_t>(random.below(3))), new_tokens, group, entry,
                                static_cast<int>(random.below(3)));
    if (entry == EntryMode::kHeld) held.insert(id);
    alive.push_back(id);
  };
  const auto resolve = [&](bool all) {
    for (auto& set : {&held, &reserved}) {
      for (auto it = set->begin(); it != set->end();) {
        if (!all && random.below(3) != 0) {
          ++it;
          continue;
        }
        if (set == &held) {
          m.scheduler.release(*it);
        } else {
          if (!filled.contains(*it)) m.fill(*it);
          settle(*it);
          m.join(*it, 5);
        }
        it = set->erase(it);
      }
    }
  };
  for (int round = 0; round < 60; ++round) {
    if (random.below(2) == 0) arrive();
    resolve(false);
    if (random.below(8) == 0 && !reserved.empty()) {  // a transfer is cancelled and its writers are quiet
      const SequenceId id = *reserved.begin();
      settle(id);
      m.finish(id);
      reserved.erase(id);
    }
    m.turn();
    if (random.below(6) == 0 && !alive.empty()) {  // a client leaves, in the middle of a step or not
      const SequenceId id = alive[random.below(alive.size())];
      if (!m.ended(id) && !held.contains(id) && !reserved.contains(id)) m.finish(id);
    }
    for (int g = 0; g < options.dp; ++g) RC_ASSERT(m.scheduler.ledger(g).counts().total() == options.pages_per_group);
    const SchedulerCounts counts = m.scheduler.counts();
    RC_ASSERT(counts.computing + counts.running + counts.reserved <= options.max_running_requests);
    RC_ASSERT(!testing::Test::HasFailure());
  }
  for (int i = 0; i < 6000 && !m.scheduler.empty(); ++i) {
    resolve(true);
    m.turn();
  }
  while (m.under_way()) m.settle();
  RC_ASSERT(m.scheduler.empty());
  RC_ASSERT(!testing::Test::HasFailure());
  m.scheduler.flush_cache();
  for (int g = 0; g < options.dp; ++g) RC_ASSERT(m.scheduler.ledger(g).counts().free == options.pages_per_group);
}

}  // namespace
}  // namespace baton::scheduler
