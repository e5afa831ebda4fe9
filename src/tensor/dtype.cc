#include "tensor/dtype.h"

#include <array>
#include <cmath>

namespace baton::tensor {
namespace {

struct DTypeNames {
  DType dtype;
  const char* name;
  const char* safetensors;
};

constexpr std::array<DTypeNames, 4> kNames = {{
    {DType::kF32, "float32", "F32"},
    {DType::kBF16, "bfloat16", "BF16"},
    {DType::kF16, "float16", "F16"},
    {DType::kF8E4M3, "float8_e4m3fn", "F8_E4M3"},
}};

}  // namespace

const char* dtype_name(DType dtype) {
  for (const DTypeNames& row : kNames)
    if (row.dtype == dtype) return row.name;
  return "unknown";
}

Result<DType> parse_dtype(std::string_view name) {
  for (const DTypeNames& row : kNames)
    if (name == row.name || name == row.safetensors) return row.dtype;
  return error(ErrorCode::kInvalidArgument,
               "unknown element type '{}'; known are float32, bfloat16, float16, float8_e4m3fn", name);
}

float to_float(F16 v) {
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000) << 16;
  const uint32_t exponent = (v.bits >> 10) & 0x1f, mantissa = v.bits & 0x3ff;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 0xff : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

float to_float(F8E4M3 v) {
  const int exponent = (v.bits >> 3) & 0xf, mantissa = v.bits & 7;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(0x7fc00000u);
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (v.bits & 0x80) != 0 ? -magnitude : magnitude;
}

F8E4M3 to_f8e4m3(float v) {
  const uint32_t u = std::bit_cast<uint32_t>(v);
  const auto sign = static_cast<uint8_t>((u >> 24) & 0x80);
  const float magnitude = std::bit_cast<float>(u & 0x7fffffff);
  if (std::isnan(v)) return F8E4M3{static_cast<uint8_t>(sign | 0x7f)};
  if (magnitude >= 448) return F8E4M3{static_cast<uint8_t>(sign | 0x7e)};
  if (magnitude < 0x1p-6f) {
    // Subnormal: a multiple of 2^-9. Adding 1.5 * 2^14 leaves exactly those bits, rounded by the hardware to nearest
    // even; 8 of them carry into the smallest normal, whose code is 8.
    const float shifted = magnitude + 0x1.8p14f;
    return F8E4M3{static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(shifted) & 0xf))};
  }
  // Keep 3 of the 23 mantissa bits, ties to even; a carry moves into the exponent, as it should.
  const uint32_t bits = u & 0x7fffffff;
  const uint32_t rounded = (bits + 0x7ffff + ((bits >> 20) & 1)) >> 20;
  const uint32_t code = rounded - (120u << 3);
  return F8E4M3{static_cast<uint8_t>(sign | (code > 0x7e ? 0x7e : code))};
}

}  // namespace baton::tensor
