// How the prompts of one DP group share what a step computes of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scheduler/chunk_cut.h"

namespace baton::scheduler {

// The uncomputed rest of an admitted prompt.
struct PromptClaim {
  ChunkWork work;
  int priority = 0;      // larger ones first
  bool overdue = false;  // passed as far as it may be: nothing that came later is computed before it
};

// A part of a claim.
struct PromptPiece {
  size_t claim = 0;
  ChunkWork work;
};

// The claims' work in the order in which it is to be computed, each token once. `claims`: by priority, then by arrival.
// The first of them has about half of the step (`tokens`), ended at a page where there is room, so that a long prompt
// takes about twice as long as alone at the most; the other half goes to the shortest rest.
[[nodiscard]] std::vector<PromptPiece> share_prompts(const std::vector<PromptClaim>& claims, int64_t tokens,
                                                     int page_tokens);
// The same one after another.
[[nodiscard]] std::vector<PromptPiece> queue_prompts(const std::vector<PromptClaim>& claims);

}  // namespace baton::scheduler
