// CardExchange between ranks on cards, all on one and, where there are several, each on its own. What needs a card is
// skipped without one.
#include "comm/card_comm.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iterator>
#include <thread>
#include <vector>

#include "base/cuda/cuda_check.h"
#include "base/random.h"
#include "comm/rank_testing.h"

namespace baton::comm {
namespace {

using tensor::BF16;
using tensor::DType;
using Bytes = std::vector<std::byte>;

int cards() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();
  return 0;
}

// A rank's stream, and memory that lasts as long.
class CardRank {
 public:
  CardRank(RankGroup& group, int rank, int card) {
    BATON_CUDA_CHECK(cudaSetDevice(card), "card {}", card);
    BATON_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "card {}", card);
    comm_ = make_card_comm(group, rank, card, stream_);
  }
  ~CardRank() {
    BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "the end");
    comm_.reset();
    for (void* p : memory_) BATON_CUDA_CHECK(cudaFree(p), "the end");
    BATON_CUDA_CHECK(cudaStreamDestroy(stream_), "the end");
  }
  [[nodiscard]] Comm& comm() { return *comm_; }
  [[nodiscard]] cudaStream_t stream() { return stream_; }
  std::byte* allocate(size_t bytes) {
    void* p = nullptr;
    BATON_CUDA_CHECK(cudaMalloc(&p, bytes + 256), "{} bytes", bytes);
    memory_.push_back(p);
    return static_cast<std::byte*>(p);
  }
  std::byte* copy_of(const Bytes& bytes) {
    std::byte* p = allocate(bytes.size());
    BATON_CUDA_CHECK(cudaMemcpy(p, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "{} bytes", bytes.size());
    return p;
  }
  Bytes read(const std::byte* from, size_t bytes) {
    Bytes to(bytes);
    BATON_CUDA_CHECK(cudaMemcpyAsync(to.data(), from, bytes, cudaMemcpyDeviceToHost, stream_), "{} bytes", bytes);
    BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "{} bytes", bytes);
    return to;
  }

 private:
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Comm> comm_;
  std::vector<void*> memory_;
};

// Four ranks on a card; as many as there are cards.
struct Placing {
  int ranks, card_step;
};
std::vector<Placing> placings() {
  std::vector<Placing> all{{4, 0}};
  if (cards() > 1) all.push_back({std::min(cards(), 8), 1});
  return all;
}

// What all ranks do once: a sum of values, or a gathering of up to three buffers.
struct CardExchange {
  bool sums = false;
  DType dtype = DType::kF32;
  std::vector<int64_t> bounds;
  std::vector<int64_t> row_bytes;       // of each buffer; one of a sum
  std::vector<std::vector<Bytes>> has;  // (rank, buffer), before
};

int64_t rows_of(const CardExchange& e) { return e.bounds.back() - e.bounds.front(); }

CardExchange random_exchange(Random& random, int ranks) {
  static constexpr int64_t kRows[] = {0, 1, 2, 7, 33, 128, 600, 1000};
  static constexpr int64_t kWords[] = {1, 3, 24, 96, 288, 1024, 1025, 3584};
  CardExchange e;
  e.sums = random.below(2) == 0;
  e.dtype = random.below(2) == 0 ? DType::kF32 : DType::kBF16;
  e.bounds.push_back(static_cast<int64_t>(random.below(5)));
  const int64_t most = kRows[random.below(std::size(kRows))];
  for (int r = 0; r < ranks; ++r)
    e.bounds.push_back(e.bounds.back() + static_cast<int64_t>(random.below(static_cast<uint64_t>(most) + 1)));
  const size_t buffers = e.sums ? 1 : 1 + random.below(3);
  for (size_t b = 0; b < buffers; ++b) e.row_bytes.push_back(4 * kWords[random.below(std::size(kWords))]);
  for (int r = 0; r < ranks; ++r) {
    auto& mine = e.has.emplace_back();
    for (const int64_t row_bytes : e.row_bytes) {
      Bytes bytes(static_cast<size_t>(rows_of(e) * row_bytes));
      // Finite values of very different sizes, so that another order has another sum.
      for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
        const float value =
            static_cast<float>(static_cast<int64_t>(random.below(2001)) - 1000) * (random.below(2) == 0 ? 1e6F : 1e-2F);
        const uint16_t halves[] = {tensor::to_bf16(value).bits, tensor::to_bf16(-value * 3).bits};
        std::memcpy(bytes.data() + i, e.dtype == DType::kF32 ? static_cast<const void*>(&value) : halves, 4);
      }
      mine.push_back(std::move(bytes));
    }
  }
  return e;
}

