// Holds a model, as this machine computes it in some layout, against golden logits: `baton verify`.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "model/executor.h"

namespace baton::model {

struct VerifyOptions {
  ExecutorOptions executor;       // model_path and all that shapes the computation
  std::string golden_path;        // golden.h
  int chunk_tokens = 0;           // of a prompt in one step; 0: the whole prompt
  int64_t prompt_tokens_max = 0;  // leaves out longer cases; 0: none
  // Largest relative error that passes; 0: 1e-4 if arithmetic and KV are float32, 3e-2 if one of them is bfloat16,
  // which is what "in bfloat16" below means.
  double tolerance = 0;
  // A mixture of experts in bfloat16 is first run in float32, and follows its choice where the gate's logits agree
  // within the tolerance and two experts are nearer to each other than that (routing_reference.h). With own_routing it
  // does not: median_error and rows_over then tell a tie from a wrong model.
  bool own_routing = false;
};

struct VerifyReport {
  int cases = 0, cases_left_out = 0;
  int rows = 0;  // of logits compared
  // Norm of the difference over the norm of the golden row, over the values that the golden row states.
  double worst_error = 0;
  std::string worst_at;  // "case 3, step 7"
  double median_error = 0;
  int rows_over = 0;  // of `rows`, beyond the tolerance
  double tolerance = 0;
  int routing_ties = 0;         // (layer, row) that followed float32
  int routing_differences = 0;  // that differ by more than a tie
  // Greedy tokens that differ, one line each.
  std::vector<std::string> mismatches;
  // Of those, where the golden row's own two logits are nearer to each other than the tolerance, of its largest: in
  // bfloat16 they may fall either way. In float32 none is let pass, and this stays 0.
  size_t token_ties = 0;
  [[nodiscard]] bool ok() const { return worst_error <= tolerance && mismatches.size() == token_ties; }
  [[nodiscard]] std::string to_string() const;
};

// Runs all cases at once through the Executor, spread over the DP groups: prompts in chunks, then the golden tokens one
// at a time.
Result<VerifyReport> verify_model(const VerifyOptions& options);

}  // namespace baton::model
