#include "kernels/cuda/cuda_testing.h"

namespace baton::kernels::cuda {
namespace {

template <class T>
class LinearOnCard : public OnACardAs<T> {};
TYPED_TEST_SUITE(LinearOnCard, Elements);

template <class T, class Y>
void expect_linear(Products& products, int64_t m, int64_t n, int64_t k) {
  SCOPED_TRACE(testing::Message() << m << " " << n << " " << k);
  const int64_t x_stride = k + 16, y_stride = n + 8;
  const auto w = random_values<T>(n * k), x = random_values<T>(m * x_stride);
  const OnCard<T> w_card(w), x_card(x);
  const OnCard<Y> y(m * y_stride);
  std::vector<float> expected(m * n), actual(m * n);
  linear_ref(w.data(), n, k, Compute::kF32, x.data(), x_stride, m, expected.data(), n);
  products.linear<T, Y>(nullptr, w_card.data(), n, k, x_card.data(), x_stride, m, y.data(), y_stride);
  const auto all = y.floats();
  for (int64_t i = 0; i < m * n; ++i) actual[i] = all[i / n * y_stride + i % n];
  EXPECT_CLOSE(T, actual, expected);
}

TYPED_TEST(LinearOnCard, IsTheReferences) {
  using T = TypeParam;
  Products products;
  for (const int64_t small_rows : {0, 64}) {
    products.set_small_rows(small_rows);
    for (const int64_t m : {1, 7, 8, 13, 17, 40, 200}) {
      expect_linear<T, T>(products, m, 64, 128);
      expect_linear<T, float>(products, m, 200, 1416);
      expect_linear<T, T>(products, m, 1000, 72);
      expect_linear<T, float>(products, m, 33, 77);
    }
  }
}

Fp8Weight fp8_weight(const Fp8Stack& stack, const OnCard<fp8>& values, const OnCard<float>& scales) {
  return {stack.layout, values.data(), scales.data()};
}

TEST_F(OnACard, LinearOfFp8WeightsIsTheReferences) {
  struct Case {
    int64_t n, k;
    int row_shift;
  };
  for (const auto& [n, k, row_shift] : {Case{200, 1424, 7}, Case{320, 136, 6}, Case{48, 40, 3}, Case{72, 18432, 7}}) {
    const int64_t stride = k + 60;  // rows begin at multiples of 8 bytes
    const Fp8Stack w = random_fp8(1, n, k, 1, row_shift);
    const OnCard<fp8> values(w.values);
    const OnCard<float> scales(w.scales);
    const Fp8Weight weight = fp8_weight(w, values, scales);
    const OnCard<bf16> wide(n * k);
    dequantize_weight(nullptr, weight, wide.data());
    EXPECT_CLOSE(bf16, wide.floats(), w.floats);
    for (const int64_t m : {1, 7, 9, 32, 40}) {
      SCOPED_TRACE(testing::Message() << m << " " << n << " " << k);
      const auto x = random_values<bf16>(m * stride);
      const OnCard<float> y_float(m * n);
      const OnCard<bf16> x_card(x), y(m * n);
      std::vector<float> expected(m * n);
      linear_ref(w.floats.data(), n, k, Compute::kF32, x.data(), stride, m, expected.data(), n);
      linear_fp8<float>(nullptr, weight, x_card.data(), stride, m, y_float.data(), n);
      linear_fp8<bf16>(nullptr, weight, x_card.data(), stride, m, y.data(), n);
      EXPECT_CLOSE(float, y_float.floats(), expected);
      EXPECT_CLOSE(bf16, y.floats(), expected);
    }
  }
}

// x as quantize_rows() leaves it, and what it stands for.
std::vector<float> values_of(const Fp8Rows& rows) {
  std::vector<fp8> values(rows.m * rows.stride());
  std::vector<float> scales((rows.k + 127) / 128 * rows.scale_stride()), floats;
  must(cudaDeviceSynchronize());
  must(cudaMemcpy(values.data(), rows.values, values.size(), cudaMemcpyDeviceToHost));
  must(cudaMemcpy(scales.data(), rows.scales, scales.size() * sizeof(float), cudaMemcpyDeviceToHost));
  for (int64_t i = 0; i < rows.m * rows.k; ++i) {
    const int64_t r = i / rows.k, c = i % rows.k;
    floats.push_back(static_cast<float>(values[r * rows.stride() + c]) * scales[c / 128 * rows.scale_stride() + r]);
  }
  return floats;
}

// Rounding a row to fp8 has an error of its own, 0.03 of uniform values; against what is left of them the product is
// as good as any.
TEST_F(OnACard, LinearOfFp8OnBothSidesIsTheReferences) {
  struct Case {
    int64_t m, n, k;
    int row_shift;
  };
  Products products;
  for (const auto& [m, n, k, row_shift] : {Case{512, 512, 1024, 7}, Case{32, 512, 1024, 7}, Case{130, 320, 136, 6},
                                           Case{300, 576, 2048, 7}, Case{1, 48, 40, 3}, Case{257, 200, 1424, 5}}) {
    SCOPED_TRACE(testing::Message() << m << " " << n << " " << k);
    const int64_t x_stride = k + 60, y_stride = n + 8;
    const Fp8Stack w = random_fp8(1, n, k, 1, row_shift);
    const OnCard<fp8> values(w.values);
    const OnCard<float> scales(w.scales);
    const auto x = random_values<bf16>(m * x_stride);
    const OnCard<bf16> x_card(x);
    const OnCard<uint8_t> memory(fp8_rows_bytes(m, k));
    const Fp8Rows rows = quantize_rows(nullptr, x_card.data(), x_stride, m, k, memory.data());
    const std::vector<float> rounded_x = values_of(rows);
    std::vector<float> dense_x, expected(m * n), of_rows(m * n);
    for (int64_t r = 0; r < m; ++r) dense_x.insert(dense_x.end(), &x[r * x_stride], &x[r * x_stride + k]);
    EXPECT_LE(error_of(rounded_x, dense_x), 0.04);
    linear_ref(w.floats.data(), n, k, Compute::kF32, rounded_x.data(), k, m, expected.data(), n);
    for (const bool library : {false, true}) {
      SCOPED_TRACE(library);
      products.set_fp8_library(library);
      const OnCard<bf16> y(m * y_stride);
      products.linear_fp8(nullptr, rows, fp8_weight(w, values, scales), y.data(), y_stride);
      const auto all = y.floats();
      for (int64_t i = 0; i < m * n; ++i) of_rows[i] = all[i / n * y_stride + i % n];
      EXPECT_CLOSE(bf16, of_rows, expected);
    }
  }
}

TYPED_TEST(LinearOnCard, OfHeadsIsTheReferences) {
  using T = TypeParam;
  Products products;
  constexpr int64_t kHeads = 3, kN = 64, kK = 128, kXHead = 192, kYHead = 80;
  for (const int64_t small_rows : {0, 16}) {
    products.set_small_rows(small_rows);
    for (const int64_t m : {1, 9, 33}) {
      const auto w = random_values<T>(kHeads * kN * kK), x = random_values<T>(m * kHeads * kXHead);
      const OnCard<T> w_card(w), x_card(x), y(m * kHeads * kYHead);
      products.linear_heads<T>(nullptr, w_card.data(), kHeads, kN, kK, x_card.data(), kHeads * kXHead, kXHead, m,
                               y.data(), kHeads * kYHead, kYHead);
      const auto all = y.floats();
      for (int64_t h = 0; h < kHeads; ++h) {
        std::vector<float> expected(m * kN), actual;
        linear_ref(w.data() + h * kN * kK, kN, kK, Compute::kF32, x.data() + h * kXHead, kHeads * kXHead, m,
                   expected.data(), kN);
        for (int64_t i = 0; i < m * kN; ++i) actual.push_back(all[(i / kN * kHeads + h) * kYHead + i % kN]);
        EXPECT_CLOSE(T, actual, expected);
      }
    }
  }
}

}  // namespace
}  // namespace baton::kernels::cuda
