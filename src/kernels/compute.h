// What a matrix product multiplies.
#pragma once

#include <cstdint>

namespace baton::kernels {

// kF32 float32 by float32 (the path that equals the reference), kBF16 bfloat16 by bfloat16 with float32 sums (x is
// rounded on the way in).
enum class Compute : uint8_t { kF32, kBF16 };

}  // namespace baton::kernels
