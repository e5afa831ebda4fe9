#include "comm/rank_group.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "comm/rank_testing.h"

namespace baton::comm {
namespace {

TEST(RankGroup, BarrierHoldsEveryRankUntilTheLast) {
  // Sixteen ranks, also on two cores: no rank is ever a barrier ahead of another.
  constexpr int kRanks = 16;
  constexpr int kRounds = 300;
  RankGroup group(kRanks);
  std::vector<std::atomic<int>> at(kRanks);
  std::atomic<int> violations{0};
  on_ranks(kRanks, [&](int rank) {
    for (int round = 1; round <= kRounds; ++round) {
      at[static_cast<size_t>(rank)] = round;
      ASSERT_TRUE(group.barrier().ok());
      for (const auto& other : at) violations += other.load() < round ? 1 : 0;
      ASSERT_TRUE(group.barrier().ok());
    }
  });
  EXPECT_EQ(violations, 0);
}

TEST(RankGroup, ExchangeHandsPointersRound) {
  constexpr int kRanks = 6;
  RankGroup group(kRanks);
  on_ranks(kRanks, [&](int rank) {
    int mine[2] = {};
    for (int round = 0; round < 200; ++round) {
      int& value = mine[round % 2];  // the other one may still be read
      value = round * 100 + rank;
      const auto all = group.exchange(rank, {&value});
      ASSERT_TRUE(all.ok());
      for (int r = 0; r < kRanks; ++r) {
        ASSERT_EQ(*static_cast<const int*>((*all)[static_cast<size_t>(r)][0]), round * 100 + r);
      }
    }
    ASSERT_TRUE(group.barrier().ok());  // `mine` stays until all have read it
  });
}

TEST(RankGroup, AbortFreesThoseWhoWait) {
  constexpr int kRanks = 8;
  RankGroup group(kRanks);
  on_ranks(kRanks, [&](int rank) {
    ASSERT_TRUE(group.barrier().ok());
    if (rank == 3) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      group.abort(error(ErrorCode::kCorrupt, "rank {} fell over", rank));
      group.abort(error(ErrorCode::kCancelled, "too late to matter"));
      return;
    }
    const Status met = group.barrier();
    ASSERT_FALSE(met.ok());
    EXPECT_EQ(met.error().code, ErrorCode::kCorrupt);
    EXPECT_EQ(met.error().message, "rank 3 fell over");
  });
  EXPECT_FALSE(group.barrier().ok());
  EXPECT_TRUE(group.aborted());
}

TEST(RankGroup, AbortReachesWordsThatAreWatched) {
  std::atomic<uint32_t> before{0}, gone{0}, after{0};
  RankGroup group(2);
  group.watch(before);
  group.watch(gone);
  group.unwatch(gone);
  EXPECT_TRUE(group.status().ok());
  EXPECT_EQ(before, 0U);
  group.abort(error(ErrorCode::kCorrupt, "it fell over"));
  group.watch(after);
  EXPECT_EQ(before, 1U);
  EXPECT_EQ(gone, 0U);
  EXPECT_EQ(after, 1U);
  EXPECT_EQ(group.status().error().message, "it fell over");
}

}  // namespace
}  // namespace baton::comm
