// One forward pass of an instance as plain data: what a scheduler decides and an Executor carries out.
#pragma once

#include <cstdint>
#include <vector>

#include "base/ids.h"

namespace baton::kv {

// One sequence's tokens in one step. Its KV of [0, begin) is already in `pages`; the step writes [begin, begin +
// tokens.size()).
struct Segment {
  SequenceId sequence;
  int dp_rank = 0;              // the DP group that holds the sequence
  int64_t begin = 0;            // position of tokens[0]
  std::vector<int32_t> tokens;  // never empty
  std::vector<uint32_t> pages;  // page numbers of the sequence in token order, covering begin + tokens.size()
  // Logits wanted: of the last `logits_rows` tokens of the segment (0: a chunk that does not end its prompt; 1: sample;
  // more: prompt logprobs).
  int logits_rows = 1;
};

struct StepPlan {
  std::vector<Segment> segments;  // any order; every dp group may have none
};

// Row r of segment s is at rows[s] + r, each `vocab` floats wide.
struct StepResult {
  int vocab = 0;
  std::vector<int64_t> rows;  // first row of each segment in `logits`
  std::vector<float> logits;  // (sum of logits_rows, vocab)
  [[nodiscard]] const float* row(size_t segment, int r) const { return logits.data() + (rows[segment] + r) * vocab; }
};

}  // namespace baton::kv
