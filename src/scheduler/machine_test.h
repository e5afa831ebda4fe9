// For the tests of this folder: a machine that carries out the scheduler's plans and sees when one is wrong.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/random.h"
#include "kv/plan_testing.h"
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
// what is not its own, or write what another reads, shows at once. ahead: a step is carried out after the next one is
// planned, as late as may be; in a pipeline after as many as there are stages.
class Machine {
 public:
  explicit Machine(const SchedulerOptions& options, bool ahead = false) : scheduler(options), ahead_(ahead) {
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
    text_[fresh.id] = fresh.prompt;
    scheduler.add(fresh);
    return SequenceId(last_);
  }

  // One turn: checks and computes the plan, appends tokens, finishes sequences that have all theirs.
  Turn turn() {
    while (waits_ && !under_way_.empty()) settle();
    const Turn turn = keep(scheduler.next_turn());
    waits_ = turn.waits_for_steps || turn.plan.segments.empty();
    int64_t prompt_tokens = 0;
    std::set<SequenceId> seen;
    for (const kv::Segment& segment : turn.plan.segments) {
      check(segment);
      EXPECT_TRUE(seen.insert(segment.sequence).second) << "one segment a sequence";
      if (scheduler.sequence(segment.sequence).state == SequenceState::kComputing && segment.drawn_by < 0)
        prompt_tokens += static_cast<int64_t>(segment.tokens.size());
    }
    EXPECT_LE(prompt_tokens, scheduler.options().chunked_prefill_size);
    std::vector<bool> draws;
    for (const kv::Segment& segment : turn.plan.segments)
      draws.push_back(scheduler.sequence(segment.sequence).left() == 0);
    scheduler.audit();
    if (planned) planned(turn);
    if (turn.plan.segments.empty() || under_way_.size() + 1 == static_cast<size_t>(scheduler.steps_max())) settle();
    if (!turn.plan.segments.empty()) {
      under_way_.emplace_back(turn.plan, std::move(draws));
      if (!ahead_) settle();
    }
    return turn;
  }

  // Carries out the oldest step under way.
  void settle() {
    if (under_way_.empty()) return;
    const auto [plan, draws] = std::move(under_way_.front());
    under_way_.pop_front();
    std::map<SequenceId, int32_t> drawn;
    for (size_t i = 0; i < plan.segments.size(); ++i) {
      kv::Segment segment = plan.segments[i];
      std::vector<int32_t> text = text_.at(segment.sequence);
      if (segment.drawn_by >= 0) {
        text.resize(static_cast<size_t>(segment.begin));
        text.push_back(drawn_.at(segment.sequence));
      }
      execute(segment, text);
      if (draws[i]) drawn[segment.sequence] = static_cast<int32_t>(mix(segment.sequence.value(), text.size()) % 3);
    }
    drawn_ = drawn;
    scheduler.complete(plan);
    scheduler.audit();
    for (const auto& [id, token] : drawn) {
      if (!ended_.contains(id)) next_token(id, token);
    }
  }

  [[nodiscard]] bool under_way() const { return !under_way_.empty(); }

  // The request ends, whatever is under way.
  std::vector<kv::PageLease> finish(SequenceId id) {
    ended_.insert(id);
    return scheduler.finish(id);
  }
  [[nodiscard]] bool ended(SequenceId id) const { return ended_.contains(id); }

  void run_to_idle(int turns_max) {
    for (int i = 0; i < turns_max && !scheduler.empty(); ++i) turn();
    EXPECT_TRUE(scheduler.empty()) << "still waiting after " << turns_max << " turns";
  }

  // What a peer does: writes the prompt of a reserved sequence.
  void fill(SequenceId id) {
    const Sequence& s = scheduler.sequence(id);
    execute({.sequence = id,
             .dp_rank = s.group,
             .begin = s.computed,
             .tokens = std::span(s.tokens).subspan(static_cast<size_t>(s.computed)),
             .pages = s.page_numbers},
            s.tokens);
  }
  void join(SequenceId id, int32_t token) {
    scheduler.join(id, token);
    text_[id].push_back(token);
  }

