// Element types of weights, activations and KV pages.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace baton::tensor {

enum class DType : uint8_t { kF32, kBF16, kF16, kF8E4M3 };

[[nodiscard]] constexpr size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kF8E4M3:
      return 1;
  }
  return 0;
}

// "float32", "bfloat16", "float16", "float8_e4m3fn"
[[nodiscard]] const char* dtype_name(DType dtype);
// The names above, and safetensors' F32, BF16, F16, F8_E4M3.
Result<DType> parse_dtype(std::string_view name);

// bfloat16: the upper half of a float32.
struct BF16 {
  uint16_t bits;
};

[[nodiscard]] inline float to_float(BF16 v) { return std::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }
// Round to nearest even; NaN stays NaN.
[[nodiscard]] inline BF16 to_bf16(float v) {
  const uint32_t u = std::bit_cast<uint32_t>(v);
  if ((u & 0x7fffffff) > 0x7f800000) return BF16{static_cast<uint16_t>((u >> 16) | 0x40)};
  return BF16{static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}

// IEEE half precision.
struct F16 {
  uint16_t bits;
};
[[nodiscard]] float to_float(F16 v);

// OCP float8 e4m3fn (Micikevicius et al. 2022): bias 7, no infinities, 0x7f and 0xff are NaN, the largest value is 448.
struct F8E4M3 {
  uint8_t bits;
};
inline constexpr float kF8E4M3Max = 448;
[[nodiscard]] float to_float(F8E4M3 v);
// Round to nearest even; beyond +-448 saturates (infinities too); NaN stays NaN.
[[nodiscard]] F8E4M3 to_f8e4m3(float v);

}  // namespace baton::tensor
