// Who goes before whom, and how far.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

#include "scheduler/machine_test.h"

namespace baton::scheduler {
namespace {

int turns_until_done(Machine& m, SequenceId id) {
  for (int turn = 1; turn <= 1000; ++turn) {
    m.turn();
    if (std::find(m.finished.begin(), m.finished.end(), id) != m.finished.end()) return turn;
  }
  return 1000;
}

TEST(Fairness, ShortPromptsDoNotWaitForALongOne) {
  for (const QueuePolicy policy : {QueuePolicy::kFair, QueuePolicy::kFirstCome}) {
    SchedulerOptions options = small(200);
    options.policy = policy;
    Machine m(options);
    const SequenceId slow = m.add(prompt_of(320), 1);
    m.turn();
    SequenceId last{};
    for (int i = 0; i < 4; ++i) last = m.add(prompt_of(6, 1000 + 100 * i), 1);
    const bool fair = policy == QueuePolicy::kFair;
    EXPECT_EQ(turns_until_done(m, last), fair ? 3 : 21) << "24 tokens at 8 a step, or behind 19 steps of the long one";
    EXPECT_EQ(turns_until_done(m, slow), fair ? 18 : 1) << "its loss is what the others needed";
  }
}

TEST(Fairness, TheFirstPromptHasHalfOfEachStepHoweverManyShortOnesCome) {
  Machine m(small(400));
  const SequenceId slow = m.add(prompt_of(160), 1);
  int turns = 0;
  for (; turns < 100 && m.scheduler.counts().computing + (turns == 0) > 0; ++turns) {
    if (std::find(m.finished.begin(), m.finished.end(), slow) != m.finished.end()) break;
    for (int i = 0; i < 4; ++i) m.add(prompt_of(4, 1000 + 100 * turns + 10 * i), 1);
    m.turn();
  }
  EXPECT_EQ(turns, 20) << "160 tokens at 8 a step";
}

TEST(Fairness, APromptBetweenALongOneAndShortOnesHoldsItsPlaceInTheEnd) {
  Machine m(small(600));
  m.add(prompt_of(1000), 1);
  m.turn();
  const SequenceId middle = m.add(prompt_of(40, 2000), 1);
  int turns = 0;
  for (; turns < 100 && std::find(m.finished.begin(), m.finished.end(), middle) == m.finished.end(); ++turns) {
    for (int i = 0; i < 4; ++i) m.add(prompt_of(4, 3000 + 100 * turns + 10 * i), 1);
    m.turn();
  }
  EXPECT_LE(turns, 27) << "passed by 160 tokens at 8 a step, then 40 at 8 a step; the long one has the rest";
}

TEST(Fairness, WhatFitsPassesWhatDoesNotUntilThatHasBeenPassedEnough) {
  SchedulerOptions options = small(24);
  options.reserved_decode_tokens = 100;
  Machine m(options);
  m.add(prompt_of(40, 5000), 40);  // 20 of the 24 pages, for 43 turns
  m.turn();
  const SequenceId big = m.add(prompt_of(60), 1);
  const double allowed = kPassFactor * options.cost.chunk(0, 61);
  double passed = 0;
  int turns = 0;
  for (; turns < 300 && m.scheduler.sequence(big).state == SequenceState::kWaiting; ++turns) {
    const SequenceId small_one = m.add(prompt_of(8, 1000 + 10 * turns), 4);
    const Turn turn = m.turn();
    if (std::find(turn.admitted.begin(), turn.admitted.end(), small_one) != turn.admitted.end())
      passed += options.cost.chunk(0, 12);
  }
  EXPECT_GT(passed, 0);
  EXPECT_LE(passed, allowed);
  EXPECT_LE(turns, 60);
}

TEST(Fairness, HigherPriorityGoesFirstAndRetractsWhatIsLowerByTheThreshold) {
  for (const int difference : {9, 10}) {
    SchedulerOptions options = small(64);
    options.max_running_requests = 1;
    options.priorities = true;
    options.preemption_threshold = 10;
    Machine m(options);
    const SequenceId low = m.add(prompt_of(8), 20);
    m.turn();
    m.turn();
    const SequenceId later = m.add(prompt_of(8, 100), 2, {}, EntryMode::kCompute, difference - 1),
                     high = m.add(prompt_of(8, 200), 2, {}, EntryMode::kCompute, difference);
    m.run_to_idle(60);
    const bool preempted = difference == 10;
    EXPECT_EQ(m.finished, preempted ? (std::vector{high, later, low}) : (std::vector{low, high, later}));
    EXPECT_EQ(m.scheduler.counts().retractions, preempted ? 1u : 0u);
  }
}

TEST(Fairness, PoliciesOrderTheQueue) {
  // a: its prefix is cached; b: the longest output; c: the shortest prompt; d came first.
  const struct {
    const char* name;
    size_t first;
  } kCases[] = {{"fair", 0}, {"fcfs", 0}, {"lpm", 1}, {"lof", 2}, {"shortest-prefill-first", 3}};
  for (const auto& test : kCases) {
    SchedulerOptions options = small(64);
    options.max_running_requests = 1;
    options.policy = *queue_policy_of(test.name);
    Machine m(options);
    m.add(prompt_of(20), 1);
    m.run_to_idle(3);
    m.finished.clear();
    std::vector<SequenceId> ids = {m.add(prompt_of(30, 100), 2)};
    ids.push_back(m.add(prompt_of(32), 2));
    ids.push_back(m.add(prompt_of(30, 200), 9));
    ids.push_back(m.add(prompt_of(8, 300), 2));
    m.run_to_idle(60);
    EXPECT_EQ(m.finished.front(), ids[test.first]) << test.name;
  }
  EXPECT_FALSE(queue_policy_of("fifo"));
}

// Random arrivals: what is computed of later prompts before one is complete stays within what the header says.
RC_GTEST_PROP(Fairness, NobodyIsPassedByMoreThanItsOwnWorkTimesTheFactor, (uint64_t seed)) {
  Random random(seed);
  SchedulerOptions options = small(static_cast<int>(20 + random.below(60)));
  options.reserved_decode_tokens = 1000;  // no retractions: those compute a prompt anew
  options.mixed_chunk = random.below(2) == 0;
  options.max_running_requests = static_cast<int>(1 + random.below(30));
  options.chunked_prefill_size = static_cast<int64_t>(1 + random.below(60));
  options.prefix_cache = false;
  Machine m(options);
  struct Watched {
    SequenceId id;
    double limit = 0, passed = 0;
  };
  std::vector<Watched> open;  // by arrival
  const double step = options.cost.chunk(80, options.chunked_prefill_size);
  const auto rate = 1 + random.below(4);
  for (int round = 0; round < 100000 && (round < 200 || !m.scheduler.empty()); ++round) {
    for (uint64_t i = 0; round < 200 && i < random.below(rate + 1); ++i) {
      const int length = static_cast<int>(random.below(4) == 0 ? 30 + random.below(40) : 1 + random.below(8));
      const int new_tokens = static_cast<int>(1 + random.below(9));
      const SequenceId id = m.add(prompt_of(length, static_cast<int32_t>(random.below(1000))), new_tokens);
      open.push_back(
          {id, kPassFactor * (options.cost.chunk(0, length + new_tokens) + options.cost.chunk(0, length)) + step});
    }
    const Turn turn = m.turn();
    for (const kv::Segment& segment : turn.plan.segments) {
      const auto mine = std::find_if(open.begin(), open.end(),
                                     [&](const Watched& watched) { return watched.id == segment.sequence; });
      if (mine == open.end()) continue;  // generates
      const double work = options.cost.chunk(segment.begin, static_cast<int64_t>(segment.tokens.size()));
      for (auto earlier = open.begin(); earlier != mine; ++earlier) earlier->passed += work;
    }
    for (const kv::Segment& segment : turn.plan.segments) {
      if (segment.logits_rows > 0)
        std::erase_if(open, [&](const Watched& watched) { return watched.id == segment.sequence; });
    }
    for (const Watched& watched : open) RC_ASSERT(watched.passed <= watched.limit);
    RC_ASSERT(!testing::Test::HasFailure());
  }
  RC_ASSERT(m.scheduler.empty());
}

RC_GTEST_PROP(SharePrompts, EveryTokenIsInOnePieceAndTheFirstHasHalf, ()) {
  std::vector<PromptClaim> claims(*rc::gen::inRange<size_t>(1, 6));
  for (PromptClaim& claim : claims) {
    claim.work = {*rc::gen::inRange<int64_t>(0, 1000), *rc::gen::inRange<int64_t>(1, 1000)};
    claim.overdue = *rc::gen::inRange(0, 4) == 0;
  }
  const auto tokens = *rc::gen::inRange<int64_t>(1, 600);
  const int page_tokens = *rc::gen::element(1, 4, 64);
  const auto pieces = share_prompts(claims, tokens, page_tokens);
  std::vector<int64_t> at;
  at.reserve(claims.size());
  for (const PromptClaim& claim : claims) at.push_back(claim.work.begin);
  const auto overdue =
      std::find_if(claims.begin(), claims.end(), [](const PromptClaim& claim) { return claim.overdue; });
  const auto last_allowed = overdue == claims.end() ? claims.size() : static_cast<size_t>(overdue - claims.begin());
  size_t allowed_left = 0;
  for (size_t i = 0; i < claims.size(); ++i) allowed_left += i <= last_allowed ? 1 : 0;
  for (const PromptPiece& piece : pieces) {
    RC_ASSERT(piece.work.begin == at[piece.claim] && piece.work.left > 0);
    at[piece.claim] += piece.work.left;
    const PromptClaim& claim = claims[piece.claim];
    if (piece.claim > last_allowed) RC_ASSERT(allowed_left == 0);
    if (at[piece.claim] == claim.work.begin + claim.work.left && piece.claim <= last_allowed) --allowed_left;
  }
  for (size_t i = 0; i < claims.size(); ++i) RC_ASSERT(at[i] == claims[i].work.begin + claims[i].work.left);
  RC_ASSERT(pieces.front().claim == 0u);
  RC_ASSERT(2 * pieces.front().work.left >= std::min(tokens, claims.front().work.left));
}

}  // namespace
}  // namespace baton::scheduler
