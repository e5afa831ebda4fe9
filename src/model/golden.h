// Golden logits: what a reference implementation computed for a model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::model {

struct GoldenRow {
  std::vector<int32_t> ids;  // of the tokens whose logits are stated; empty: all of the vocabulary
  std::vector<float> logits;
  std::optional<double> logsumexp;
};

// Row 0 is of the last prompt token, row i after feeding greedy_ids[i - 1].
struct GoldenCase {
  std::vector<int32_t> prompt_ids;  // never empty
  std::vector<int32_t> greedy_ids;  // at least rows.size() - 1
  std::vector<GoldenRow> rows;      // never empty
};

// Reads both forms: cases[].{prompt_ids, greedy_ids, logits_per_step: [[...]]} and
// cases[].{prompt_ids, greedy_ids, top8_per_step: [{ids, logits, logsumexp}]}. Token ids and row lengths are checked
// against `vocab`.
Result<std::vector<GoldenCase>> read_golden(const std::string& path, int vocab);

}  // namespace baton::model
