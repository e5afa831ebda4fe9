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

TEST_F(OnACard, LinearOfFp8WeightsIsTheReferences) {
  constexpr int64_t kN = 200, kK = 1424, kStride = kK + 8;
  for (const int64_t m : {1, 8, 9, 40}) {
    const Fp8Stack w = random_fp8(1, kN, kK, 1);
    const auto x = random_values<bf16>(m * kStride);
    const OnCard<fp8> w_card(w.values);
    const OnCard<float> scales(w.scales), y_float(m * kN);
    const OnCard<bf16> x_card(x), y(m * kN);
    std::vector<float> expected(m * kN);
    linear_ref(w.floats.data(), kN, kK, Compute::kF32, x.data(), kStride, m, expected.data(), kN);
    linear_fp8<float>(nullptr, w_card.data(), scales.data(), kN, kK, x_card.data(), kStride, m, y_float.data(), kN);
    linear_fp8<bf16>(nullptr, w_card.data(), scales.data(), kN, kK, x_card.data(), kStride, m, y.data(), kN);
    EXPECT_CLOSE(float, y_float.floats(), expected);
    EXPECT_CLOSE(bf16, y.floats(), expected);
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
