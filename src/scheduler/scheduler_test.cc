// What each step computes.
#include "scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <map>

#include "scheduler/machine_test.h"

namespace baton::scheduler {
namespace {

TEST(Scheduler, ChunksEndAtPagesAndThePromptIsFollowedByItsTokens) {
  Machine m(small());
  const SequenceId id = m.add(prompt_of(37), 3);
  EXPECT_EQ(m.turn().plan.segments.at(0).tokens.size(), 16u);
  EXPECT_EQ(m.turn().plan.segments.at(0).logits_rows, 0);
  const Turn last = m.turn();
  EXPECT_EQ(last.plan.segments.at(0).tokens.size(), 5u);
  EXPECT_EQ(last.plan.segments.at(0).logits_rows, 1);
  EXPECT_EQ(m.turn().plan.segments.at(0).tokens.size(), 1u);
  m.turn();
  EXPECT_EQ(m.finished, std::vector{id});
}

TEST(Scheduler, PromptsGoFirstUnlessStepsAreMixed) {
  for (const bool mixed : {false, true}) {
    SchedulerOptions options = small();
    options.mixed_chunk = mixed;
    Machine m(options);
    const SequenceId first = m.add(prompt_of(4), 10);
    m.turn();
    m.add(prompt_of(20, 50), 2);
    const Turn turn = m.turn();
    ASSERT_EQ(turn.plan.segments.size(), mixed ? 2u : 1u);
    EXPECT_EQ(turn.plan.segments[0].sequence == first, mixed);
    EXPECT_EQ(turn.plan.segments.back().tokens.size(), mixed ? 12u : 16u);  // 15 of the budget, and a whole page
  }
}

TEST(Scheduler, RunningSequencesAreNotStarvedByPrompts) {
  SchedulerOptions options = small(64);
  options.prompt_steps_in_row_max = 3;
  Machine m(options);
  const SequenceId running = m.add(prompt_of(4), 8);
  m.turn();
  int served = 0;
  for (int i = 0; i < 16; ++i) {
    m.add(prompt_of(16, 100 + 20 * i), 1);  // always a prompt that fills a step
    for (const kv::Segment& segment : m.turn().plan.segments) served += segment.sequence == running;
  }
  EXPECT_EQ(served, 4);
}

TEST(Scheduler, PrefixIsReusedButOneTokenIsComputed) {
  Machine m(small());
  m.add(prompt_of(16), 1);
  m.run_to_idle(2);
  const SequenceId again = m.add(prompt_of(16), 1);
  const Turn turn = m.turn();
  EXPECT_EQ(turn.plan.segments.at(0).begin, 12);
  EXPECT_EQ(turn.plan.segments.at(0).sequence, again);
  EXPECT_EQ(m.scheduler.counts().cached_tokens, 12u);
  EXPECT_EQ(m.scheduler.counts().prompt_tokens, 32u);
}

TEST(Scheduler, PrefixIsNotReusedAcrossSaltsNorWhenOffNorBeforeWantedLogits) {
  for (const int variant : {0, 1, 2}) {
    SchedulerOptions options = small();
    options.prefix_cache = variant != 1;
    Scheduler scheduler(options);
    for (uint64_t i = 1; i <= 2; ++i) {
      NewSequence fresh{SequenceId(i), prompt_of(16), 1, {}, "", -1, EntryMode::kCompute};
      if (i == 2 && variant == 0) fresh.cache_salt = "another tenant";
      if (i == 2 && variant == 2) fresh.logits_from = 5;
      scheduler.add(fresh);
      const Turn turn = scheduler.next_turn();
      EXPECT_EQ(turn.plan.segments.at(0).begin, i == 2 && variant == 2 ? 4 : 0) << variant;
      EXPECT_EQ(turn.plan.segments.at(0).logits_rows, i == 2 && variant == 2 ? 11 : 1) << variant;
      scheduler.complete(turn.plan);
      scheduler.finish(SequenceId(i));
    }
  }
}

TEST(Scheduler, RowsOfLogitsAreBoundedAStep) {
  SchedulerOptions options = small();
  options.logits_rows_max = 6;
  Scheduler scheduler(options);
  scheduler.add({SequenceId(1), prompt_of(20), 1, {}, "", 3, EntryMode::kCompute});
  scheduler.add({SequenceId(2), prompt_of(20, 90), 1, {}, "", 0, EntryMode::kCompute});
  std::map<SequenceId, int> rows;
  for (int i = 0; i < 40 && !scheduler.empty(); ++i) {
    const Turn turn = scheduler.next_turn();
    int now = 0;
    for (const kv::Segment& s : turn.plan.segments) {
      now += s.logits_rows;
      rows[s.sequence] += s.logits_rows;
    }
    EXPECT_LE(now, 7);  // the last row of a prompt is sampled from and always there
    scheduler.complete(turn.plan);
    for (const kv::Segment& s : turn.plan.segments) {
      if (scheduler.sequence(s.sequence).state == SequenceState::kDone) scheduler.finish(s.sequence);
    }
  }
  EXPECT_EQ(rows[SequenceId(1)], 17);
  EXPECT_EQ(rows[SequenceId(2)], 20);
}

TEST(Scheduler, NoGroupIdlesBehindANeighboursLongPrompt) {
  Machine m(small(64, 2));
  m.add(prompt_of(200), 1, 0);
  m.turn();
  const SequenceId second = m.add(prompt_of(20, 300), 1);
  const Turn turn = m.turn();
  ASSERT_EQ(turn.plan.segments.size(), 2u) << "the step's budget is spoken for, but group 1 has nothing to do";
  EXPECT_EQ(turn.plan.segments[1].sequence, second);
  EXPECT_NEAR(static_cast<double>(turn.plan.segments[1].tokens.size()), 8, 4);
}

TEST(Scheduler, TheYoungestIsRetractedAndResumesFromItsCachedPrefix) {
  SchedulerOptions options = small(8);
  options.reserved_decode_tokens = 1;  // so that growth is under-reserved
  Machine m(options);
  const SequenceId old = m.add(prompt_of(8), 20), young = m.add(prompt_of(8, 100), 20);
  std::vector<SequenceId> retracted;
  for (int i = 0; i < 200 && !m.scheduler.empty(); ++i) {
    const Turn turn = m.turn();
    retracted.insert(retracted.end(), turn.retracted.begin(), turn.retracted.end());
  }
  ASSERT_FALSE(retracted.empty());
  for (const SequenceId id : retracted) EXPECT_EQ(id, young);
  EXPECT_EQ(m.finished, (std::vector{old, young}));
  EXPECT_EQ(m.scheduler.counts().retractions, retracted.size());
}

TEST(Scheduler, SequencesThatComputedTheSamePromptShareItsPagesAfterwards) {
  SchedulerOptions options = small(32);
  options.chunked_prefill_size = 100;
  Machine m(options);
  const SequenceId a = m.add(prompt_of(10), 5), b = m.add(prompt_of(14), 5);
  m.turn();  // both in one step, so neither finds the other's prefix
  const Sequence& sa = m.scheduler.sequence(a);
  const Sequence& sb = m.scheduler.sequence(b);
  ASSERT_EQ(sb.computed, 14);
  EXPECT_EQ(sa.pages[1].page(), sb.pages[1].page());
  EXPECT_NE(sa.pages[2].page(), sb.pages[2].page());
  EXPECT_EQ(m.scheduler.ledger(0).counts().free, 32 - 3 - 2);
  m.run_to_idle(10);
}

TEST(Scheduler, ALoneSequenceWaitsForPagesThatOthersPin) {
  SchedulerOptions options = small(4);
  options.reserved_decode_tokens = 1;
  Machine m(options);
  m.add(prompt_of(8), 1);
  m.turn();
  const SequenceId id = m.add(prompt_of(8, 50), 8);
  m.turn();
  auto pinned = m.scheduler.ledger(0).reserve(m.scheduler.ledger(0).counts().free);
  m.scheduler.flush_cache();
  auto more = m.scheduler.ledger(0).reserve(m.scheduler.ledger(0).counts().free);
  EXPECT_TRUE(m.turn().plan.segments.empty());
  EXPECT_EQ(m.scheduler.sequence(id).state, SequenceState::kRunning);
  EXPECT_EQ(m.scheduler.counts().retractions, 0u);
  pinned->clear();
  more->clear();
  m.run_to_idle(10);
}

}  // namespace
}  // namespace baton::scheduler