template <class T>
Bytes sums_of(const CardExchange& e, size_t rank, float (*to_float)(T), T (*from_float)(float)) {
  Bytes out = e.has[rank][0];
  const auto width = static_cast<size_t>(e.row_bytes[0]) / sizeof(T);
  for (size_t i = static_cast<size_t>(e.bounds[rank] - e.bounds[0]) * width;
       i < static_cast<size_t>(e.bounds[rank + 1] - e.bounds[0]) * width; ++i) {
    float sum = 0;
    T value;
    for (const auto& of_rank : e.has) {
      std::memcpy(&value, of_rank[0].data() + i * sizeof(T), sizeof(T));
      sum += to_float(value);
    }
    value = from_float(sum);
    std::memcpy(out.data() + i * sizeof(T), &value, sizeof(T));
  }
  return out;
}
std::vector<Bytes> expected(const CardExchange& e, size_t rank) {
  if (e.sums && e.dtype == DType::kF32)
    return {sums_of<float>(
        e, rank, [](float v) { return v; }, [](float v) { return v; })};
  if (e.sums)
    return {sums_of<BF16>(
        e, rank, [](BF16 v) { return tensor::to_float(v); }, [](float v) { return tensor::to_bf16(v); })};
  std::vector<Bytes> out = e.has[rank];
  for (size_t b = 0; b < out.size(); ++b) {
    for (size_t r = 0; r < e.has.size(); ++r) {
      const auto begin = (e.bounds[r] - e.bounds[0]) * e.row_bytes[b],
                 end = (e.bounds[r + 1] - e.bounds[0]) * e.row_bytes[b];
      std::copy(e.has[r][b].begin() + begin, e.has[r][b].begin() + end, out[b].begin() + begin);
    }
  }
  return out;
}

// An exchange with a rank's buffers of it on the card.
struct PreparedExchange {
  const CardExchange* exchange;
  std::vector<std::byte*> before, buffers;
};
PreparedExchange prepare(const CardExchange& e, CardRank& rank) {
  PreparedExchange p{&e, {}, {}};
  for (const Bytes& bytes : e.has[static_cast<size_t>(rank.comm().rank())]) {
    p.before.push_back(rank.copy_of(bytes));
    p.buffers.push_back(rank.allocate(bytes.size()));
  }
  return p;
}
Status enqueue(const PreparedExchange& p, CardRank& rank) {
  const CardExchange& e = *p.exchange;
  std::vector<RowBuffer> rows;
  for (size_t b = 0; b < p.buffers.size(); ++b) {
    BATON_CUDA_CHECK(cudaMemcpyAsync(p.buffers[b], p.before[b], static_cast<size_t>(rows_of(e) * e.row_bytes[b]),
                                     cudaMemcpyDeviceToDevice, rank.stream()),
                     "buffer {}", b);
    rows.push_back({p.buffers[b], static_cast<size_t>(e.row_bytes[b])});
  }
  if (!e.sums) return rank.comm().all_gather(rows, e.bounds);
  return rank.comm().reduce_scatter(p.buffers[0], e.dtype, e.bounds,
                                    e.row_bytes[0] / static_cast<int64_t>(tensor::dtype_size(e.dtype)));
}
void check(const PreparedExchange& p, CardRank& rank, int number) {
  const std::vector<Bytes> right = expected(*p.exchange, static_cast<size_t>(rank.comm().rank()));
  for (size_t b = 0; b < right.size(); ++b)
    EXPECT_EQ(rank.read(p.buffers[b], right[b].size()) == right[b], true)
        << "exchange " << number << " buffer " << b << " rank " << rank.comm().rank() << " sums " << p.exchange->sums
        << " rows " << rows_of(*p.exchange) << " of " << p.exchange->row_bytes[b] << " bytes";
}

