// Rows of float32 to bfloat16 and back. Included once per instruction set.
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
namespace baton::HWY_NAMESPACE {

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

HWY_INLINE void demote_row(const float* HWY_RESTRICT x, int64_t n, uint16_t* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const hn::Rebind<int32_t, decltype(d)> di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, bf16_bits(d, hn::LoadU(d, x + i)))), d16, out + i);
  for (; i < n; ++i) out[i] = to_bf16(x[i]).bits;
}

HWY_INLINE void promote_row(const uint16_t* HWY_RESTRICT x, int64_t n, float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const hn::Rebind<uint32_t, decltype(d)> du;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, x + i)))), d, out + i);
  for (; i < n; ++i) out[i] = to_float(BF16{x[i]});
}

HWY_INLINE void round_through_bf16(const float* HWY_RESTRICT x, int64_t n, float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(bf16_bits(d, hn::LoadU(d, x + i)))), d, out + i);
  for (; i < n; ++i) out[i] = to_float(to_bf16(x[i]));
}

}  // namespace baton::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // BATON_KERNELS_CPU_BF16_INL_H
