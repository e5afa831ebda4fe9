// For the tests of this folder: a machine that carries out the scheduler's plans and sees when one is wrong.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/random.h"
#include "scheduler/scheduler.h"

namespace baton::scheduler {

inline uint64_t mix(uint64_t a, uint64_t b) { return Random(a * 31 + b).next(); }

inline SchedulerOptions small(int pages = 32, int dp = 1) {
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
                 EntryMode entry = EntryMode::kCompute, int priority = 0) {
    NewSequence fresh;
    fresh.id = SequenceId(++last_);
    fresh.prompt = std::move(prompt);
    fresh.max_new_tokens = max_new_tokens;
    fresh.dp_rank = group;
    fresh.entry = entry;
    fresh.priority = priority;
    left_[fresh.id] = max_new_tokens;
    scheduler.add(fresh);
    return SequenceId(last_);
  }

  // One turn: checks and computes the plan, appends tokens, finishes sequences that have all theirs.
  Turn turn() {
    const Turn turn = scheduler.next_turn();
    int64_t prompt_tokens = 0;
    std::set<SequenceId> seen;
    for (const kv::Segment& segment : turn.plan.segments) {
      check(segment);
      EXPECT_TRUE(seen.insert(segment.sequence).second) << "one segment a sequence";
      if (scheduler.sequence(segment.sequence).state == SequenceState::kComputing)
        prompt_tokens += static_cast<int64_t>(segment.tokens.size());
    }
    EXPECT_LE(prompt_tokens, scheduler.options().chunked_prefill_size);
    for (const kv::Segment& segment : turn.plan.segments) compute(segment);
    scheduler.complete(turn.plan);
    for (const kv::Segment& segment : turn.plan.segments) {
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
    kv::Segment segment{id, s.group, s.computed, {s.tokens.begin() + s.computed, s.tokens.end()}, {}, 1};
    for (const kv::PageLease& lease : s.pages) segment.pages.push_back(lease.page().value());
    compute(segment);
  }

  Scheduler scheduler;
  std::vector<SequenceId> finished;

 private:
  uint64_t& cell(const kv::Segment& segment, int64_t position) {
    const int64_t page_tokens = scheduler.options().page_tokens;
    const auto page = segment.pages.at(static_cast<size_t>(position / page_tokens));
    return kv_[static_cast<size_t>(segment.dp_rank)]
              [page * static_cast<size_t>(page_tokens) + static_cast<size_t>(position % page_tokens)];
  }

  void check(const kv::Segment& segment) {
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
    const kv::PageLedger& ledger = scheduler.ledger(segment.dp_rank);
    for (const uint32_t page : segment.pages) EXPECT_EQ(ledger.state(PageId(page)), kv::PageState::kOwned);
    for (int64_t p = segment.begin; p < end; ++p) {
      const PageId page(segment.pages[static_cast<size_t>(p / scheduler.options().page_tokens)]);
      EXPECT_EQ(ledger.references(page), 1) << "writes a page that another reads";
    }
  }

  void compute(const kv::Segment& segment) {
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

inline std::vector<int32_t> prompt_of(int length, int32_t first = 7) {
  std::vector<int32_t> prompt(static_cast<size_t>(length));
  for (int i = 0; i < length; ++i) prompt[static_cast<size_t>(i)] = first + i;
  return prompt;
}

}  // namespace baton::scheduler
