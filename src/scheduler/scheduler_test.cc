#include "scheduler/scheduler.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/random.h"

namespace baton {
namespace {

uint64_t mix(uint64_t a, uint64_t b) { return Random(a * 31 + b).next(); }

SchedulerOptions small(int pages = 32, int dp = 1) {
  SchedulerOptions options;
  options.dp = dp;
  options.pages_per_group = pages;
  options.page_tokens = 4;
  options.chunked_prefill_size = 16;
  options.reserved_decode_tokens = 8;
  return options;
}

// Carries out plans on pages that hold, for each token, a hash of the prompt up to it. A plan that lets a sequence read
// what is not its own, or write what another reads, shows at once.
class Machine {
 public:
  explicit Machine(const SchedulerOptions& options) : scheduler(options) {
    kv_.resize(static_cast<size_t>(options.dp),
               std::vector<uint64_t>(static_cast<size_t>(options.pages_per_group * options.page_tokens), 0));
  }

  SequenceId add(std::vector<int32_t> prompt, int max_new_tokens, std::optional<int> group = {},
                 Entry entry = Entry::kCompute) {
    NewSequence fresh;
    fresh.id = SequenceId(++last_);
    fresh.prompt = std::move(prompt);
    fresh.max_new_tokens = max_new_tokens;
    fresh.dp_rank = group;
    fresh.entry = entry;
    left_[fresh.id] = max_new_tokens;
    scheduler.add(fresh);
    return SequenceId(last_);
  }

  // One turn: checks and computes the plan, appends tokens, finishes sequences that have all theirs.
  Turn turn() {
    const Turn turn = scheduler.next_turn();
    int64_t prompt_tokens = 0;
    std::set<SequenceId> seen;
    for (const Segment& segment : turn.plan.segments) {
      check(segment);
      EXPECT_TRUE(seen.insert(segment.sequence).second) << "one segment a sequence";
      if (scheduler.sequence(segment.sequence).state == SequenceState::kComputing)
        prompt_tokens += static_cast<int64_t>(segment.tokens.size());
    }
    EXPECT_LE(prompt_tokens, scheduler.options().chunked_prefill_size);
    for (const Segment& segment : turn.plan.segments) compute(segment);
    scheduler.complete(turn.plan);
    for (const Segment& segment : turn.plan.segments) {
      if (scheduler.sequence(segment.sequence).state == SequenceState::kDone) next_token(segment.sequence);
    }
    return turn;
  }

  void run_to_idle(int turns_max) {
    for (int i = 0; i < turns_max && !scheduler.empty(); ++i) turn();
    EXPECT_TRUE(scheduler.empty()) << "still waiting after " << turns_max << " turns";
  }

  // What a peer does: writes the prompt of a reserved sequence.
  void fill(SequenceId id) {
    const Sequence& s = scheduler.sequence(id);
    Segment segment{id, s.group, s.computed, {s.tokens.begin() + s.computed, s.tokens.end()}, {}, 1};
    for (const PageLease& lease : s.pages) segment.pages.push_back(lease.page().value());
    compute(segment);
  }

  Scheduler scheduler;
  std::vector<SequenceId> finished;

 private:
  uint64_t& cell(const Segment& segment, int64_t position) {
    const int64_t page_tokens = scheduler.options().page_tokens;
    const auto page = segment.pages.at(static_cast<size_t>(position / page_tokens));
    return kv_[static_cast<size_t>(segment.dp_rank)]
              [page * static_cast<size_t>(page_tokens) + static_cast<size_t>(position % page_tokens)];
  }

  void check(const Segment& segment) {
    const Sequence& s = scheduler.sequence(segment.sequence);
    const auto end = segment.begin + static_cast<int64_t>(segment.tokens.size());
    ASSERT_FALSE(segment.tokens.empty());
    ASSERT_EQ(segment.begin, s.computed);
    ASSERT_LE(end, s.size());
    ASSERT_GE(static_cast<int64_t>(segment.pages.size()) * scheduler.options().page_tokens, end);
    EXPECT_EQ(segment.logits_rows >= 1, end == s.size() || (s.logits_from >= 0 && end > s.logits_from));
    EXPECT_EQ(segment.dp_rank, s.wanted_group.value_or(segment.dp_rank));
    uint64_t hash = 1;
    for (int64_t p = 0; p < segment.begin; ++p) {
      hash = mix(hash, static_cast<uint64_t>(s.tokens[static_cast<size_t>(p)]));
      ASSERT_EQ(cell(segment, p), hash) << "position " << p << " of sequence " << s.id.value()
                                        << " holds something else";
    }
    const PageLedger& ledger = scheduler.ledger(segment.dp_rank);
    for (const uint32_t page : segment.pages) EXPECT_EQ(ledger.state(PageId(page)), PageState::kOwned);
    for (int64_t p = segment.begin; p < end; ++p) {
      const PageId page(segment.pages[static_cast<size_t>(p / scheduler.options().page_tokens)]);
      EXPECT_EQ(ledger.references(page), 1) << "writes a page that another reads";
    }
  }

