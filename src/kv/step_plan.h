// One forward pass of an instance as plain data: what a scheduler decides and an Executor carries out.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"

namespace baton::kv {

// One sequence's tokens in one step. Its KV of [0, begin) is already in `pages`; the step writes [begin, begin +
// tokens.size()). Tokens and pages are borrowed from whoever planned the step.
struct Segment {
  SequenceId sequence;
  int dp_rank = 0;                  // the DP group that holds the sequence
  int64_t begin = 0;                // position of tokens[0]
  std::span<const int32_t> tokens;  // never empty
  std::span<const uint32_t> pages;  // page numbers of the sequence in token order, covering begin + tokens.size()
  // >= 0: the last of `tokens` is not known yet; it is what the step before this one draws for its segment of that
  // number. What stands in its place is not read.
  int drawn_by = -1;
  // Logits wanted: of the last `logits_rows` tokens of the segment (0: a chunk that does not end its prompt; 1: sample;
  // more: prompt logprobs).
  int logits_rows = 1;
};

struct StepPlan {
  std::vector<Segment> segments;  // any order; every dp group may have none
};

}  // namespace baton::kv