  Scheduler scheduler;
  std::vector<SequenceId> finished;
  std::function<void(const Turn&)> planned;  // told of each turn before the step under way is carried out
  uint64_t stop_one_in = 0;                  // tokens are stop tokens; 0: none

 private:
  // For who looks at it after the scheduler went on.
  Turn keep(Turn turn) {
    kept_.emplace_back(turn.plan);
    turn.plan = kept_.back().plan();
    return turn;
  }

  uint64_t& cell(const kv::Segment& segment, int64_t position) {
    const int64_t page_tokens = scheduler.options().page_tokens;
    const auto page = segment.pages[static_cast<size_t>(position / page_tokens)];
    return kv_[static_cast<size_t>(segment.dp_rank)]
              [page * static_cast<size_t>(page_tokens) + static_cast<size_t>(position % page_tokens)];
  }

  void check(const kv::Segment& segment) {
    const Sequence& s = scheduler.sequence(segment.sequence);
    const auto end = segment.begin + static_cast<int64_t>(segment.tokens.size());
    ASSERT_FALSE(segment.tokens.empty());
    ASSERT_EQ(segment.begin, s.planned - static_cast<int64_t>(segment.tokens.size()));
    ASSERT_LE(end, s.size());
    ASSERT_EQ(segment.pages.size(), s.pages.size());
    for (size_t i = 0; i < s.pages.size(); ++i) ASSERT_EQ(segment.pages[i], s.pages[i].page().value());
    ASSERT_GE(static_cast<int64_t>(segment.pages.size()) * scheduler.options().page_tokens, end);
    EXPECT_EQ(segment.logits_rows >= 1, end == s.size() || (s.logits_from >= 0 && end > s.logits_from));
    EXPECT_EQ(segment.dp_rank, s.wanted_group.value_or(segment.dp_rank));
    const kv::PageLedger& ledger = scheduler.ledger(segment.dp_rank);
    for (const uint32_t page : segment.pages) EXPECT_EQ(ledger.state(PageId(page)), kv::PageState::kOwned);
    for (int64_t p = segment.begin; p < end; ++p) {
      const PageId page(segment.pages[static_cast<size_t>(p / scheduler.options().page_tokens)]);
      EXPECT_EQ(ledger.references(page), 1) << "writes a page that another reads";
    }
  }

  void execute(const kv::Segment& segment, const std::vector<int32_t>& text) {
    const auto end = segment.begin + static_cast<int64_t>(segment.tokens.size());
    ASSERT_GE(static_cast<int64_t>(text.size()), end);
    uint64_t hash = 1;
    for (int64_t p = 0; p < end; ++p) {
      hash = mix(hash, static_cast<uint64_t>(text[static_cast<size_t>(p)]));
      if (p >= segment.begin) {
        cell(segment, p) = hash;
      } else {
        ASSERT_EQ(cell(segment, p), hash)
            << "position " << p << " of sequence " << segment.sequence.value() << " holds something else";
      }
    }
  }

  void next_token(SequenceId id, int32_t token) {
    text_[id].push_back(token);
    const bool stops = stop_one_in > 0 && mix(id.value() + 1, text_[id].size()) % stop_one_in == 0;
    if (--left_[id] <= 0 || stops) {
      finish(id);
      finished.push_back(id);
    } else {
      scheduler.append(id, token);
    }
  }

  const bool ahead_;
  bool waits_ = false;
  // Plans, and of each segment whether it is the last of what its sequence has, so that a token is drawn.
  std::deque<std::pair<kv::StepPlan, std::vector<bool>>> under_way_;
  std::map<SequenceId, int32_t> drawn_;  // by the step before
  std::set<SequenceId> ended_;
  std::map<SequenceId, std::vector<int32_t>> text_;
  std::vector<std::vector<uint64_t>> kv_;  // (group, page and token)
  std::deque<kv::KeptPlan> kept_;
  std::map<SequenceId, int> left_;
  uint64_t last_ = 0;
};

inline std::vector<int32_t> prompt_of(int length, int32_t first = 7) {
  std::vector<int32_t> prompt(static_cast<size_t>(length));
  for (int i = 0; i < length; ++i) prompt[static_cast<size_t>(i)] = first + i;
  return prompt;
}

}  // namespace baton::scheduler