TEST(CardComm, SumsAndGatheringsOfAnySizeOneAfterAnother) {
  if (cards() == 0) GTEST_SKIP() << "no card";
  for (const Placing& placing : placings()) {
    Random random{11};
    std::vector<CardExchange> exchanges;
    for (int i = 0; i < 60; ++i) exchanges.push_back(random_exchange(random, placing.ranks));
    RankGroup group(placing.ranks);
    on_ranks(placing.ranks, [&](int r) {
      CardRank rank(group, r, r * placing.card_step);
      std::vector<PreparedExchange> prepared;
      for (const CardExchange& e : exchanges) prepared.push_back(prepare(e, rank));
      ASSERT_TRUE(group.barrier().ok());
      for (int pass = 0; pass < 3; ++pass) {
        for (const PreparedExchange& p : prepared) ASSERT_TRUE(enqueue(p, rank).ok());
        BATON_CUDA_CHECK(cudaStreamSynchronize(rank.stream()), "pass {}", pass);
        for (size_t i = 0; i < prepared.size(); ++i) check(prepared[i], rank, static_cast<int>(i));
        ASSERT_TRUE(group.barrier().ok());
      }
      EXPECT_EQ(rank.comm().recordable(), placing.card_step > 0);
    });
  }
}

TEST(CardComm, SomeRanksRepeatARecordWhereOthersCall) {
  if (cards() < 2) GTEST_SKIP() << "less than two cards";
  const int ranks = std::min(cards(), 8);
  Random random{12};
  std::vector<CardExchange> exchanges;
  for (int i = 0; i < 30; ++i) exchanges.push_back(random_exchange(random, ranks));
  RankGroup group(ranks);
  on_ranks(ranks, [&](int r) {
    CardRank rank(group, r, r);
    std::vector<PreparedExchange> prepared;
    for (const CardExchange& e : exchanges) prepared.push_back(prepare(e, rank));
    ASSERT_TRUE(group.barrier().ok());
    const auto all = [&] {
      for (const PreparedExchange& p : prepared) ASSERT_TRUE(enqueue(p, rank).ok());
    };
    all();
    BATON_CUDA_CHECK(cudaStreamSynchronize(rank.stream()), "called");
    cudaGraph_t recorded = nullptr;
    cudaGraphExec_t record = nullptr;
    BATON_CUDA_CHECK(cudaStreamBeginCapture(rank.stream(), cudaStreamCaptureModeThreadLocal), "a record");
    all();
    BATON_CUDA_CHECK(cudaStreamEndCapture(rank.stream(), &recorded), "a record");
    BATON_CUDA_CHECK(cudaGraphInstantiate(&record, recorded, 0), "a record");
    for (int pass = 0; pass < 20; ++pass) {
      for (const PreparedExchange& p : prepared)
        BATON_CUDA_CHECK(
            cudaMemsetAsync(p.buffers[0], 0xff, static_cast<size_t>(rows_of(*p.exchange) * p.exchange->row_bytes[0]),
                            rank.stream()),
            "");
      if ((pass + r) % 3 == 0) {
        all();
      } else {
        BATON_CUDA_CHECK(cudaGraphLaunch(record, rank.stream()), "pass {}", pass);
      }
      if (pass % 5 != 4) continue;
      for (size_t i = 0; i < prepared.size(); ++i) check(prepared[i], rank, static_cast<int>(i));
    }
    ASSERT_TRUE(group.barrier().ok());
    BATON_CUDA_CHECK(cudaGraphExecDestroy(record), "a record");
    BATON_CUDA_CHECK(cudaGraphDestroy(recorded), "a record");
  });
}

template <class T>
float float_of(T v);
template <>
float float_of(float v) {
  return v;
}
template <>
float float_of(BF16 v) {
  return tensor::to_float(v);
}
template <class T>
T rounded(float v);
template <>
float rounded(float v) {
  return v;
}
template <>
BF16 rounded(float v) {
  return tensor::to_bf16(v);
}

