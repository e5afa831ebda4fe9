#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include "kernels/kernel_testing.h"
#include "kernels/kernels.h"
#include "kernels/reference.h"

namespace baton::kernels {
namespace {

TEST(RmsNorm, EqualsReferenceAlsoInPlace) {
  for_each_target([] {
    for (const int64_t m : {0, 1, 3})
      for (const int64_t n : {1, 7, 16, 64, 130, 1536}) {
        const int64_t stride = n + 5;
        auto x = random_floats(m * stride, 1);
        const auto weight = random_floats(n, 2);
        std::vector<float> expected(x.size()), actual(x.size());
        rms_norm_ref(x.data(), stride, weight.data(), 1e-6f, m, n, expected.data(), stride);
        rms_norm(x.data(), stride, weight.data(), 1e-6f, m, n, actual.data(), stride);
        expect_close(actual, expected, 1e-5);
        rms_norm(x.data(), stride, weight.data(), 1e-6f, m, n, x.data(), stride);
        for (int64_t r = 0; r < m; ++r)
          for (int64_t i = 0; i < n; ++i) EXPECT_EQ(x[r * stride + i], actual[r * stride + i]);
      }
  });
}

TEST(Rope, EqualsReferenceAndLeavesTheRestAlone) {
  using Rope = void (*)(float*, int64_t, int64_t, int, int64_t, int, const float*, const float*);
  const std::pair<Rope, Rope> kinds[] = {{rope_half, rope_half_ref}, {rope_interleaved, rope_interleaved_ref}};
  for_each_target([&] {
    for (const auto& [rope, reference] : kinds)
      for (const int dim : {2, 6, 16, 32, 34, 64, 128})
        for (const int heads : {1, 3}) {
          const int64_t m = 4, head_stride = dim + 3, row_stride = heads * head_stride + 7;
          auto expected = random_floats(m * row_stride, 1), actual = expected;
          const auto cos = random_floats(m * dim / 2, 2), sin = random_floats(m * dim / 2, 3);
          reference(expected.data(), m, row_stride, heads, head_stride, dim, cos.data(), sin.data());
          rope(actual.data(), m, row_stride, heads, head_stride, dim, cos.data(), sin.data());
          expect_close(actual, expected, 1e-6);
        }
  });
}

TEST(SiluMul, EqualsReferenceForOrdinaryAndExtremeGates) {
  for_each_target([] {
    for (const int64_t n : {1, 16, 33, 200}) {
      const int64_t m = 3;
      auto x = random_floats(m * 2 * n, 1);
      for (size_t i = 0; i < x.size(); i += 3) x[i] *= 20;
      const float extremes[] = {0, -0.0f, 87, 89, 104, 1000, -87, -89, -104, -1000};
      for (int64_t i = 0; i < std::min<int64_t>(n, 10); ++i) x[i] = extremes[i];
      std::vector<float> expected(m * n), actual(m * n);
      silu_mul_ref(x.data(), m, n, expected.data());
      silu_mul(x.data(), m, n, actual.data());
      for (size_t i = 0; i < actual.size(); ++i)
        EXPECT_NEAR(actual[i], expected[i], 1e-5 * std::max(1.0f, std::fabs(expected[i]))) << i;
    }
  });
}

TEST(Axpy, EqualsReference) {
  for_each_target([] {
    for (const int64_t n : {0, 1, 15, 16, 100}) {
      const auto x = random_floats(n, 1);
      auto expected = random_floats(n, 2), actual = expected;
      axpy_ref(n, 0.7f, x.data(), expected.data());
      axpy(n, 0.7f, x.data(), actual.data());
      expect_close(actual, expected, 1e-6);
    }
  });
}

TEST(AddBias, AddsToEveryRow) {
  for_each_target([] {
    const auto bias = random_floats(37, 1);
    const auto before = random_floats(3 * 37, 2);
    auto y = before;
    add_bias(bias.data(), 3, 37, y.data());
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], before[i] + bias[i % 37]);
  });
}

TEST(RmsNormHeads, EqualsTheNormOfEachHead) {
  for_each_target([] {
    constexpr int64_t kRows = 3, kStride = 100;
    constexpr int kHeads = 4, kDim = 24;
    const auto weight = random_floats(kDim, 1);
    auto expected = random_floats(kRows * kStride, 2), actual = expected;
    for (int64_t r = 0; r < kRows; ++r)
      rms_norm_ref(expected.data() + r * kStride, kDim, weight.data(), 1e-6f, kHeads, kDim,
                   expected.data() + r * kStride, kDim);
    rms_norm_heads(actual.data(), kStride, weight.data(), 1e-6f, kRows, kHeads, kDim);
    expect_close(actual, expected, 1e-5);
  });
}

TEST(UniformBf16, EqualsReferenceBitForBitOnEveryTargetInAnySlice) {
  constexpr int64_t kCount = 203;
  std::vector<uint16_t> expected(kCount);
  uniform_bf16_ref(0x0123456789abcdef, 77, kCount, 0.25f, expected.data());
  for_each_target([&] {
    for (const int64_t begin : {0, 1, 5, 64}) {
      std::vector<uint16_t> actual(kCount - begin);
      uniform_bf16(0x0123456789abcdef, 77 + begin, kCount - begin, 0.25f, actual.data());
      EXPECT_EQ(actual, std::vector<uint16_t>(expected.begin() + begin, expected.end()));
    }
  });
}

TEST(UniformBf16, FillsItsRangeEvenlyAndRowsDiffer) {
  constexpr int64_t kCount = 1 << 16;
  std::vector<uint16_t> a_bits(kCount), b_bits(kCount);
  uniform_bf16(1, 0, kCount, 2, a_bits.data());
  uniform_bf16(uint64_t{1} << 32 | 1, 0, kCount, 2, b_bits.data());
  int quarter[4] = {}, equal = 0;
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    const float a = tensor::to_float(tensor::BF16{a_bits[i]});
    ASSERT_LE(std::fabs(a), 2);
    ++quarter[std::clamp(static_cast<int>(std::floor(a)) + 2, 0, 3)];
    sum += a;
    squares += a * a;
    equal += a_bits[i] == b_bits[i];
  }
  for (const int count : quarter) EXPECT_NEAR(count, kCount / 4, 600);  // five deviations
  EXPECT_NEAR(sum / kCount, 0, 0.025);
  EXPECT_NEAR(squares / kCount, 4.0 / 3, 0.025);
  EXPECT_LT(equal, kCount / 50);
}

}  // namespace
}  // namespace baton::kernels
