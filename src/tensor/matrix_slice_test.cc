#include "tensor/matrix_slice.h"

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

std::vector<float> read_all(const StoredMatrix& m) {
  std::vector<float> out(static_cast<size_t>(m.rows * m.cols));
  for (int64_t r = 0; r < m.rows; ++r) m.read(r, 0, m.cols, out.data() + r * m.cols);
  return out;
}

TEST(StoredMatrix, CutsOfEveryTypeAnywhere) {
  const LongInterval rows[] = {{0, 200}, {0, 0}, {127, 129}, {130, 200}, {5, 6}},
                     cols[] = {{0, 300}, {127, 128}, {128, 257}, {299, 300}, {3, 3}};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    const Owned weight = make(dtype, {200, 300}, 1), scale = make(DType::kF32, {2, 3}, 2);
    const bool scaled = dtype == DType::kF8E4M3;
    const StoredMatrix whole = *stored_matrix(weight.view, scaled ? &scale.view : nullptr);
    for (const LongInterval& r : rows)
      for (const LongInterval& c : cols) {
        const std::vector<float> out = read_all(whole.cut({0, r.end}, {0, c.end}).cut(r, c));
        size_t at = 0;
        for (int64_t i = r.begin; i < r.end; ++i)
          for (int64_t j = c.begin; j < c.end; ++j) {
            const float factor = scaled ? element(scale.view, i / 128 * 3 + j / 128) : 1;
            ASSERT_EQ(out[at++], element(weight.view, i * 300 + j) * factor)
                << dtype_name(dtype) << " " << i << "," << j;
          }
      }
  }
}

TEST(StoredMatrix, BlockSizeIsAParameterAndScalesMayBeOfAnyFloatType) {
  const Owned weight = make(DType::kF8E4M3, {10, 7}, 1);
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF32}) {
    const Owned scale = make(type, {4, 4}, 2);
    const auto whole = stored_matrix(weight.view, &scale.view, {3, 2});
    ASSERT_TRUE(whole.ok()) << whole.error().message;
    const std::vector<float> out = read_all(whole->cut({4, 10}, {1, 7}));
    EXPECT_EQ(out.back(), element(weight.view, 69) * element(scale.view, 15));
    EXPECT_EQ(out.front(), element(weight.view, 29) * element(scale.view, 4));
  }
}

TEST(StoredMatrix, RefusesScalesThatDoNotFit) {
  const Owned fp8 = make(DType::kF8E4M3, {200, 300}, 1), bf16 = make(DType::kBF16, {200, 300}, 1),
              line = make(DType::kF32, {200}, 1);
  const Owned scale = make(DType::kF32, {2, 3}, 2), short_scale = make(DType::kF32, {2, 2}, 2),
              byte_scale = make(DType::kF8E4M3, {2, 3}, 2);
  struct Case {
    const TensorView& weight;
    const TensorView* scale;
    ScaleBlock block;
    ErrorCode code;
  };
  const Case cases[] = {{fp8.view, nullptr, {}, ErrorCode::kIncompatible},
                        {bf16.view, &scale.view, {}, ErrorCode::kIncompatible},
                        {fp8.view, &short_scale.view, {}, ErrorCode::kIncompatible},
                        {fp8.view, &byte_scale.view, {}, ErrorCode::kIncompatible},
                        {fp8.view, &scale.view, {64, 128}, ErrorCode::kIncompatible},
                        {fp8.view, &scale.view, {0, 128}, ErrorCode::kInvalidArgument},
                        {line.view, nullptr, {}, ErrorCode::kIncompatible}};
  for (const Case& c : cases) {
    const auto out = stored_matrix(c.weight, c.scale, c.block);
    ASSERT_FALSE(out.ok());
    EXPECT_EQ(out.error().code, c.code) << out.error().message;
  }
}

TEST(QuantizeFp8, KeepsBlocksWithinTheirStepAndScalesApart) {
  const int64_t rows = 130, cols = 260;
  Random random(3);
  std::vector<float> before(rows * cols);
  for (float& v : before) v = static_cast<float>(random.uniform() * 2 - 1);
  for (int64_t r = 128; r < rows; ++r) before[r * cols] *= 1000;  // a block of its own
  const StoredMatrix quantized = quantize_fp8(slice_of(before, rows, cols).stored());
  EXPECT_EQ(quantized.dtype, DType::kF8E4M3);
  const std::vector<float> once = read_all(quantized);
  int changed = 0;
  for (int64_t i = 0; i < rows * cols; ++i) {
    const bool large_block = i / cols >= 128 && i % cols < 128;
    const float top = large_block ? 1000.0f : 1.0f;
    // Three mantissa bits: half a step is 1/16 of the value; below the normal range half of 2^-9 of the scale top/448.
    EXPECT_LE(std::fabs(once[i] - before[i]), std::max(std::fabs(before[i]) / 16, top / 448 / 1024) * 1.0001f);
    changed += once[i] != before[i] ? 1 : 0;
  }
  EXPECT_GT(changed, rows * cols / 2);
  const std::vector<float> twice = read_all(quantize_fp8(quantized));
  for (size_t i = 0; i < once.size(); ++i) EXPECT_NEAR(twice[i], once[i], std::fabs(once[i]) * 1e-6f);
  const std::vector<float> zeros(4, 0);
  EXPECT_EQ(read_all(quantize_fp8(slice_of(zeros, 2, 2).stored())), zeros);
}

TEST(MatrixSlice, TransposedTwiceIsTheSame) {
  const std::vector<float> w(6, 1);
  const MatrixSlice slice = slice_of(w, 2, 3), turned = slice.transpose();
  EXPECT_EQ(turned.rows(), 3);
  EXPECT_EQ(turned.cols(), 2);
  EXPECT_EQ(turned.transpose().rows(), 2);
  EXPECT_EQ(turned.stored().data, slice.stored().data);
}

}  // namespace
}  // namespace baton::tensor
