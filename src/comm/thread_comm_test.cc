#include "comm/thread_comm.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "comm/rank_testing.h"

namespace baton::comm {
namespace {

// Whose rows are whose among four ranks; the last begins where a DP group's rows would.
const std::vector<std::vector<int64_t>> kBounds = {{0, 2, 4, 6, 8}, {0, 3, 5, 5, 6},   {0, 0, 0, 0, 1},
                                                   {0, 0, 0, 0, 0}, {7, 9, 9, 12, 13}, {100, 900, 901, 901, 2000}};
constexpr int kRanks = 4;
constexpr int64_t kWidth = 3;

size_t row_count(RowBounds bounds) { return static_cast<size_t>(bounds.back() - bounds.front()); }

// Addends of very different sizes, so that another order has another sum.
float addend(int rank, int round, size_t i) {
  const float sizes[] = {1e8F, 1.0F, -1e8F, 3e-3F};
  return sizes[(static_cast<size_t>(rank) + i) % 4] * static_cast<float>(1 + (i * 7 + static_cast<size_t>(round)) % 13);
}

TEST(ThreadComm, ReduceScatterAddsUpInRankOrder) {
  RankGroup group(kRanks);
  on_ranks(kRanks, [&](int rank) {
    ThreadComm comm(group, rank);
    std::vector<float> buffers[2];  // in turns, as the contract has it
    for (int round = 0; round < 60; ++round) {
      const std::vector<int64_t>& bounds = kBounds[static_cast<size_t>(round) % kBounds.size()];
      std::vector<float>& partial = buffers[round % 2];
      partial.resize(row_count(bounds) * kWidth);
      for (size_t i = 0; i < partial.size(); ++i) partial[i] = addend(rank, round, i);
      ASSERT_TRUE(comm.reduce_scatter(partial.data(), tensor::DType::kF32, bounds, kWidth).ok());
      const auto own = [&](int r) {
        return static_cast<size_t>((bounds[static_cast<size_t>(r)] - bounds[0]) * kWidth);
      };
      for (size_t i = 0; i < partial.size(); ++i) {
        float expected = addend(0, round, i);
        for (int r = 1; r < kRanks; ++r) expected += addend(r, round, i);
        if (i < own(rank) || i >= own(rank + 1)) expected = addend(rank, round, i);  // not this rank's: as it was
        ASSERT_EQ(partial[i], expected) << "round " << round << " rank " << rank << " value " << i;
      }
    }
    ASSERT_TRUE(group.barrier().ok());  // the buffers stay until all have read them
  });
}

TEST(ThreadComm, AllGatherFillsEveryBuffer) {
  RankGroup group(kRanks);
  on_ranks(kRanks, [&](int rank) {
    ThreadComm comm(group, rank);
    std::vector<float> wide[2];
    std::vector<int16_t> narrow[2];
    for (int round = 0; round < 60; ++round) {
      const std::vector<int64_t>& bounds = kBounds[static_cast<size_t>(round) % kBounds.size()];
      const size_t rows = row_count(bounds);
      std::vector<float>& w = wide[round % 2];
      std::vector<int16_t>& n = narrow[round % 2];
      w.assign(rows * kWidth, -1);
      n.assign(rows, -1);
      for (int64_t r = bounds[static_cast<size_t>(rank)]; r < bounds[static_cast<size_t>(rank) + 1]; ++r) {
        const auto row = static_cast<size_t>(r - bounds[0]);
        for (size_t i = 0; i < kWidth; ++i)
          w[row * kWidth + i] = static_cast<float>(static_cast<size_t>(round) + row * kWidth + i);
        n[row] = static_cast<int16_t>(static_cast<size_t>(round) + row);
      }
      const RowBuffer buffers[] = {{w.data(), kWidth * sizeof(float)}, {n.data(), sizeof(int16_t)}};
      ASSERT_TRUE(comm.all_gather(buffers, bounds).ok());
      for (size_t i = 0; i < w.size(); ++i)
        ASSERT_EQ(w[i], static_cast<float>(static_cast<size_t>(round) + i)) << "round " << round << " rank " << rank;
      for (size_t i = 0; i < n.size(); ++i)
        ASSERT_EQ(n[i], static_cast<int16_t>(static_cast<size_t>(round) + i)) << "round " << round << " rank " << rank;
    }
    ASSERT_TRUE(group.barrier().ok());
  });
}

TEST(ThreadComm, OneRankKeepsWhatItHas) {
  RankGroup group(1);
  ThreadComm comm(group, 0);
  const int64_t bounds[] = {5, 7};
  float rows[] = {1, 2, 3, 4};
  ASSERT_TRUE(comm.reduce_scatter(rows, tensor::DType::kF32, bounds, 2).ok());
  const RowBuffer buffer{rows, 2 * sizeof(float)};
  ASSERT_TRUE(comm.all_gather({&buffer, 1}, bounds).ok());
  for (int i = 0; i < 4; ++i) EXPECT_EQ(rows[i], static_cast<float>(i + 1));
}

TEST(ThreadComm, SumsOnEveryRankAreAddedAndNormed) {
  RankGroup group(kRanks);
  on_ranks(kRanks, [&](int rank) {
    ThreadComm comm(group, rank, 64);
    EXPECT_TRUE(comm.sums_everywhere(2, 32));
    EXPECT_FALSE(comm.sums_everywhere(3, 32));
    std::vector<float> buffers[2];  // in turns, as the contract has it
    const float weight[kWidth] = {1, 2, -3};
    for (int round = 0; round < 20; ++round) {
      std::vector<float>& partial = buffers[round % 2];
      partial.resize(2 * kWidth);
      for (size_t i = 0; i < partial.size(); ++i) partial[i] = addend(rank, round, i);
      std::vector<float> residual(partial.size(), 0.5F), normed(partial.size(), -7);
      const bool norms = round % 3 != 0;
      ASSERT_TRUE(comm.all_reduce(partial.data(), tensor::DType::kF32, 2, kWidth,
                                  {residual.data(), norms ? weight : nullptr, 1e-6F, normed.data()})
                      .ok());
      for (size_t row = 0; row < 2; ++row) {
        double square = 0;
        for (size_t i = row * kWidth; i < (row + 1) * kWidth; ++i) {
          float sum = 0;
          for (int r = 0; r < kRanks; ++r) sum += addend(r, round, i);
          ASSERT_EQ(residual[i], 0.5F + sum) << "round " << round << " value " << i;
          square += static_cast<double>(residual[i]) * residual[i];
        }
        for (size_t i = row * kWidth; i < (row + 1) * kWidth; ++i) {
          const double right = residual[i] / std::sqrt(square / kWidth + 1e-6) * weight[i - row * kWidth];
          ASSERT_NEAR(normed[i], norms ? right : -7, 1e-5) << "round " << round << " value " << i;
        }
      }
    }
    ASSERT_TRUE(group.barrier().ok());  // the buffers stay until all have read them
  });
}

TEST(ThreadComm, SendAndReceivePassAlongInOrder) {
  // Down a pipeline, messages of changing sizes (none, too) that the sender changes at once.
  constexpr int kMessages = 200;
  RankGroup group(kRanks);
  on_ranks(kRanks, [&](int rank) {
    ThreadComm comm(group, rank);
    for (int message = 0; message < kMessages; ++message) {
      std::vector<float> values(static_cast<size_t>(message * 5 % 11), static_cast<float>(message));
      if (rank > 0) {
        std::fill(values.begin(), values.end(), -1.0F);
        ASSERT_TRUE(comm.receive(rank - 1, std::as_writable_bytes(std::span(values))).ok());
        for (const float v : values) ASSERT_EQ(v, static_cast<float>(message + rank - 1));
      }
      for (float& v : values) v = static_cast<float>(message + rank);
      if (rank + 1 < kRanks) {
        ASSERT_TRUE(comm.send(rank + 1, std::as_bytes(std::span(values))).ok());
      }
      std::fill(values.begin(), values.end(), -2.0F);
    }
  });
}

TEST(ThreadComm, ASecondSendWaitsForTheFirstToBeReceived) {
  RankGroup group(2);
  std::atomic<int> sent{0};
  std::thread sender([&] {
    ThreadComm comm(group, 0);
    for (const float v : {1.0F, 2.0F}) {
      ASSERT_TRUE(comm.send(1, std::as_bytes(std::span(&v, 1))).ok());
      ++sent;
    }
  });
  while (sent < 1) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(sent, 1);
  ThreadComm comm(group, 1);
  for (const float expected : {1.0F, 2.0F}) {
    float v = 0;
    ASSERT_TRUE(comm.receive(0, std::as_writable_bytes(std::span(&v, 1))).ok());
    EXPECT_EQ(v, expected);
  }
  sender.join();
}

// Rank 2 fails where the others call `operation`; each must come back with its error, and so must every later call.
void fails_everywhere(const std::function<Status(ThreadComm&, std::vector<float>&)>& operation) {
  RankGroup group(kRanks);
  // They stay until all ranks have returned.
  std::vector<std::vector<float>> buffers(kRanks, std::vector<float>(64, 1.0F));
  on_ranks(kRanks, [&](int rank) {
    ThreadComm comm(group, rank);
    std::vector<float>& values = buffers[static_cast<size_t>(rank)];
    ASSERT_TRUE(comm.reduce_scatter(values.data(), tensor::DType::kF32, std::vector<int64_t>{0, 1, 2, 3, 4}, 1).ok());
    if (rank == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      comm.abort(error(ErrorCode::kCorrupt, "rank 2 fell over"));
      return;
    }
    for (int i = 0; i < 3; ++i) {
      const Status done = operation(comm, values);
      ASSERT_FALSE(done.ok());
      EXPECT_EQ(done.error().message, "rank 2 fell over");
    }
    EXPECT_TRUE(comm.aborted());
  });
}

TEST(ThreadComm, AbortStrandsNobody) {
  const std::vector<int64_t> bounds = {0, 3, 3, 4, 9};
  fails_everywhere([&](ThreadComm& comm, std::vector<float>& values) {
    return comm.reduce_scatter(values.data(), tensor::DType::kF32, bounds, 7);
  });
  fails_everywhere([&](ThreadComm& comm, std::vector<float>& values) {
    const RowBuffer buffer{values.data(), 7 * sizeof(float)};
    return comm.all_gather({&buffer, 1}, bounds);
  });
  fails_everywhere([](ThreadComm& comm, std::vector<float>& values) {
    return comm.receive(2, std::as_writable_bytes(std::span(values)));
  });
  fails_everywhere([](ThreadComm& comm, std::vector<float>& values) -> Status {
    // The first may find room, as nobody receives.
    BATON_TRY(comm.send(2, std::as_bytes(std::span(values))));
    return comm.send(2, std::as_bytes(std::span(values)));
  });
}

}  // namespace
}  // namespace baton::comm