  void compute(const Segment& segment) {
    const Sequence& s = scheduler.sequence(segment.sequence);
    uint64_t hash = 1;
    for (int64_t p = 0; p < segment.begin + static_cast<int64_t>(segment.tokens.size()); ++p) {
      hash = mix(hash, static_cast<uint64_t>(s.tokens[static_cast<size_t>(p)]));
      if (p >= segment.begin) cell(segment, p) = hash;
    }
  }

  void next_token(SequenceId id) {
    if (--left_[id] <= 0) {
      scheduler.finish(id);
      finished.push_back(id);
    } else {
      scheduler.append(id, static_cast<int32_t>(mix(id.value(), static_cast<uint64_t>(left_[id])) % 3));
    }
  }

  std::vector<std::vector<uint64_t>> kv_;  // (group, page and token)
  std::map<SequenceId, int> left_;
  uint64_t last_ = 0;
};

std::vector<int32_t> prompt_of(int length, int32_t first = 7) {
  std::vector<int32_t> prompt(static_cast<size_t>(length));
  for (int i = 0; i < length; ++i) prompt[static_cast<size_t>(i)] = first + i;
  return prompt;
}

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
    for (const Segment& segment : m.turn().plan.segments) served += segment.sequence == running;
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
      NewSequence fresh{SequenceId(i), prompt_of(16), 1, {}, "", -1, Entry::kCompute};
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
  scheduler.add({SequenceId(1), prompt_of(20), 1, {}, "", 3, Entry::kCompute});
  scheduler.add({SequenceId(2), prompt_of(20, 90), 1, {}, "", 0, Entry::kCompute});
  std::map<SequenceId, int> rows;
  for (int i = 0; i < 40 && !scheduler.empty(); ++i) {
    const Turn turn = scheduler.next_turn();
    int now = 0;
    for (const Segment& s : turn.plan.segments) {
      now += s.logits_rows;
      rows[s.sequence] += s.logits_rows;
    }
    EXPECT_LE(now, 7);  // the last row of a prompt is sampled from and always there
    scheduler.complete(turn.plan);
    for (const Segment& s : turn.plan.segments) {
      if (scheduler.sequence(s.sequence).state == SequenceState::kDone) scheduler.finish(s.sequence);
    }
  }
  EXPECT_EQ(rows[SequenceId(1)], 17);
  EXPECT_EQ(rows[SequenceId(2)], 20);
}

TEST(Scheduler, AdmissionLeavesRoomForTheGrowthOfAll) {
  // Pages of 4 tokens. The first has 17 tokens after its first step and may grow by 8, so 7 pages; the second needs 3,
  // and 2 to grow.
  Machine m(small(11));
  m.add(prompt_of(16), 20);
  const SequenceId second = m.add(prompt_of(12, 100), 20);
  m.turn();
  m.turn();
  EXPECT_EQ(m.scheduler.sequence(second).state, SequenceState::kWaiting);
  Machine roomy(small(12));
  roomy.add(prompt_of(16), 20);
  const SequenceId fits = roomy.add(prompt_of(12, 100), 20);
  roomy.turn();
  roomy.turn();
  EXPECT_NE(roomy.scheduler.sequence(fits).state, SequenceState::kWaiting);
}

TEST(Scheduler, ARequestThatDoesNotFitHoldsUpItsGroupOnly) {
  Machine m(small(10, 2));
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

TEST(Scheduler, NewRequestsGoToTheGroupWithTheLeastWork) {
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

TEST(Scheduler, ACachedPrefixAttractsTheRequest) {
  Machine m(small(64, 2));
  m.add(prompt_of(40), 1, 1);
  m.run_to_idle(5);
  const SequenceId id = m.add(prompt_of(44), 1);
  const Turn turn = m.turn();
  EXPECT_EQ(turn.plan.segments.at(0).dp_rank, 1);
  EXPECT_EQ(turn.plan.segments.at(0).begin, 40);
  EXPECT_EQ(turn.plan.segments.at(0).sequence, id);
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

TEST(Scheduler, HeldSequencesTakeNoPagesAndCountAsWork) {
  Machine m(small(64, 2));
  const SequenceId held = m.add(prompt_of(40), 1, {}, Entry::kHeld);
  const int group = m.scheduler.sequence(held).group;
  EXPECT_TRUE(m.turn().plan.segments.empty());
  EXPECT_EQ(m.scheduler.ledger(group).counts().free, 64);
  const SequenceId next = m.add(prompt_of(40, 100), 1, {}, Entry::kHeld);
  EXPECT_NE(m.scheduler.sequence(next).group, group) << "the held prompt is outstanding work";
  m.scheduler.release(held);
  EXPECT_EQ(m.turn().plan.segments.at(0).sequence, held);
  m.scheduler.finish(next);
  m.run_to_idle(10);
}

TEST(Scheduler, PrebuiltSequencesGetPagesAndRunAfterTheyJoin) {
  Machine m(small(16));
  m.add(prompt_of(8), 1);
  m.run_to_idle(3);
  const SequenceId id = m.add(prompt_of(14), 3, {}, Entry::kPrebuilt);
  Turn turn = m.turn();
  EXPECT_EQ(turn.admitted, std::vector{id});
  EXPECT_TRUE(turn.plan.segments.empty());
  const Sequence& s = m.scheduler.sequence(id);
  EXPECT_EQ(s.cached, 8);
  ASSERT_EQ(s.pages.size(), 4u);
  PageLedger& ledger = m.scheduler.ledger(0);
  for (size_t i = 2; i < 4; ++i) ledger.grant(s.pages[i]);
  EXPECT_TRUE(m.turn().plan.segments.empty());
  m.fill(id);
  for (size_t i = 2; i < 4; ++i) ledger.settle(s.pages[i]);
  m.scheduler.join(id, 42);
  turn = m.turn();
  EXPECT_EQ(turn.plan.segments.at(0).begin, 14);
  EXPECT_EQ(turn.plan.segments.at(0).tokens, std::vector<int32_t>{42});
  m.run_to_idle(5);
}

TEST(Scheduler, AnAbortedPrebuiltSequenceLeavesNothingInTheTree) {
  Machine m(small(16));
  const SequenceId id = m.add(prompt_of(12), 3, {}, Entry::kPrebuilt);
  m.turn();
  for (const PageLease& lease : m.scheduler.sequence(id).pages) m.scheduler.ledger(0).grant(lease);
  { const auto pages = m.scheduler.finish(id); }  // granted pages without a lease
  EXPECT_EQ(m.scheduler.ledger(0).counts().quarantined, 3);
  EXPECT_EQ(m.scheduler.ledger(0).counts().cached, 0);
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

// Random arrivals, groups, salts, aborts, holds and transfers on pools so small that retraction and eviction are
// common.
RC_GTEST_PROP(Scheduler, EveryRequestEndsAndEveryPageComesBack, (uint64_t seed)) {
  Random random(seed);
  SchedulerOptions options = small(static_cast<int>(8 + random.below(24)), static_cast<int>(1 + random.below(3)));
  options.mixed_chunk = random.below(2) == 0;
  options.prefix_cache = random.below(4) != 0;
  options.max_running_requests = static_cast<int>(1 + random.below(12));
  options.chunked_prefill_size = static_cast<int64_t>(1 + random.below(40));
  options.reserved_decode_tokens = static_cast<int>(random.below(12));
  Machine m(options);
  std::set<SequenceId> held, reserved;
  const auto step = [&] {
    const Turn turn = m.turn();
    for (const SequenceId id : turn.admitted) {
      const bool over = std::find(m.finished.begin(), m.finished.end(), id) != m.finished.end();
      if (over || m.scheduler.sequence(id).state != SequenceState::kReserved) continue;
      const Sequence& s = m.scheduler.sequence(id);
      for (size_t i = static_cast<size_t>(s.cached / options.page_tokens); i < s.pages.size(); ++i)
        m.scheduler.ledger(s.group).grant(s.pages[i]);
      reserved.insert(id);
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
    const Entry entry = static_cast<Entry>(random.below(3));
    const SequenceId id = m.add(prompt_of(length, static_cast<int32_t>(random.below(3))), new_tokens, group, entry);
    if (entry == Entry::kHeld) held.insert(id);
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
          m.fill(*it);
          settle(*it);
          m.scheduler.join(*it, 5);
        }
        it = set->erase(it);
      }
    }
  };
  std::vector<SequenceId> all;
  for (int round = 0; round < 60; ++round) {
    if (random.below(2) == 0) arrive();
    resolve(false);
    if (random.below(8) == 0 && !reserved.empty()) {  // a transfer is cancelled and its writers are quiet
      const SequenceId id = *reserved.begin();
      settle(id);
      m.scheduler.finish(id);
      reserved.erase(id);
    }
    step();
    for (int g = 0; g < options.dp; ++g) RC_ASSERT(m.scheduler.ledger(g).counts().total() == options.pages_per_group);
    const SchedulerCounts counts = m.scheduler.counts();
    RC_ASSERT(counts.computing + counts.running + counts.reserved <= options.max_running_requests);
    RC_ASSERT(!testing::Test::HasFailure());
  }
  for (int i = 0; i < 6000 && !m.scheduler.empty(); ++i) {
    resolve(true);
    step();
  }
  RC_ASSERT(m.scheduler.empty());
  RC_ASSERT(!testing::Test::HasFailure());
  m.scheduler.flush_cache();
  for (int g = 0; g < options.dp; ++g) RC_ASSERT(m.scheduler.ledger(g).counts().free == options.pages_per_group);
}

}  // namespace
}  // namespace baton