// Sums on every rank with the norm behind them, among sums and gatherings of other sizes.
template <class T>
void expect_sums_everywhere(DType dtype, double tolerance) {
  const int ranks = 2;
  struct Shape {
    int64_t rows, width;
    bool norm;
  };
  const Shape shapes[] = {{1, 96, true},   {3, 98, true},    {1, 1024, true}, {7, 2048, true}, {16, 2048, false},
                          {1, 4096, true}, {5, 4096, false}, {1, 7168, true}, {2, 7168, true}, {1, 8192, true}};
  Random random{13};
  const auto value = [&] { return rounded<T>(static_cast<float>(random.uniform() * 2 - 1)); };
  RankGroup group(ranks);
  struct Case {
    Shape shape;
    std::vector<std::vector<T>> partial;  // (rank)
    std::vector<T> residual;
    std::vector<float> weight;
  };
  std::vector<Case> cases;
  for (int i = 0; i < 40; ++i) {
    Case& c = cases.emplace_back();
    c.shape = shapes[random.below(std::size(shapes))];
    if (dtype == DType::kF32 && c.shape.width > 4096) c.shape.width = 4096;
    const auto n = static_cast<size_t>(c.shape.rows * c.shape.width);
    for (int r = 0; r < ranks; ++r) std::generate_n(std::back_inserter(c.partial.emplace_back()), n, value);
    std::generate_n(std::back_inserter(c.residual), n, value);
    for (int64_t k = 0; k < c.shape.width; ++k) c.weight.push_back(static_cast<float>(random.uniform()) + 0.5F);
  }
  const CardExchange large = [&] {
    CardExchange e;
    for (int r = 0; r <= ranks; ++r) e.bounds.push_back(300 * r);
    e.row_bytes = {4096};
    e.has.assign(static_cast<size_t>(ranks), {Bytes(static_cast<size_t>(300 * ranks) * 4096)});
    return e;
  }();
  on_ranks(ranks, [&](int r) {
    CardRank rank(group, r, r);
    const auto bytes_of = [](const auto& values) {
      const auto bytes = std::as_bytes(std::span(values));
      return Bytes(bytes.begin(), bytes.end());
    };
    struct OnCard {
      std::byte *partial, *residual, *weight, *normed;
    };
    std::vector<OnCard> on_card;
    for (const Case& c : cases)
      on_card.push_back({rank.copy_of(bytes_of(c.partial[static_cast<size_t>(r)])), rank.copy_of(bytes_of(c.residual)),
                         rank.copy_of(bytes_of(c.weight)), rank.allocate(c.residual.size() * sizeof(T))});
    const PreparedExchange between = prepare(large, rank);
    ASSERT_TRUE(group.barrier().ok());
    EXPECT_FALSE(rank.comm().sums_everywhere(1, 64));  // nobody has met yet
    for (size_t i = 0; i < cases.size(); ++i) {
      if (i % 3 == 0) {
        ASSERT_TRUE(enqueue(between, rank).ok());
      }
      const Shape& shape = cases[i].shape;
      ASSERT_TRUE(rank.comm().sums_everywhere(shape.rows, shape.width * static_cast<int64_t>(sizeof(T))));
      const SumsTarget target{on_card[i].residual,
                              shape.norm ? reinterpret_cast<const float*>(on_card[i].weight) : nullptr, 1e-6F,
                              on_card[i].normed};
      ASSERT_TRUE(rank.comm().all_reduce(on_card[i].partial, dtype, shape.rows, shape.width, target).ok());
    }
    EXPECT_FALSE(rank.comm().sums_everywhere(4096, 4096));
    for (size_t i = 0; i < cases.size(); ++i) {
      const Case& c = cases[i];
      const Bytes residual = rank.read(on_card[i].residual, c.residual.size() * sizeof(T));
      const Bytes normed = rank.read(on_card[i].normed, c.residual.size() * sizeof(T));
      for (int64_t row = 0; row < c.shape.rows; ++row) {
        double square = 0;
        const auto at = static_cast<size_t>(row * c.shape.width), width = static_cast<size_t>(c.shape.width);
        for (size_t k = at; k < at + width; ++k) {
          float sum = 0;
          for (const auto& partial : c.partial) sum += float_of(partial[k]);
          const T right = rounded<T>(float_of(c.residual[k]) + float_of(rounded<T>(sum)));
          ASSERT_EQ(std::memcmp(residual.data() + k * sizeof(T), &right, sizeof(T)), 0) << i << " value " << k;
          square += static_cast<double>(float_of(right)) * float_of(right);
        }
        if (!c.shape.norm) continue;
        const double scale = 1 / std::sqrt(square / static_cast<double>(width) + 1e-6);
        for (size_t k = at; k < at + width; ++k) {
          T ours, sum;
          std::memcpy(&ours, normed.data() + k * sizeof(T), sizeof(T));
          std::memcpy(&sum, residual.data() + k * sizeof(T), sizeof(T));
          ASSERT_NEAR(float_of(ours), float_of(sum) * scale * c.weight[k - at], tolerance) << i << " value " << k;
        }
      }
    }
    ASSERT_TRUE(group.barrier().ok());
  });
}

