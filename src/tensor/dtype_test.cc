#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>

namespace baton::tensor {
namespace {

TEST(DType, NamesGoBothWays) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3})
    EXPECT_EQ(*parse_dtype(dtype_name(dtype)), dtype);
  EXPECT_EQ(*parse_dtype("BF16"), DType::kBF16);
  EXPECT_EQ(*parse_dtype("F8_E4M3"), DType::kF8E4M3);
  EXPECT_EQ(parse_dtype("F8_E5M2").error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(parse_dtype("").ok());
}

TEST(F16, KnownValues) {
  const std::pair<uint16_t, float> cases[] = {{0x0000, 0.0f},
                                              {0x3c00, 1.0f},
                                              {0xc000, -2.0f},
                                              {0x7bff, 65504.0f},
                                              {0x0400, 0x1p-14f},
                                              {0x0001, 0x1p-24f},
                                              {0x83ff, -1023 * 0x1p-24f},
                                              {0x3555, 0x1.554p-2f}};
  for (const auto& [bits, value] : cases) EXPECT_EQ(to_float(F16{bits}), value) << std::hex << bits;
  EXPECT_EQ(to_float(F16{0x7c00}), INFINITY);
  EXPECT_TRUE(std::isnan(to_float(F16{0x7e00})));
  EXPECT_TRUE(std::signbit(to_float(F16{0x8000})));
}

TEST(F8E4M3, KnownValues) {
  const std::pair<uint8_t, float> cases[] = {{0x00, 0.0f},    {0x01, 0x1p-9f}, {0x07, 7 * 0x1p-9f},
                                             {0x08, 0x1p-6f}, {0x38, 1.0f},    {0x39, 1.125f},
                                             {0x7e, 448.0f},  {0xfe, -448.0f}, {0xb8, -1.0f}};
  for (const auto& [bits, value] : cases) EXPECT_EQ(to_float(F8E4M3{bits}), value) << std::hex << int{bits};
  EXPECT_TRUE(std::isnan(to_float(F8E4M3{0x7f})));
  EXPECT_TRUE(std::isnan(to_float(F8E4M3{0xff})));
}

TEST(F8E4M3, EveryCodeRoundsToItself) {
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;
    EXPECT_EQ(to_f8e4m3(to_float(F8E4M3{static_cast<uint8_t>(code)})).bits, code);
  }
}

// Against the nearest of all 127 magnitudes, ties to the even code: midpoints, their neighbours, and a sweep.
TEST(F8E4M3, RoundsToNearestEven) {
  const auto nearest = [](float v) {
    int best = 0;
    for (int code = 1; code < 0x7f; ++code) {
      const double now = std::fabs(static_cast<double>(v) - to_float(F8E4M3{static_cast<uint8_t>(code)}));
      const double then = std::fabs(static_cast<double>(v) - to_float(F8E4M3{static_cast<uint8_t>(best)}));
      if (now < then || (now == then && code % 2 == 0)) best = code;
    }
    return best;
  };
  std::vector<float> values = {447.9f, 463.9f, 464, 465, 1000, INFINITY};
  for (int code = 0; code < 0x7e; ++code) {
    const float middle =
        (to_float(F8E4M3{static_cast<uint8_t>(code)}) + to_float(F8E4M3{static_cast<uint8_t>(code + 1)})) / 2;
    for (const float v : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1000.0f)}) values.push_back(v);
  }
  for (float v = 1e-4f; v < 460; v *= 1.003f) values.push_back(v);
  for (const float v : values) {
    EXPECT_EQ(to_f8e4m3(v).bits, nearest(std::min(v, 448.0f))) << v;
    EXPECT_EQ(to_f8e4m3(-v).bits, 0x80 | nearest(std::min(v, 448.0f))) << -v;
  }
  EXPECT_TRUE(std::isnan(to_float(to_f8e4m3(std::nanf("")))));
}

}  // namespace
}  // namespace baton::tensor
