// What Linear makes of slices: of every stored type, transposed, stacked and shared.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "kernels/kernel_testing.h"
#include "kernels/kernels.h"

namespace baton::kernels {
namespace {

constexpr int64_t kN = 150, kK = 333, kM = 7;

tensor::StoredMatrix bf16_matrix(const std::vector<float>& w, int64_t rows, int64_t cols) {
  auto bits = std::make_shared<std::vector<uint16_t>>();
  for (const float v : w) bits->push_back(tensor::to_bf16(v).bits);
  return {.data = reinterpret_cast<const std::byte*>(bits->data()),
          .dtype = tensor::DType::kBF16,
          .rows = rows,
          .cols = cols,
          .stride = cols,
          .scales = {},
          .owner = bits};
}

// The same values as dense float32.
std::vector<float> widened(const tensor::StoredMatrix& m) {
  std::vector<float> w(static_cast<size_t>(m.rows * m.cols));
  for (int64_t r = 0; r < m.rows; ++r) m.read(r, 0, m.cols, w.data() + r * m.cols);
  return w;
}

std::vector<float> product(const Linear& linear) {
  const auto x = random_floats(kM * linear.k(), 9);
  std::vector<float> y(static_cast<size_t>(kM * linear.n()));
  linear.apply(x.data(), kM, y.data());
  return y;
}

tensor::MatrixSlice named(tensor::MatrixSlice slice, std::string name) {
  slice.identity = std::move(name);
  return slice;
}

// float8 as quantize_fp8 makes it, float32, and parts of bfloat16 and float16 that are not aligned.
std::vector<tensor::StoredMatrix> every_type() {
  static const auto w = random_floats((kN + 3) * (kK + 5), 1);
  std::vector<tensor::StoredMatrix> all;
  const tensor::StoredMatrix f32 = tensor::slice_of(w, kN + 3, kK + 5).stored();
  tensor::StoredMatrix bf16 = bf16_matrix(w, kN + 3, kK + 5), f16 = bf16;
  f16.dtype = tensor::DType::kF16;  // other values, of the same bits
  tensor::StoredMatrix odd = bf16;
  const auto bytes = std::make_shared<std::vector<std::byte>>(w.size() * 2 + 1);
  std::memcpy(bytes->data() + 1, bf16.data, w.size() * 2);
  odd.data = bytes->data() + 1;
  odd.owner = bytes;
  for (const tensor::StoredMatrix& m : {f32, bf16, f16, odd, tensor::quantize_fp8(f32, {50, 70})})
    all.push_back(m.cut({2, kN + 2}, {3, kK + 3}));
  return all;
}

TEST(LinearSlices, EveryStoredTypeHasTheBitsOfItsFloat32) {
  for_each_target([&] {
    for (const tensor::StoredMatrix& m : every_type())
      for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
        SCOPED_TRACE(tensor::dtype_name(m.dtype));
        const std::vector<float> w = widened(m);
        EXPECT_EQ(product(Linear(tensor::slice_of(m), compute)), product(Linear(tensor::slice_of(w, kN, kK), compute)));
      }
  });
}

TEST(LinearSlices, ATransposedSliceIsThePackedTranspose) {
  for_each_target([&] {
    for (const tensor::StoredMatrix& m : every_type())
      for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
        const std::vector<float> w = widened(m);
        std::vector<float> turned(w.size());
        for (int64_t r = 0; r < kN; ++r)
          for (int64_t c = 0; c < kK; ++c) turned[c * kN + r] = w[r * kK + c];
        EXPECT_EQ(product(Linear(tensor::slice_of(m).transpose(), compute)),
                  product(Linear(tensor::slice_of(turned, kK, kN), compute)));
      }
  });
}

TEST(LinearSlices, AStackHasTheBitsOfItsWholeWithHelpersToo) {
  for (const int threads : {1, 3}) {
    set_gemm_threads(threads);
    for_each_target([&] {
      for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
        const auto w = random_floats(1000 * kK, 1);
        std::vector<tensor::MatrixSlice> parts;
        int64_t begin = 0;
        for (const int64_t end : {1, 65, 129, 200, 520, 535, 1000}) {
          parts.push_back(tensor::slice_of(std::span(w).subspan(begin * kK, (end - begin) * kK), end - begin, kK));
          begin = end;
        }
        EXPECT_EQ(product(Linear(parts, compute)), product(Linear(tensor::slice_of(w, 1000, kK), compute)));
      }
    });
  }
  set_gemm_threads(1);
}

TEST(LinearSlices, SlicesOfOneIdentityAreReadAndHeldOnce) {
  const auto w = random_floats(kN * kK, 1), other = random_floats(kN * kK, 2);
  const tensor::MatrixSlice a = named(tensor::slice_of(w, kN, kK), "a");
  const WeightBytes none = weight_bytes();
  {
    const Linear first(a, Compute::kBF16);
    const WeightBytes one = weight_bytes();
    EXPECT_EQ(one.read - none.read, kN * kK * sizeof(float));
    EXPECT_GE(one.held - none.held, kN * kK * sizeof(uint16_t));
    const tensor::MatrixSlice both[] = {named(tensor::slice_of(other, kN, kK), "b"), a};
    const Linear stack(both, Compute::kBF16);
    EXPECT_EQ(weight_bytes().read - one.read, kN * kK * sizeof(float));  // b's alone
    EXPECT_EQ(weight_bytes().held - one.held, one.held - none.held);
    // Not the same: another form, another product, no name.
    const Linear turned(a.transpose(), Compute::kBF16), wide(a, Compute::kF32),
        nameless(tensor::slice_of(w, kN, kK), Compute::kBF16);
    EXPECT_EQ(weight_bytes().read - one.read, 4 * kN * kK * sizeof(float));
    EXPECT_EQ(product(turned).size(), static_cast<size_t>(kM * kK));
  }
  EXPECT_EQ(weight_bytes().held, none.held);
  // Nobody held it any more, so it is read again.
  const uint64_t read = weight_bytes().read;
  const Linear again(named(tensor::slice_of(other, kN, kK), "a"), Compute::kBF16);
  EXPECT_EQ(weight_bytes().read - read, kN * kK * sizeof(float));
  EXPECT_EQ(product(again), product(Linear(tensor::slice_of(other, kN, kK), Compute::kBF16)));
}

TEST(LinearSlices, ThreadsThatLoadTheSameSlicesReadEachOnce) {
  constexpr int kThreads = 6, kSlices = 20;
  const auto w = random_floats(kN * kK, 1);
  const std::vector<float> expected = product(Linear(tensor::slice_of(w, kN, kK), Compute::kBF16));
  const uint64_t read = weight_bytes().read;
  std::atomic<int> loaded{0}, calls{0};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      std::vector<Linear> held;
      for (int s = 0; s < kSlices; ++s) {
        tensor::MatrixSlice slice = named(tensor::slice_of(w, kN, kK), fmt::format("slice {}", s));
        slice.stored = [&calls, inner = slice.stored] {
          ++calls;
          return inner();
        };
        held.emplace_back(slice, Compute::kBF16);
      }
      // Without waiting for the others: what they still pack is waited for here.
      for (const Linear& linear : held) EXPECT_EQ(product(linear), expected);
      for (++loaded; loaded < kThreads;) std::this_thread::yield();
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(calls, kSlices);
  EXPECT_EQ(weight_bytes().read - read, kSlices * kN * kK * sizeof(float));
}

}  // namespace
}  // namespace baton::kernels