TEST(CardComm, SumsEverywhereAreNormedWhereWanted) {
  if (cards() < 2) GTEST_SKIP() << "less than two cards";
  expect_sums_everywhere<float>(DType::kF32, 1e-5);
  expect_sums_everywhere<BF16>(DType::kBF16, 2e-2);
}

TEST(CardComm, AbortEndsKernelsThatWait) {
  if (cards() < 2) GTEST_SKIP() << "less than two cards";
  const int ranks = std::min(cards(), 8);
  for (const int64_t width : {int64_t{64}, int64_t{1} << 20}) {
    std::vector<int64_t> bounds;
    for (int r = 0; r <= ranks; ++r) bounds.push_back(r);
    RankGroup group(ranks);
    const auto begun = std::chrono::steady_clock::now();
    on_ranks(ranks, [&](int r) {
      CardRank rank(group, r, r);
      std::byte* values = rank.allocate(static_cast<size_t>(width) * sizeof(float) * static_cast<size_t>(ranks));
      ASSERT_TRUE(group.barrier().ok());
      ASSERT_TRUE(rank.comm().reduce_scatter(values, DType::kF32, bounds, width).ok());
      BATON_CUDA_CHECK(cudaStreamSynchronize(rank.stream()), "a sum");
      ASSERT_TRUE(group.barrier().ok());
      if (r == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        rank.comm().abort(error(ErrorCode::kCorrupt, "rank 0 fell over"));
        return;
      }
      (void)rank.comm().reduce_scatter(values, DType::kF32, bounds, width);
      EXPECT_EQ(cudaStreamSynchronize(rank.stream()), cudaSuccess);
      const Status later = rank.comm().reduce_scatter(values, DType::kF32, bounds, width);
      ASSERT_FALSE(later.ok());
      EXPECT_EQ(later.error().message, "rank 0 fell over");
    });
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(20));
  }
}

TEST(CardComm, SendAndReceivePassAlongInOrder) {
  if (cards() == 0) GTEST_SKIP() << "no card";
  for (const Placing& placing : placings()) {
    RankGroup group(placing.ranks);
    on_ranks(placing.ranks, [&](int r) {
      CardRank rank(group, r, r * placing.card_step);
      constexpr int kMessages = 60;
      constexpr size_t kMost = 3 << 20;
      std::byte* buffer = rank.allocate(kMost);
      for (int message = 0; message < kMessages; ++message) {
        const size_t bytes = message % 7 == 0 ? 0 : (static_cast<size_t>(message) * 7919 * 64) % kMost;
        const std::span values(buffer, bytes);
        if (r > 0) {
          BATON_CUDA_CHECK(cudaMemsetAsync(buffer, 0xee, bytes, rank.stream()), "message {}", message);
          ASSERT_TRUE(rank.comm().receive(r - 1, values).ok());
          if (message % 4 == 3) {
            EXPECT_EQ(rank.read(buffer, bytes) == Bytes(bytes, static_cast<std::byte>(message + r)), true)
                << "message " << message << " rank " << r;
          }
        }
        BATON_CUDA_CHECK(cudaMemsetAsync(buffer, message + r + 1, bytes, rank.stream()), "message {}", message);
        if (r + 1 < placing.ranks) {
          ASSERT_TRUE(rank.comm().send(r + 1, values).ok());
        }
        BATON_CUDA_CHECK(cudaMemsetAsync(buffer, 0xdd, bytes, rank.stream()), "message {}", message);
      }
      BATON_CUDA_CHECK(cudaStreamSynchronize(rank.stream()), "the end");
      ASSERT_TRUE(group.barrier().ok());
    });
  }
}

}  // namespace
}  // namespace baton::comm
