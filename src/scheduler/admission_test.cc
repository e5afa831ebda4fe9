// Which request is let in, to which group, with which pages.
#include <gtest/gtest.h>

#include <set>

#include "scheduler/machine_test.h"

namespace baton::scheduler {
namespace {

TEST(Admission, AdmissionLeavesRoomForTheGrowthOfAll) {
  // Pages of 4 tokens. The first has 4 pages of prompt and may grow by 2; the second needs 3, and 2 to grow.
  Machine m(small(10));
  m.add(prompt_of(16), 20);
  const SequenceId second = m.add(prompt_of(12, 100), 20);
  m.turn();
  EXPECT_EQ(m.scheduler.sequence(second).state, SequenceState::kWaiting);
  Machine roomy(small(11));
  roomy.add(prompt_of(16), 20);
  const SequenceId fits = roomy.add(prompt_of(12, 100), 20);
  roomy.turn();
  EXPECT_NE(roomy.scheduler.sequence(fits).state, SequenceState::kWaiting);
}

TEST(Admission, ARequestThatDoesNotFitHoldsUpItsGroupOnly) {
  SchedulerOptions options = small(10, 2);
  options.policy = QueuePolicy::kFirstCome;
  Machine m(options);
  m.add(prompt_of(30), 2, 0);
  m.turn();
  const SequenceId blocked = m.add(prompt_of(24, 200), 2, 0), behind = m.add(prompt_of(4, 300), 2, 0),
                   other = m.add(prompt_of(4, 400), 2, 1);
  m.turn();
  EXPECT_EQ(m.scheduler.sequence(blocked).state, SequenceState::kWaiting);
  EXPECT_EQ(m.scheduler.sequence(behind).state, SequenceState::kWaiting) << "would fit, but came later";
  EXPECT_NE(m.scheduler.sequence(other).state, SequenceState::kWaiting);
  m.run_to_idle(30);
}

TEST(Admission, NewRequestsGoToTheGroupWithTheLeastWork) {
  SchedulerOptions options = small(64, 3);
  options.chunked_prefill_size = 1000;
  Machine m(options);
  const SequenceId a = m.add(prompt_of(100), 2), b = m.add(prompt_of(40, 200), 2), c = m.add(prompt_of(30, 300), 2),
                   d = m.add(prompt_of(20, 400), 2), e = m.add(prompt_of(60, 500), 2);
  m.turn();
  const auto group = [&](SequenceId id) { return m.scheduler.sequence(id).group; };
  EXPECT_EQ(std::set({group(a), group(b), group(c)}).size(), 3u);
  EXPECT_EQ(group(d), group(c));
  EXPECT_EQ(group(e), group(b));
}

TEST(Admission, ACachedPrefixAttractsTheRequest) {
  Machine m(small(64, 2));
  m.add(prompt_of(40), 1, 1);
  m.run_to_idle(5);
  const SequenceId id = m.add(prompt_of(44), 1);
  const Turn turn = m.turn();
  EXPECT_EQ(turn.plan.segments.at(0).dp_rank, 1);
  EXPECT_EQ(turn.plan.segments.at(0).begin, 40);
  EXPECT_EQ(turn.plan.segments.at(0).sequence, id);
}

TEST(Admission, HeldSequencesTakeNoPagesAndCountAsWork) {
  Machine m(small(64, 2));
  const SequenceId held = m.add(prompt_of(40), 1, {}, EntryMode::kHeld);
  const int group = m.scheduler.sequence(held).group;
  EXPECT_TRUE(m.turn().plan.segments.empty());
  EXPECT_EQ(m.scheduler.ledger(group).counts().free, 64);
  const SequenceId next = m.add(prompt_of(40, 100), 1, {}, EntryMode::kHeld);
  EXPECT_NE(m.scheduler.sequence(next).group, group) << "the held prompt is outstanding work";
  m.scheduler.release(held);
  EXPECT_EQ(m.turn().plan.segments.at(0).sequence, held);
  m.finish(next);
  m.run_to_idle(10);
}

// Where a request waits is known if it was asked for or chosen already.
TEST(Admission, WaitingIsOfAGroupWhereNoOtherWillDo) {
  SchedulerOptions options = small();
  options.dp = 2;
  Scheduler s(options);
  uint64_t id = 0;
  const auto add = [&](EntryMode entry, std::optional<int> rank) {
    NewSequence sequence;
    sequence.id = SequenceId{++id};
    sequence.prompt = prompt_of(8);
    sequence.entry = entry;
    sequence.dp_rank = rank;
    s.add(std::move(sequence));
  };
  add(EntryMode::kCompute, std::nullopt);
  EXPECT_EQ(s.bound_waiting(), (std::vector{0, 0}));
  add(EntryMode::kCompute, 1);
  add(EntryMode::kPrebuilt, 1);
  EXPECT_EQ(s.bound_waiting(), (std::vector{0, 2}));
  add(EntryMode::kHeld, std::nullopt);
  add(EntryMode::kHeld, 0);
  const std::vector<int> bound = s.bound_waiting();
  EXPECT_EQ(bound[0] + bound[1], 4);
  EXPECT_GE(bound[0], 1);
}

TEST(Admission, PrebuiltSequencesGetPagesAndRunAfterTheyJoin) {
  Machine m(small(16));
  m.add(prompt_of(8), 1);
  m.run_to_idle(3);
  const SequenceId id = m.add(prompt_of(14), 3, {}, EntryMode::kPrebuilt);
  Turn turn = m.turn();
  EXPECT_EQ(turn.admitted, std::vector{id});
  EXPECT_TRUE(turn.plan.segments.empty());
  const Sequence& s = m.scheduler.sequence(id);
  EXPECT_EQ(s.cached, 8);
  ASSERT_EQ(s.pages.size(), 4u);
  kv::PageLedger& ledger = m.scheduler.ledger(0);
  for (size_t i = 2; i < 4; ++i) ledger.grant(s.pages[i]);
  EXPECT_TRUE(m.turn().plan.segments.empty());
  m.fill(id);
  for (size_t i = 2; i < 4; ++i) ledger.settle(s.pages[i]);
  m.join(id, 42);
  turn = m.turn();
  EXPECT_EQ(turn.plan.segments.at(0).begin, 14);
  ASSERT_EQ(turn.plan.segments.at(0).tokens.size(), 1u);
  EXPECT_EQ(turn.plan.segments.at(0).tokens.front(), 42);
  m.run_to_idle(5);
}

TEST(Admission, AnAbortedPrebuiltSequenceLeavesNothingInTheTree) {
  Machine m(small(16));
  const SequenceId id = m.add(prompt_of(12), 3, {}, EntryMode::kPrebuilt);
  m.turn();
  for (const kv::PageLease& lease : m.scheduler.sequence(id).pages) m.scheduler.ledger(0).grant(lease);
  { const auto pages = m.finish(id); }  // granted pages without a lease
  EXPECT_EQ(m.scheduler.ledger(0).counts().quarantined, 3);
  EXPECT_EQ(m.scheduler.ledger(0).counts().cached, 0);
}

// A request that finds no room is not tried again until something that matters is different.
TEST(Admission, ABlockedQueueIsTriedAgainWhenPagesComeBack) {
  for (const bool kept : {false, true}) {
    Machine m(small(16));
    m.add(prompt_of(24), 30);                               // 6 pages, and 2 for 8 tokens; it grows all the time
    const SequenceId other = m.add(prompt_of(16, 100), 8);  // 4, and 2
    m.turn();
    m.turn();
    const SequenceId blocked = m.add(prompt_of(20, 200), 4);
    const auto turns_and_rounds = [&m](int turns) {
      const uint64_t before = m.scheduler.counts().admission_rounds;
      for (int i = 0; i < turns; ++i) m.turn();
      return m.scheduler.counts().admission_rounds - before;
    };
    turns_and_rounds(2);
    ASSERT_EQ(m.scheduler.counts().waiting, 1);
    EXPECT_EQ(turns_and_rounds(3), 0u);
    auto pages = m.finish(other);  // which a peer may still read
    if (!kept) pages.clear();
    EXPECT_EQ(turns_and_rounds(1), 1u);
    EXPECT_EQ(m.scheduler.counts().waiting, kept ? 1 : 0);
    if (!kept) continue;
    EXPECT_EQ(turns_and_rounds(2), 0u);
    pages.clear();
    m.turn();
    EXPECT_EQ(m.scheduler.sequence(blocked).state, SequenceState::kComputing);
  }
}

// What is computed of prompts makes room in the next step for more of them.
TEST(Admission, ABlockedQueueIsTriedAgainAsPromptsAreComputed) {
  Machine m(small(64));
  const SequenceId first = m.add(prompt_of(40), 2), second = m.add(prompt_of(48, 100), 2);
  while (m.scheduler.sequence(second).state == SequenceState::kWaiting) ASSERT_FALSE(m.turn().plan.segments.empty());
  EXPECT_FALSE(m.ended(first)) << "its last chunk leaves room in the step";
}

}  // namespace
}  // namespace baton::scheduler
