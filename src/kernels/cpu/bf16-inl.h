// Vectors of float32 to bfloat16 and back. Included once per instruction set.
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

// A vector of float32 from what is stored as float32 or as bfloat16.
HWY_INLINE hn::Vec<hn::ScalableTag<float>> load_floats(hn::ScalableTag<float> d, const float* p) {
  return hn::LoadU(d, p);
}
HWY_INLINE hn::Vec<hn::ScalableTag<float>> load_floats(hn::ScalableTag<float> d, const uint16_t* p) {
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const hn::Rebind<uint32_t, decltype(d)> du;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, p))));
}

}  // namespace baton::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // BATON_KERNELS_CPU_BF16_INL_H
