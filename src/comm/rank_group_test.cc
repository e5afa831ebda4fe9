#include "comm/rank_group.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <thread>

namespace baton::comm {
namespace {

void on_ranks(int ranks, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) threads.emplace_back(body, r);
  for (std::thread& t : threads) t.join();
}

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

TEST(RankGroup, AllGatherHandsPointersRound) {
  constexpr int kRanks = 6;
  RankGroup group(kRanks);
  on_ranks(kRanks, [&](int rank) {
    float mine[2] = {};
    for (int round = 0; round < 200; ++round) {
      float& value = mine[round % 2];  // the other one may still be read
      value = static_cast<float>(round * 100 + rank);
      const auto all = group.all_gather(rank, &value);
      ASSERT_TRUE(all.ok());
      for (int r = 0; r < kRanks; ++r) ASSERT_EQ(*(*all)[static_cast<size_t>(r)], static_cast<float>(round * 100 + r));
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
    const float x = 1;
    const auto all = group.all_gather(rank, &x);
    ASSERT_FALSE(all.ok());
    EXPECT_EQ(all.error().code, ErrorCode::kCorrupt);
    EXPECT_EQ(all.error().message, "rank 3 fell over");
  });
  EXPECT_FALSE(group.barrier().ok());
  EXPECT_TRUE(group.aborted());
}

}  // namespace
}  // namespace baton::comm
