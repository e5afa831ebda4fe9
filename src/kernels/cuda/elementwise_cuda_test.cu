#include "kernels/backend.h"
#include "kernels/cuda/cuda_testing.h"

namespace baton::kernels::cuda {
namespace {

template <class T>
class ElementwiseOnCard : public OnACardAs<T> {};
TYPED_TEST_SUITE(ElementwiseOnCard, Elements);

struct Size {
  int64_t m, n, gap;  // gap: between rows of the input
};
const Size kSizes[] = {{1, 2048, 0}, {3, 512, 64}, {7, 77, 3}, {129, 4096, 8}, {2, 20000, 0}, {5, 40, 0}};

TYPED_TEST(ElementwiseOnCard, NormsAreTheReferences) {
  using T = TypeParam;
  for (const auto [m, n, gap] : kSizes) {
    SCOPED_TRACE(n);
    const auto x = random_values<T>(m * (n + gap)), residual = random_values<T>(m * n, 3),
               weight = random_values<float>(n);
    const OnCard<T> x_card(x), y(m * n), residual_card(residual), summed(m * n);
    const OnCard<float> weight_card(weight);
    std::vector<float> expected(m * n);
    rms_norm_ref(x.data(), n + gap, weight.data(), 1e-5F, m, n, expected.data(), n);
    rms_norm<T>(nullptr, x_card.data(), n + gap, weight_card.data(), 1e-5F, m, n, y.data(), n);
    EXPECT_CLOSE(T, y.floats(), expected);

    std::vector<float> dense(m * n), sums(m * n);
    for (int64_t i = 0; i < m * n; ++i) {
      dense[i] = x[i / n * (n + gap) + i % n];
      sums[i] = value_of(rounded<T>(dense[i] + residual[i]));
    }
    const OnCard<T> delta(dense);
    rms_norm_ref(sums.data(), n, weight.data(), 1e-5F, m, n, expected.data(), n);
    add_rms_norm<T>(nullptr, delta.data(), residual_card.data(), weight_card.data(), 1e-5F, m, n, summed.data());
    EXPECT_CLOSE(T, summed.floats(), expected);
    EXPECT_EQ(residual_card.floats(), sums);
  }
}

TYPED_TEST(ElementwiseOnCard, NormsOfHeadsAreTheReferences) {
  using T = TypeParam;
  for (const int dim : {128, 64, 20}) {
    constexpr int64_t kRows = 5, kHeads = 3;
    const int64_t stride = kHeads * dim + 16;
    const auto x = random_values<T>(kRows * stride), weight = random_values<float>(dim);
    const OnCard<T> x_card(x);
    const OnCard<float> weight_card(weight);
    std::vector<float> expected = x;
    for (int64_t i = 0; i < kRows * kHeads; ++i) {
      float* row = expected.data() + i / kHeads * stride + i % kHeads * dim;
      rms_norm_ref(row, dim, weight.data(), 1e-6F, 1, dim, row, dim);
    }
    rms_norm_heads<T>(nullptr, x_card.data(), stride, weight_card.data(), 1e-6F, kRows, kHeads, dim);
    EXPECT_CLOSE(T, x_card.floats(), expected);
  }
}

TYPED_TEST(ElementwiseOnCard, RopesAreTheReferences) {
  using T = TypeParam;
  constexpr int64_t kRows = 6, kHeads = 3, kDim = 64, kHeadStride = 80, kStride = kHeads * kHeadStride + 8, kTable = 50;
  const std::vector<int32_t> positions{3, 0, 49, 7, 7, 21};
  const auto cos = random_values<float>(kTable * kDim / 2), sin = random_values<float>(kTable * kDim / 2);
  std::vector<float> row_cos, row_sin;
  for (const int32_t p : positions) {
    row_cos.insert(row_cos.end(), cos.begin() + p * kDim / 2, cos.begin() + (p + 1) * kDim / 2);
    row_sin.insert(row_sin.end(), sin.begin() + p * kDim / 2, sin.begin() + (p + 1) * kDim / 2);
  }
  const OnCard<int32_t> positions_card(positions);
  const OnCard<float> cos_card(cos), sin_card(sin);
  for (const RopePairs pairs : {RopePairs::kInterleaved, RopePairs::kHalves}) {
    const auto x = random_values<T>(kRows * kStride);
    const OnCard<T> x_card(x);
    std::vector<float> expected = x;
    (pairs == RopePairs::kHalves ? rope_half_ref : rope_interleaved_ref)(
        expected.data(), kRows, kStride, kHeads, kHeadStride, kDim, row_cos.data(), row_sin.data());
    rope<T>(nullptr, pairs, x_card.data(), kRows, kStride, kHeads, kHeadStride, kDim, positions_card.data(),
            cos_card.data(), sin_card.data());
    EXPECT_CLOSE(T, x_card.floats(), expected);
    // Without positions a row's own number is its position in the table.
    const OnCard<T> gathered(x);
    const OnCard<float> row_cos_card(row_cos), row_sin_card(row_sin);
    rope<T>(nullptr, pairs, gathered.data(), kRows, kStride, kHeads, kHeadStride, kDim, nullptr, row_cos_card.data(),
            row_sin_card.data());
    EXPECT_EQ(gathered.floats(), x_card.floats());
  }
}

TYPED_TEST(ElementwiseOnCard, ActivationsAndSumsAreTheReferences) {
  using T = TypeParam;
  for (const auto [m, n, gap] : kSizes) {
    SCOPED_TRACE(n);
    const auto gate_up = random_values<T>(m * 2 * n, 4), x = random_values<T>(m * n), y = random_values<T>(m * n),
               bias = random_values<float>(n);
    const OnCard<T> gate_up_card(gate_up), activated(m * n), x_card(x), y_card(y);
    const OnCard<float> bias_card(bias);
    std::vector<float> expected(m * n);
    silu_mul_ref(gate_up.data(), m, n, expected.data());
    silu_mul<T>(nullptr, gate_up_card.data(), m, n, activated.data());
    EXPECT_CLOSE(T, activated.floats(), expected);
    for (int64_t i = 0; i < m * n; ++i) expected[i] = x[i] + y[i];
    add<T>(nullptr, m * n, x_card.data(), y_card.data());
    EXPECT_CLOSE(T, y_card.floats(), expected);
    for (int64_t i = 0; i < m * n; ++i) expected[i] += bias[i % n];
    add_bias<T>(nullptr, bias_card.data(), m, n, y_card.data());
    EXPECT_CLOSE(T, y_card.floats(), expected);
  }
}

TYPED_TEST(ElementwiseOnCard, RowsAreCopiedBitForBit) {
  using T = TypeParam;
  for (const auto [m, n, gap] : kSizes) {
    SCOPED_TRACE(n);
    const auto x = random_values<T>(m * (n + gap));
    std::vector<int32_t> rows(m + 2);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>((i * 5 + 1) % m);
    // Some say where to look.
    std::vector<int32_t> asked = rows, drawn(rows.size());
    for (size_t i = 0; i < rows.size(); i += 2) {
      drawn[rows.size() - 1 - i] = rows[i];
      asked[i] = -1 - static_cast<int32_t>(rows.size() - 1 - i);
    }
    const OnCard<T> x_card(x), copied(m * (n + 5)), gathered(rows.size() * n);
    const OnCard<int32_t> rows_card(asked), drawn_card(drawn);
    copy_columns<T>(nullptr, x_card.data(), n + gap, m, n, copied.data(), n + 5);
    gather_rows<T, T>(nullptr, x_card.data(), n + gap, rows_card.data(), drawn_card.data(),
                      static_cast<int64_t>(rows.size()), n, gathered.data());
    const auto copies = copied.floats(), gathers = gathered.floats();
    for (int64_t i = 0; i < m * n; ++i) ASSERT_EQ(copies[i / n * (n + 5) + i % n], x[i / n * (n + gap) + i % n]);
    for (size_t i = 0; i < gathers.size(); ++i) ASSERT_EQ(gathers[i], x[rows[i / n] * (n + gap) + i % n]);
    if (gap != 0) continue;
    if constexpr (std::is_same_v<T, bf16>) {
      const OnCard<float> wide(rows.size() * n);
      gather_rows<bf16, float>(nullptr, x_card.data(), n, rows_card.data(), drawn_card.data(),
                               static_cast<int64_t>(rows.size()), n, wide.data());
      EXPECT_EQ(wide.floats(), gathers);
    }
  }
}

TYPED_TEST(ElementwiseOnCard, HeadsAreCopiedBitForBit) {
  using T = TypeParam;
  for (const int dim : {64, 20}) {
    constexpr int64_t kRows = 5, kHeads = 3;
    const int64_t x_head = dim + 8, x_stride = kHeads * x_head + 16, y_head = 2 * dim, y_stride = kHeads * y_head;
    const auto x = random_values<T>(kRows * x_stride);
    const OnCard<T> x_card(x), y(kRows * y_stride);
    copy_heads<T>(nullptr, x_card.data(), x_stride, x_head, kRows, kHeads, dim, y.data(), y_stride, y_head);
    const auto copies = y.floats();
    for (int64_t i = 0; i < kRows * kHeads * dim; ++i)
      ASSERT_EQ(copies[i / dim / kHeads * y_stride + i / dim % kHeads * y_head + i % dim],
                x[i / dim / kHeads * x_stride + i / dim % kHeads * x_head + i % dim]);
  }
}

}  // namespace
}  // namespace baton::kernels::cuda
