// What the kernel tests share: random rows, comparison with a tolerance relative to the size of the data, and every
// instruction set.
#pragma once

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "kernels/cpu/instruction_set.h"

namespace baton::kernels {

// Uniform in [-1, 1).
inline std::vector<float> random_floats(int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = static_cast<float>(random.uniform() * 2 - 1);
  return values;
}

// |a - b| <= tolerance * max(1, max|b|) everywhere.
inline void expect_close(std::span<const float> actual, std::span<const float> expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  double size = 1;
  for (const float v : expected) size = std::max(size, static_cast<double>(std::fabs(v)));
  for (size_t i = 0; i < actual.size(); ++i)
    ASSERT_LE(std::fabs(static_cast<double>(actual[i]) - expected[i]), tolerance * size)
        << "at " << i << ": " << actual[i] << " where the reference has " << expected[i];
}

// Runs fn once for every instruction set that is compiled in and that this machine has; AVX-512 without and with
// bfloat16 products.
template <typename Fn>
void for_each_target(const Fn& fn) {
  const bool bf16_product = use_bf16_product();
  const int64_t supported = hwy::SupportedTargets();
  constexpr int64_t kPortable = HWY_SCALAR | HWY_EMU128;
  struct Level {
    int64_t target;
    bool bf16_product;
  };
  const Level levels[] = {
      {kPortable, false}, {HWY_SSE4, false}, {HWY_AVX2, false}, {HWY_AVX3, false}, {HWY_AVX3, true}};
  for (const Level& level : levels) {
    if (level.target != kPortable && (level.target & supported) == 0) continue;
    if (level.bf16_product && !has_bf16_product()) continue;
    hwy::GetChosenTarget().Update(level.target);
    set_bf16_product_for_test(level.bf16_product);
    SCOPED_TRACE(level.target == kPortable ? "portable" : hwy::TargetName(level.target));
    fn();
  }
  hwy::GetChosenTarget().Update(supported);
  set_bf16_product_for_test(bf16_product);
}

}  // namespace baton::kernels
