// What the tests of the kernels on a card share: memory there that is poisoned before it is written, inputs as the card
// sees them, and the error of an answer.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/kernels_cuda.h"
#include "kernels/reference.h"

namespace baton::kernels::cuda {

inline void must(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

inline float value_of(float v) { return v; }
inline float value_of(bf16 v) { return __bfloat162float(v); }
inline float value_of(fp8 v) { return static_cast<float>(v); }
template <class T>
T rounded(float v) {
  if constexpr (std::is_same_v<T, bf16>) {
    return __float2bfloat16(v);
  } else {
    return static_cast<T>(v);
  }
}

// Memory on the card, poisoned (every byte 0xff: NaN, or -1) or with values.
template <class T>
class OnCard {
 public:
  explicit OnCard(size_t size) : size_(size) {
    must(cudaMalloc(&data_, std::max<size_t>(size, 1) * sizeof(T)));
    must(cudaMemset(data_, 0xff, size * sizeof(T)));
  }
  template <class Values>
  explicit OnCard(const std::vector<Values>& values) : OnCard(values.size()) {
    std::vector<T> converted;
    converted.reserve(size_);
    for (const Values& v : values) {
      if constexpr (std::is_same_v<T, Values>) {
        converted.push_back(v);
      } else {
        converted.push_back(rounded<T>(v));
      }
    }
    must(cudaMemcpy(data_, converted.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~OnCard() { cudaFree(data_); }
  OnCard(const OnCard&) = delete;
  OnCard& operator=(const OnCard&) = delete;

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] size_t size() const { return size_; }
  // After everything that was launched.
  [[nodiscard]] std::vector<T> read() const {
    std::vector<T> values(size_);
    must(cudaDeviceSynchronize());
    must(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
  [[nodiscard]] std::vector<float> floats() const {
    std::vector<float> values;
    values.reserve(size_);
    for (const T v : read()) values.push_back(value_of(v));
    return values;
  }

 private:
  size_t size_;
  T* data_ = nullptr;
};

// Uniform in [-scale, scale), as T has it; other numbers at every call.
template <class T>
std::vector<float> random_values(size_t count, float scale = 1) {
  static Random random(entropy());
  std::vector<float> values(count);
  for (float& v : values) v = value_of(rounded<T>(static_cast<float>(random.uniform() * 2 - 1) * scale));
  return values;
}

// A stack of `count` fp8 weights of a layout with their scales, and what they stand for. What is behind k is NaN in the
// scales and zero in the values.
struct Fp8Stack {
  Fp8Layout layout;
  std::vector<fp8> values;
  std::vector<float> scales, floats;
};
inline Fp8Stack random_fp8(int64_t count, int64_t n, int64_t k, float size, int row_shift = 7) {
  Fp8Stack stack;
  Fp8Layout& layout = stack.layout;
  layout.n = n;
  layout.k = k;
  layout.row_shift = row_shift;
  stack.values.resize(count * n * layout.stride(), fp8(0.0F));
  stack.scales.resize(count * layout.scale_rows() * layout.scale_stride(), NAN);
  const auto values = random_values<float>(count * n * k, 448), scales = random_values<float>(stack.scales.size());
  for (int64_t i = 0; i < count * n * k; ++i) {
    const int64_t matrix = i / (n * k), row = i / k % n, column = i % k;
    const int64_t at = (matrix * layout.scale_rows() + (row >> row_shift)) * layout.scale_stride() + column / 128;
    stack.scales[at] = (1.5F + scales[at]) * size / 448;
    fp8& value = stack.values[(matrix * n + row) * layout.stride() + column];
    value = fp8(values[i]);
    stack.floats.push_back(static_cast<float>(value) * stack.scales[at]);
  }
  return stack;
}

// |actual - expected| / |expected|. NaN where anything was left poisoned.
inline double error_of(std::span<const float> actual, std::span<const float> expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / size);
}
template <class T>
constexpr double kTolerance = std::is_same_v<T, float> ? 1e-4 : 1e-2;

// Everything here wants a card.
class OnACard : public testing::Test {
 protected:
  void SetUp() override {
    int cards = 0;
    if (cudaGetDeviceCount(&cards) != cudaSuccess || cards == 0) GTEST_SKIP() << "no CUDA device";
  }
};
template <class T>
class OnACardAs : public OnACard {};
using Elements = testing::Types<float, bf16>;

#define EXPECT_CLOSE(T, actual, expected)                                                  \
  do {                                                                                     \
    const double error = error_of(actual, expected);                                       \
    EXPECT_LE(error, kTolerance<T>);                                                       \
    if (!(error <= kTolerance<T>)) std::printf("  %s:%d %g\n", __FILE__, __LINE__, error); \
  } while (false)

}  // namespace baton::kernels::cuda
