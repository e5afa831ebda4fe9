#include "device/convert.h"

#include <array>

#include "base/check.h"

namespace baton::device {
namespace {

using tensor::BF16;
using tensor::DType;
using tensor::F8E4M3;

float to_float(float v) { return v; }
template <typename T>
T from_float(float v) {
  if constexpr (std::is_same_v<T, BF16>) return tensor::to_bf16(v);
  if constexpr (std::is_same_v<T, F8E4M3>) return tensor::to_f8e4m3(v);
  if constexpr (std::is_same_v<T, float>) return v;
}

// Of every bfloat16.
const F8E4M3* f8_codes() {
  static const auto codes = [] {
    std::array<F8E4M3, 1 << 16> table{};
    for (uint32_t bits = 0; bits < table.size(); ++bits)
      table[bits] = tensor::to_f8e4m3(tensor::to_float(BF16{static_cast<uint16_t>(bits)}));
    return table;
  }();
  return codes.data();
}

template <typename Call>
void with_type(DType type, const Call& call) {
  if (type == DType::kBF16) return call.template operator()<BF16>();
  if (type == DType::kF8E4M3) return call.template operator()<F8E4M3>();
  BATON_CHECK(type == DType::kF32, "values of {}", tensor::dtype_name(type));
  call.template operator()<float>();
}

}  // namespace

void convert_values(const std::byte* from, DType from_type, std::byte* to, DType to_type, uint64_t values) {
  with_type(from_type, [&]<typename From>() {
    with_type(to_type, [&]<typename To>() {
      const auto* source = reinterpret_cast<const From*>(from);
      auto* destination = reinterpret_cast<To*>(to);
      if constexpr (std::is_same_v<From, BF16> && std::is_same_v<To, F8E4M3>) {
        const F8E4M3* codes = f8_codes();
        for (uint64_t i = 0; i < values; ++i) destination[i] = codes[source[i].bits];
        return;
      }
      for (uint64_t i = 0; i < values; ++i) {
        using namespace tensor;
        destination[i] = from_float<To>(to_float(source[i]));
      }
    });
  });
}

}  // namespace baton::device
