#include "kernels/cuda/card_weights.h"
#include "kernels/cuda/cuda_testing.h"
#include "kernels/kernels.h"

namespace baton::kernels::cuda {
namespace {

// A bfloat16 matrix, as stored bytes or as the places of made-up values.
tensor::MatrixSlice made_up(int64_t n, int64_t k, int64_t first_col, bool uniform) {
  auto m = std::make_shared<tensor::UniformMatrix>();
  for (int64_t r = 0; r < n; ++r) m->row_keys.push_back(entropy());
  m->first_col = first_col;
  m->scale = 0.3F;
  auto bits = std::make_shared<std::vector<uint16_t>>(n * k);
  for (int64_t r = 0; r < n; ++r) uniform_bf16(m->row_keys[r], first_col, k, m->scale, bits->data() + r * k);
  tensor::MatrixSlice slice =
      tensor::slice_of(tensor::StoredMatrix{.data = reinterpret_cast<const std::byte*>(bits->data()),
                                            .dtype = tensor::DType::kBF16,
                                            .rows = n,
                                            .cols = k,
                                            .stride = k,
                                            .scales = {},
                                            .owner = bits});
  if (uniform) slice.uniform = [m] { return *m; };
  return slice;
}

// As Weights::linear() has it for --quantization fp8.
tensor::MatrixSlice quantized(const tensor::MatrixSlice& whole, LongInterval rows, LongInterval cols) {
  tensor::MatrixSlice slice = tensor::slice_of(tensor::quantize_fp8(whole.stored()).cut(rows, cols));
  slice.unquantized = std::make_shared<const tensor::MatrixSlice>(whole);
  slice.rows_of_unquantized = rows;
  slice.cols_of_unquantized = cols;
  return slice;
}

std::vector<float> read_all(const tensor::MatrixSlice& slice) {
  const tensor::StoredMatrix m = slice.stored();
  std::vector<float> values(m.rows * m.cols);
  for (int64_t r = 0; r < m.rows; ++r) m.read(r, 0, m.cols, values.data() + r * m.cols);
  return values;
}

std::vector<float> read_fp8(const CardWeight& weight) {
  std::vector<fp8> values(weight.layout.n * weight.layout.stride());
  std::vector<float> scales(weight.layout.scale_rows() * weight.layout.scale_stride()), floats;
  must(cudaDeviceSynchronize());
  must(cudaMemcpy(values.data(), weight.memory.get(), values.size(), cudaMemcpyDeviceToHost));
  must(cudaMemcpy(scales.data(), weight.scales.get(), scales.size() * sizeof(float), cudaMemcpyDeviceToHost));
  const Fp8Layout& l = weight.layout;
  for (int64_t i = 0; i < l.n * l.k; ++i) {
    const int64_t r = i / l.k, c = i % l.k;
    floats.push_back(static_cast<float>(values[r * l.stride() + c]) *
                     scales[(r >> l.row_shift) * l.scale_stride() + c / 128]);
  }
  return floats;
}

class WeightsOnCard : public OnACard {
 protected:
  WeightLoader loader_{nullptr};
};

TEST_F(WeightsOnCard, MadeUpValuesAreTheProcessors) {
  const tensor::MatrixSlice slice = made_up(70, 200, 13, true);
  const auto weight = loader_.load<bf16>(std::span(&slice, 1), true);
  ASSERT_EQ(weight->scales, nullptr);
  std::vector<bf16> values(70 * 200);
  must(cudaMemcpy(values.data(), weight->memory.get(), values.size() * sizeof(bf16), cudaMemcpyDeviceToHost));
  std::vector<float> floats;
  for (const bf16 v : values) floats.push_back(value_of(v));
  EXPECT_EQ(floats, read_all(slice));
}

// Stacked parts that end within a block, parts of ranks that begin within one, an odd end: to the bit what the
// processor quantizes, whether the card does it or is given the bytes.
TEST_F(WeightsOnCard, Fp8IsKeptAsTheProcessorQuantizesIt) {
  for (const bool uniform : {false, true}) {
    for (const bool on_card : {false, true}) {
      SCOPED_TRACE(testing::Message() << uniform << on_card);
      const tensor::MatrixSlice a = made_up(320, 392, 0, uniform), b = made_up(256, 520, 128, uniform);
      std::vector<tensor::MatrixSlice> parts{quantized(a, {0, 192}, {0, 392}), quantized(a, {32, 200}, {0, 392}),
                                             quantized(b, {64, 256}, {128, 520})};
      if (!on_card)
        for (tensor::MatrixSlice& part : parts) part.unquantized = nullptr;
      const auto weight = loader_.load<bf16>(parts, true);
      ASSERT_NE(weight->scales, nullptr);
      EXPECT_EQ(weight->layout.row_shift, 3);
      std::vector<float> expected;
      for (const tensor::MatrixSlice& part : parts) {
        const auto values = read_all(part);
        expected.insert(expected.end(), values.begin(), values.end());
      }
      EXPECT_EQ(read_fp8(*weight), expected);
    }
  }
}

TEST_F(WeightsOnCard, BlocksOf128RowsStayWhole) {
  const tensor::MatrixSlice a = made_up(1408, 256, 0, true);
  const std::vector<tensor::MatrixSlice> parts{quantized(a, {0, 1408}, {0, 256}), quantized(a, {0, 1408}, {0, 256})};
  EXPECT_EQ(loader_.load<bf16>(parts, true)->layout.row_shift, 7);
}

// Columns that begin within a block, and rows that share a scale by fours, are bfloat16 on the card.
TEST_F(WeightsOnCard, WhatDoesNotFitIsBf16) {
  const tensor::MatrixSlice a = made_up(256, 256, 0, false);
  for (const auto& [rows, cols] : {std::pair(LongInterval{0, 128}, LongInterval{64, 256}),
                                   std::pair(LongInterval{4, 256}, LongInterval{0, 256})}) {
    const tensor::MatrixSlice part = quantized(a, rows, cols);
    const auto weight = loader_.load<bf16>(std::span(&part, 1), true);
    EXPECT_EQ(weight->scales, nullptr);
    std::vector<bf16> values(part.rows() * part.cols());
    must(cudaMemcpy(values.data(), weight->memory.get(), values.size() * sizeof(bf16), cudaMemcpyDeviceToHost));
    std::vector<float> floats;
    for (const bf16 v : values) floats.push_back(value_of(v));
    EXPECT_LE(error_of(floats, read_all(part)), 4e-3);
  }
}

// Experts lie one after another, in fp8 if both of an expert's weights are.
TEST_F(WeightsOnCard, ExpertsAreFp8OrBf16Together) {
  const tensor::MatrixSlice a = made_up(256, 256, 0, false);
  const auto gate_up = quantized(a, {0, 256}, {0, 128}), whole = quantized(a, {0, 128}, {0, 128});
  const auto cut = quantized(a, {0, 128}, {64, 192});
  for (const bool fits : {true, false}) {
    std::vector<GatedWeights> experts(3);
    for (GatedWeights& e : experts) {
      e.gate_up = loader_.load<bf16>(std::span(&gate_up, 1), true);
      e.down = loader_.load<bf16>(std::span(fits ? &whole : &cut, 1), true);
    }
    const auto set = loader_.stack(experts, sizeof(bf16));
    EXPECT_EQ(set->gate_up->scales != nullptr, fits);
    EXPECT_EQ(set->down->scales != nullptr, fits);
    if (fits) continue;
    std::vector<bf16> values(256 * 128);
    must(cudaMemcpy(values.data(), reinterpret_cast<bf16*>(set->gate_up->memory.get()) + 2 * values.size(),
                    values.size() * sizeof(bf16), cudaMemcpyDeviceToHost));
    std::vector<float> floats;
    for (const bf16 v : values) floats.push_back(value_of(v));
    EXPECT_LE(error_of(floats, read_all(gate_up)), 4e-3);
  }
}

}  // namespace
}  // namespace baton::kernels::cuda
