// Vectors of float32 to bfloat16 and float8 e4m3 and back. Included once per instruction set.
#if defined(BATON_KERNELS_CPU_BF16_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef BATON_KERNELS_CPU_BF16_INL_H
#undef BATON_KERNELS_CPU_BF16_INL_H
#else
#define BATON_KERNELS_CPU_BF16_INL_H
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "tensor/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace baton::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Per lane what to_bf16 does, in the low half.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<uint32_t, D>> bf16_bits(D /*d*/, hn::Vec<D> v) {
  const hn::Rebind<uint32_t, D> du;
  const auto u = hn::BitCast(du, v);
  const auto high = hn::ShiftRight<16>(u);
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(u, hn::Set(du, 0x7fffu)), hn::And(high, hn::Set(du, 1u))));
  const auto quiet = hn::Or(high, hn::Set(du, 0x40u));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
}

// Per lane what to_f8e4m3 does, in the low byte.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<uint32_t, D>> f8_bits(D d, hn::Vec<D> v) {
  const hn::Rebind<uint32_t, D> du;
  const auto u = hn::BitCast(du, v);
  const auto magnitude = hn::And(u, hn::Set(du, 0x7fffffffu));
  // Adding 1.5 * 2^14 leaves the multiple of 2^-9 in the low bits, rounded to nearest even.
  const auto shifted = hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0x1.8p14f));
  const auto small = hn::And(hn::BitCast(du, shifted), hn::Set(du, 0xfu));
  const auto half = hn::Add(hn::Set(du, 0x7ffffu), hn::And(hn::ShiftRight<20>(magnitude), hn::Set(du, 1u)));
  const auto rounded = hn::Sub(hn::ShiftRight<20>(hn::Add(magnitude, half)), hn::Set(du, 120u << 3));
  auto code = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 121u << 23)), small, hn::Min(rounded, hn::Set(du, 0x7eu)));
  code = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), hn::Set(du, 0x7fu), code);
  return hn::Or(code, hn::And(hn::ShiftRight<24>(u), hn::Set(du, 0x80u)));
}

// A vector of float32 from what is stored as float32, bfloat16 or float8 e4m3.
HWY_INLINE hn::Vec<hn::ScalableTag<float>> load_floats(hn::ScalableTag<float> d, const float* p) {
  return hn::LoadU(d, p);
}
HWY_INLINE hn::Vec<hn::ScalableTag<float>> load_floats(hn::ScalableTag<float> d, const uint16_t* p) {
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const hn::Rebind<uint32_t, decltype(d)> du;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, p))));
}
HWY_INLINE hn::Vec<hn::ScalableTag<float>> load_floats(hn::ScalableTag<float> d, const uint8_t* p) {
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const hn::Rebind<uint32_t, decltype(d)> du;
  const auto code = hn::PromoteTo(du, hn::LoadU(d8, p));
  const auto magnitude = hn::And(code, hn::Set(du, 0x7fu));
  const auto shifted = hn::ShiftLeft<20>(magnitude);
  const auto normal = hn::BitCast(d, hn::Add(shifted, hn::Set(du, 120u << 23)));
  // A subnormal as 2^-6 * (1 + m/8) - 2^-6: no float32 on the way is subnormal, which processors are slow at.
  const auto small = hn::Sub(hn::BitCast(d, hn::Add(shifted, hn::Set(du, 121u << 23))), hn::Set(d, 0x1p-6f));
  auto value = hn::IfThenElse(hn::RebindMask(d, hn::Lt(magnitude, hn::Set(du, 8u))), small, normal);
  const auto nan = hn::BitCast(d, hn::Set(du, 0x7fc00000u));
  value = hn::IfThenElse(hn::RebindMask(d, hn::Eq(magnitude, hn::Set(du, 0x7fu))), nan, value);
  return hn::Or(value, hn::BitCast(d, hn::ShiftLeft<24>(hn::And(code, hn::Set(du, 0x80u)))));
}

}  // namespace baton::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // BATON_KERNELS_CPU_BF16_INL_H
