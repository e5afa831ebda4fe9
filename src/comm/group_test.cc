#include "comm/group.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <thread>

#include "base/random.h"

namespace baton {
namespace {

void on_ranks(int ranks, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) threads.emplace_back(body, r);
  for (std::thread& t : threads) t.join();
}

std::vector<float> noise(uint64_t seed, size_t n) {
  Random random(seed);
  std::vector<float> v(n);
  for (float& x : v) x = static_cast<float>(random.uniform() * 2e3 - 1e3);
  return v;
}

TEST(Group, BarrierHoldsEveryRankUntilTheLast) {
  // Sixteen ranks, also on two cores: no rank is ever a barrier ahead of another.
  constexpr int kRanks = 16;
  constexpr int kRounds = 300;
  Group group(kRanks);
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

TEST(Group, SumIsTakenInRankOrder) {
  for (const int ranks : {1, 2, 3, 5, 8, 16}) {
    for (const size_t n : {size_t{1}, size_t{7}, size_t{1000}}) {
      std::vector<float> expected = noise(0, n);
      for (int r = 1; r < ranks; ++r) {
        const std::vector<float> part = noise(static_cast<uint64_t>(r), n);
        for (size_t i = 0; i < n; ++i) expected[i] += part[i];
      }
      Group group(ranks);
      on_ranks(ranks, [&](int rank) {
        for (int repeat = 0; repeat < 5; ++repeat) {
          std::vector<float> mine = noise(static_cast<uint64_t>(rank), n);
          ASSERT_TRUE(group.all_reduce_sum(rank, mine.data(), static_cast<int64_t>(n)).ok());
          ASSERT_EQ(std::memcmp(mine.data(), expected.data(), n * sizeof(float)), 0)
              << "rank " << rank << " of " << ranks;
        }
      });
    }
  }
}

TEST(Group, GatherAndBroadcastHandPointersRound) {
  constexpr int kRanks = 6;
  Group group(kRanks);
  on_ranks(kRanks, [&](int rank) {
    float mine[2] = {};
    for (int round = 0; round < 200; ++round) {
      float& value = mine[round % 2];  // the other one may still be read
      value = static_cast<float>(round * 100 + rank);
      const int root = round % kRanks;
      const auto all = group.all_gather(rank, &value);
      ASSERT_TRUE(all.ok());
      for (int r = 0; r < kRanks; ++r) ASSERT_EQ(*(*all)[static_cast<size_t>(r)], static_cast<float>(round * 100 + r));
      const auto one = group.broadcast(rank, root, &value);
      ASSERT_TRUE(one.ok());
      ASSERT_EQ(**one, static_cast<float>(round * 100 + root));
      const auto some = group.gather(rank, root, &value);
      ASSERT_TRUE(some.ok());
      ASSERT_EQ(some->size(), rank == root ? kRanks : 0u);
      // The root reads after the gather, so its peers learn from the next collective that it has.
      for (size_t r = 0; r < some->size(); ++r)
        ASSERT_EQ(*(*some)[r], static_cast<float>(round * 100 + static_cast<int>(r)));
      ASSERT_TRUE(group.barrier().ok());
    }
  });
}

TEST(Group, AbortFreesThoseWhoWait) {
  constexpr int kRanks = 8;
  Group group(kRanks);
  on_ranks(kRanks, [&](int rank) {
    ASSERT_TRUE(group.barrier().ok());
    if (rank == 3) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      group.abort(error(ErrorCode::kCorrupt, "rank {} fell over", rank));
      group.abort(error(ErrorCode::kCancelled, "too late to matter"));
      return;
    }
    float x = 1;
    const Status status = group.all_reduce_sum(rank, &x, 1);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kCorrupt);
    EXPECT_EQ(status.error().message, "rank 3 fell over");
  });
  EXPECT_FALSE(group.barrier().ok());
  EXPECT_TRUE(group.aborted());
}

RC_GTEST_PROP(Group, SumsOfAnySizeInAnyOrder, ()) {
  const int ranks = *rc::gen::inRange(1, 9);
  const auto sizes = *rc::gen::container<std::vector<int>>(4, rc::gen::inRange(0, 300));
  Group group(ranks);
  std::atomic<int> wrong{0};
  on_ranks(ranks, [&](int rank) {
    for (const int n : sizes) {
      std::vector<float> mine(static_cast<size_t>(n));
      for (int i = 0; i < n; ++i) mine[static_cast<size_t>(i)] = static_cast<float>(rank + i);
      if (!group.all_reduce_sum(rank, mine.data(), n).ok()) ++wrong;
      for (int i = 0; i < n; ++i) {
        const float expected = static_cast<float>(ranks * i + ranks * (ranks - 1) / 2);
        if (mine[static_cast<size_t>(i)] != expected) ++wrong;
      }
    }
  });
  RC_ASSERT(wrong == 0);
}

}  // namespace
}  // namespace baton
