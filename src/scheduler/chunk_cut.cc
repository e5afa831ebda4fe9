#include "scheduler/chunk_cut.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace baton::scheduler {
namespace {

using Counts = std::vector<int64_t>;

int64_t sum(const Counts& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

int64_t sum(const std::vector<Counts>& groups) {
  int64_t total = 0;
  for (const Counts& counts : groups) total += sum(counts);
  return total;
}

// What one group computes within `limit` of cost.
Counts within(const std::vector<ChunkWork>& work, double limit, const CostModel& cost) {
  Counts counts(work.size(), 0);
  for (size_t i = 0; i < work.size(); ++i) {
    const double whole = cost.chunk(work[i].begin, work[i].left);
    if (whole > limit) {
      counts[i] = cost.tokens_within(limit, work[i].begin, work[i].left);
      break;
    }
    counts[i] = work[i].left;
    limit -= whole;
  }
  return counts;
}

std::vector<Counts> within(const std::vector<std::vector<ChunkWork>>& work, double limit, const CostModel& cost) {
  std::vector<Counts> counts;
  counts.reserve(work.size());
  for (const auto& group : work) counts.push_back(within(group, limit, cost));
  return counts;
}

// Gives back `excess` tokens, always from the end of the dearest share: the search below overshoots by at most a token
// a group.
void trim(const std::vector<std::vector<ChunkWork>>& work, const CostModel& cost, int64_t excess,
          std::vector<Counts>* counts) {
  for (; excess > 0; --excess) {
    Counts* dearest = nullptr;
    double most = -1;
    for (size_t g = 0; g < work.size(); ++g) {
      double share = 0;
      for (size_t i = 0; i < work[g].size(); ++i) share += cost.chunk(work[g][i].begin, (*counts)[g][i]);
      if (share > most) {
        most = share;
        dearest = &(*counts)[g];
      }
    }
    --*std::find_if(dearest->rbegin(), dearest->rend(), [](int64_t n) { return n > 0; });
  }
}

}  // namespace

std::vector<std::vector<int64_t>> cut_chunks(const std::vector<std::vector<ChunkWork>>& work, int64_t budget,
                                             const CostModel& cost) {
  BATON_CHECK(budget >= 1);
  double high = 0;
  int64_t total = 0;
  for (const auto& group : work) {
    double all = 0;
    for (const ChunkWork& w : group) {
      all += cost.chunk(w.begin, w.left);
      total += w.left;
    }
    high = std::max(high, all);
  }
  high *= 1 + 1e-9;  // rounding must not cut the last token of the dearest group
  if (total <= budget) high = HUGE_VAL;
  double low = 0;
  constexpr int kHalvings = 48;
  for (int i = 0; i < kHalvings && total > budget; ++i) {
    const double middle = low + (high - low) / 2;
    (sum(within(work, middle, cost)) >= budget ? high : low) = middle;
  }
  std::vector<Counts> counts = within(work, high, cost);
  trim(work, cost, sum(counts) - std::min(budget, total), &counts);
  return counts;
}

}  // namespace baton::scheduler
