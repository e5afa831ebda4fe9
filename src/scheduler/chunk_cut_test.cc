#include "scheduler/chunk_cut.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <numeric>

namespace baton::scheduler {
namespace {

int64_t total(const std::vector<std::vector<int64_t>>& counts) {
  int64_t sum = 0;
  for (const auto& group : counts) sum = std::accumulate(group.begin(), group.end(), sum);
  return sum;
}

TEST(CostModel, AChunkCostsWhatItsTokensCost) {
  const CostModel cost{2, 0.5};
  double sum = 0;
  for (int64_t position = 10; position < 17; ++position) sum += 2 + 0.5 * static_cast<double>(position);
  EXPECT_DOUBLE_EQ(cost.chunk(10, 7), sum);
  EXPECT_EQ(cost.chunk(10, 0), 0);
  EXPECT_EQ(cost.tokens_within(sum, 10, 100), 7);
  EXPECT_EQ(cost.tokens_within(sum - 0.01, 10, 100), 6);
  EXPECT_EQ(cost.tokens_within(1e9, 10, 100), 100);
  EXPECT_EQ(cost.tokens_within(0, 10, 100), 0);
}

TEST(CutChunks, GroupsThatHoldLongContextsGetFewerTokens) {
  const CostModel cost{1, 1e-3};
  // Group 0 computes the start of a prompt, group 1 the end of a long one, where a token costs nine times as much.
  const auto counts = cut_chunks({{{0, 10000}}, {{8000, 10000}}}, 1000, cost);
  EXPECT_EQ(total(counts), 1000);
  EXPECT_NEAR(cost.chunk(0, counts[0][0]), cost.chunk(8000, counts[1][0]), cost.chunk(9000, 2));
  EXPECT_GT(counts[0][0], 5 * counts[1][0]);
}

TEST(CutChunks, AGroupWithoutWorkLeavesTheBudgetToTheOthers) {
  const auto counts = cut_chunks({{}, {{0, 300}, {0, 5000}}, {{0, 20}}}, 1000, CostModel{1, 0});
  EXPECT_EQ(counts[0].size(), 0u);
  EXPECT_EQ(counts[1], (std::vector<int64_t>{300, 680}));
  EXPECT_EQ(counts[2], (std::vector<int64_t>{20}));
}

RC_GTEST_PROP(CutChunks, UsesTheBudgetInOrderAndEvenly, ()) {
  const auto groups = *rc::gen::inRange(1, 6);
  std::vector<std::vector<ChunkWork>> work(static_cast<size_t>(groups));
  int64_t all = 0;
  for (auto& group : work) {
    const auto count = *rc::gen::inRange(0, 5);
    for (int i = 0; i < count; ++i) {
      group.push_back({*rc::gen::inRange<int64_t>(0, 100000), *rc::gen::inRange<int64_t>(1, 20000)});
      all += group.back().left;
    }
  }
  const auto budget = *rc::gen::inRange<int64_t>(1, 30000);
  const CostModel cost{1, *rc::gen::element(0.0, 1e-5, 2.4e-4, 1e-2)};
  const auto counts = cut_chunks(work, budget, cost);
  RC_ASSERT(total(counts) == std::min(all, budget));
  double dearest = 0;
  for (size_t g = 0; g < work.size(); ++g) {
    double share = 0;
    bool cut = false;
    for (size_t i = 0; i < work[g].size(); ++i) {
      RC_ASSERT(counts[g][i] >= 0 && counts[g][i] <= work[g][i].left);
      RC_ASSERT(!cut || counts[g][i] == 0);  // in order
      cut |= counts[g][i] < work[g][i].left;
      share += cost.chunk(work[g][i].begin, counts[g][i]);
    }
    dearest = std::max(dearest, share);
  }
  // A group with work left lags the dearest by at most the few tokens that whole numbers cost.
  const double slack = 3 * cost.chunk(130000, 1);
  for (size_t g = 0; g < work.size(); ++g) {
    double share = 0;
    bool left = false;
    for (size_t i = 0; i < work[g].size(); ++i) {
      share += cost.chunk(work[g][i].begin, counts[g][i]);
      left |= counts[g][i] < work[g][i].left;
    }
    if (left) RC_ASSERT(share >= dearest - slack);
  }
}

}  // namespace
}  // namespace baton::scheduler
