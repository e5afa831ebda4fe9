#include "tensor/dequantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/random.h"

namespace baton::tensor {
namespace {

struct Owned {
  std::vector<std::byte> bytes;
  TensorView view;
};

Owned make(DType dtype, std::vector<int64_t> shape, uint64_t seed) {
  Owned t;
  t.view.dtype = dtype;
  t.view.shape = std::move(shape);
  t.bytes.resize(t.view.bytes());
  Random random(seed);
  for (size_t i = 0; i < static_cast<size_t>(t.view.count()); ++i) {
    const auto v = static_cast<float>(random.uniform() * 2 - 1);
    std::byte* at = t.bytes.data() + i * dtype_size(dtype);
    if (dtype == DType::kF32) {
      std::memcpy(at, &v, 4);
    } else if (dtype == DType::kBF16) {
      const BF16 b = to_bf16(v);
      std::memcpy(at, &b, 2);
    } else if (dtype == DType::kF16) {
      const auto bits = static_cast<uint16_t>(0x3800 + random.below(0x800));
      std::memcpy(at, &bits, 2);
    } else {
      *at = static_cast<std::byte>(to_f8e4m3(v * 400).bits);
    }
  }
  t.view.data = t.bytes.data();
  return t;
}

float element(const TensorView& t, int64_t i) {
  const std::byte* at = t.data + static_cast<size_t>(i) * dtype_size(t.dtype);
  if (t.dtype == DType::kF32) {
    float v;
    std::memcpy(&v, at, 4);
    return v;
  }
  if (t.dtype == DType::kF8E4M3) return to_float(F8E4M3{static_cast<uint8_t>(*at)});
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  return t.dtype == DType::kBF16 ? to_float(BF16{bits}) : to_float(F16{bits});
}

TEST(Dequantize, SlicesOfEveryTypeAnywhere) {
  const LongInterval rows[] = {{0, 200}, {0, 0}, {127, 129}, {130, 200}, {5, 6}},
                     cols[] = {{0, 300}, {127, 128}, {128, 257}, {299, 300}, {3, 3}};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    const Owned weight = make(dtype, {200, 300}, 1), scale = make(DType::kF32, {2, 3}, 2);
    const bool scaled = dtype == DType::kF8E4M3;
    for (const LongInterval& r : rows)
      for (const LongInterval& c : cols) {
        const auto out = dequantize(weight.view, scaled ? &scale.view : nullptr, r, c);
        ASSERT_TRUE(out.ok()) << out.error().message;
        ASSERT_EQ(out->size(), static_cast<size_t>((r.end - r.begin) * (c.end - c.begin)));
        size_t at = 0;
        for (int64_t i = r.begin; i < r.end; ++i)
          for (int64_t j = c.begin; j < c.end; ++j) {
            const float factor = scaled ? element(scale.view, i / 128 * 3 + j / 128) : 1;
            ASSERT_EQ((*out)[at++], element(weight.view, i * 300 + j) * factor)
                << dtype_name(dtype) << " " << i << "," << j;
          }
      }
  }
}

TEST(Dequantize, BlockSizeIsAParameterAndScalesMayBeOfAnyFloatType) {
  const Owned weight = make(DType::kF8E4M3, {10, 7}, 1);
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF32}) {
    const Owned scale = make(type, {4, 4}, 2);
    const auto out = dequantize(weight.view, &scale.view, {4, 10}, {1, 7}, {3, 2});
    ASSERT_TRUE(out.ok()) << out.error().message;
    EXPECT_EQ(out->back(), element(weight.view, 69) * element(scale.view, 15));
    EXPECT_EQ(out->front(), element(weight.view, 29) * element(scale.view, 4));
  }
}

TEST(Dequantize, RefusesWhatDoesNotFit) {
  const Owned fp8 = make(DType::kF8E4M3, {200, 300}, 1), bf16 = make(DType::kBF16, {200, 300}, 1),
              line = make(DType::kF32, {200}, 1);
  const Owned scale = make(DType::kF32, {2, 3}, 2), short_scale = make(DType::kF32, {2, 2}, 2),
              byte_scale = make(DType::kF8E4M3, {2, 3}, 2);
  const LongInterval rows{0, 200}, cols{0, 300};
  struct Case {
    const TensorView& weight;
    const TensorView* scale;
    LongInterval rows, cols;
    ScaleBlock block;
    ErrorCode code;
  };
  const Case cases[] = {{fp8.view, nullptr, rows, cols, {}, ErrorCode::kIncompatible},
                        {bf16.view, &scale.view, rows, cols, {}, ErrorCode::kIncompatible},
                        {fp8.view, &short_scale.view, rows, cols, {}, ErrorCode::kIncompatible},
                        {fp8.view, &byte_scale.view, rows, cols, {}, ErrorCode::kIncompatible},
                        {fp8.view, &scale.view, rows, cols, {64, 128}, ErrorCode::kIncompatible},
                        {fp8.view, &scale.view, rows, cols, {0, 128}, ErrorCode::kInvalidArgument},
                        {line.view, nullptr, rows, cols, {}, ErrorCode::kIncompatible},
                        {bf16.view, nullptr, {0, 201}, cols, {}, ErrorCode::kInvalidArgument},
                        {bf16.view, nullptr, {-1, 2}, cols, {}, ErrorCode::kInvalidArgument},
                        {bf16.view, nullptr, {3, 2}, cols, {}, ErrorCode::kInvalidArgument},
                        {bf16.view, nullptr, rows, {0, 301}, {}, ErrorCode::kInvalidArgument}};
  for (const Case& c : cases) {
    const auto out = dequantize(c.weight, c.scale, c.rows, c.cols, c.block);
    ASSERT_FALSE(out.ok());
    EXPECT_EQ(out.error().code, c.code) << out.error().message;
  }
  EXPECT_FALSE(dequantize_1d(bf16.view, {0, 1}).ok());
  EXPECT_FALSE(dequantize_1d(line.view, {0, 201}).ok());
  EXPECT_EQ(dequantize_1d(line.view, {3, 9})->at(1), element(line.view, 4));
}

TEST(QuantizeFp8Blocks, KeepsBlocksWithinTheirStepAndScalesApart) {
  const int64_t rows = 130, cols = 260;
  Random random(3);
  std::vector<float> w(rows * cols);
  for (float& v : w) v = static_cast<float>(random.uniform() * 2 - 1);
  for (int64_t r = 128; r < rows; ++r) w[r * cols] *= 1000;  // a block of its own
  const std::vector<float> before = w;
  quantize_fp8_blocks(w, rows, cols);
  int changed = 0;
  for (int64_t i = 0; i < rows * cols; ++i) {
    const bool large_block = i / cols >= 128 && i % cols < 128;
    const float top = large_block ? 1000.0f : 1.0f;
    // Three mantissa bits: half a step is 1/16 of the value; below the normal range half of 2^-9 of the scale top/448.
    EXPECT_LE(std::fabs(w[i] - before[i]), std::max(std::fabs(before[i]) / 16, top / 448 / 1024) * 1.0001f);
    changed += w[i] != before[i] ? 1 : 0;
  }
  EXPECT_GT(changed, rows * cols / 2);
  const std::vector<float> once = w;
  quantize_fp8_blocks(w, rows, cols);
  for (size_t i = 0; i < w.size(); ++i) EXPECT_NEAR(w[i], once[i], std::fabs(once[i]) * 1e-6f);
  std::vector<float> zeros(4, 0);
  quantize_fp8_blocks(zeros, 2, 2);
  EXPECT_EQ(zeros, std::vector<float>(4, 0));
}

}  // namespace
}  // namespace baton::tensor
