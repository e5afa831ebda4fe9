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

namespace baton {

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

// Runs fn once for every instruction set that is compiled in and that this machine has; bfloat16 products included and
// left out.
template <typename Fn>
void for_each_target(const Fn& fn) {
  const int64_t supported = hwy::SupportedTargets();
  const int64_t sets[] = {HWY_SCALAR | HWY_EMU128, HWY_SSE4, HWY_AVX2, HWY_AVX3, HWY_AVX3 | HWY_AVX3_DL};
  for (const int64_t targets : sets) {
    const bool portable = targets == (HWY_SCALAR | HWY_EMU128);
    if (!portable && (targets & ~supported) != 0) continue;
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().Update(targets);
    SCOPED_TRACE(portable ? "portable" : hwy::TargetName(targets & -targets));
    fn();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace baton
