// Shares the prompt tokens of one step among the DP groups so that the groups take equally long.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/cost_model.h"

namespace baton::scheduler {

// The uncomputed rest of one prompt: tokens [begin, begin + left).
struct ChunkWork {
  int64_t begin = 0;
  int64_t left = 0;
};

// counts[g][i]: how many tokens of work[g][i] to compute now. Each group takes its work in order. The sum is
// min(budget, all work); no group's share costs more than one token above that of another group that still has work.
// budget >= 1.
[[nodiscard]] std::vector<std::vector<int64_t>> cut_chunks(const std::vector<std::vector<ChunkWork>>& work,
                                                           int64_t budget, const CostModel& cost);

}  // namespace baton::scheduler
