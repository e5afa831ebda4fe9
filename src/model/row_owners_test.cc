#include "model/row_owners.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

namespace baton::model {
namespace {

// A batch of which only the rows matter: per DP group, how many and (from the end) how many of them have logits.
StepBatch batch_of(const std::vector<std::pair<int64_t, int64_t>>& groups) {
  StepBatch batch;
  for (const auto& [rows, logits] : groups) {
    StepBatch::GroupRows& group = batch.groups.emplace_back();
    group.rows = {batch.rows, batch.rows + rows};
    for (int64_t r = 0; r < rows; ++r) batch.logits_row.push_back(r < rows - logits ? -1 : batch.logits_rows++);
    batch.rows += rows;
  }
  return batch;
}

TEST(RowOwners, CutsEachGroupOverItsRanks) {
  struct Case {
    std::vector<std::pair<int64_t, int64_t>> groups;
    int attn_tp;
    std::vector<int64_t> rows, logits;
  };
  const Case cases[] = {
      {{{7, 1}}, 3, {0, 3, 5, 7}, {0, 0, 0, 1}},
      {{{1, 1}}, 4, {0, 1, 1, 1, 1}, {0, 1, 1, 1, 1}},
      {{{3, 3}, {0, 0}, {4, 2}}, 2, {0, 2, 3, 3, 3, 5, 7}, {0, 2, 3, 3, 3, 3, 5}},
  };
  RowOwners owners;  // one for all of them, as for all steps
  for (const Case& c : cases) {
    owners.cut(batch_of(c.groups), c.attn_tp);
    EXPECT_EQ(owners.rows, c.rows);
    EXPECT_EQ(owners.logits, c.logits);
  }
  EXPECT_EQ(owners.of(1), (LongInterval{2, 3}));
  const comm::RowBounds group = owners.of_group(2, 2);
  EXPECT_EQ(std::vector(group.begin(), group.end()), (std::vector<int64_t>{3, 5, 7}));
}

TEST(RowOwners, EveryRankHasAllRowsWhereSumsGoEverywhere) {
  RowOwners owners;
  owners.cut(batch_of({{5, 2}}), 4);
  const uint64_t cut = owners.shape(2);
  owners.everywhere = true;
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(owners.of(rank), (LongInterval{0, 5}));
    EXPECT_EQ(owners.logits_of(rank), (LongInterval{0, 2}));
  }
  EXPECT_NE(owners.shape(2), cut);
}

TEST(RowOwners, StepsThatAreCutUnlikeHaveOtherShapes) {
  // Decode of up to 40 rows in each of two groups, all of them or all but one of a group with logits.
  std::set<uint64_t> shapes;
  size_t cut = 0;
  for (int64_t a = 0; a <= 40; ++a) {
    for (int64_t b = 0; b <= 40; ++b) {
      for (int64_t silent = 0; silent <= std::min<int64_t>(a, 1); ++silent, ++cut) {
        RowOwners owners;
        const StepBatch batch = batch_of({{a, a - silent}, {b, b}});
        owners.cut(batch, 2);
        shapes.insert(owners.shape(batch.logits_rows));
        owners.cut(batch, 2);
        EXPECT_TRUE(shapes.contains(owners.shape(batch.logits_rows)));
      }
    }
  }
  EXPECT_EQ(shapes.size(), cut);
}

}  // namespace
}  // namespace baton::model
