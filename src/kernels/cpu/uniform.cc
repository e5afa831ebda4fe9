// Made-up weights. A value is a hash of its place, so rows can be made in any order, in slices and by many threads.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/uniform.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h
#include "kernels/cpu/bf16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace baton::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Vectors while they fit, then one lane at a time: the same arithmetic, so that a slice has the values of the whole.
template <class D>
HWY_INLINE int64_t uniform_lanes(D d, uint64_t key, int64_t first, int64_t begin, int64_t count, float scale,
                                 uint16_t* HWY_RESTRICT out) {
  const hn::Rebind<uint32_t, D> du;
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<uint16_t, D> d16;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto low = hn::Set(du, static_cast<uint32_t>(key)), high = hn::Set(du, static_cast<uint32_t>(key >> 32));
  const auto factor = hn::Set(d, scale * 0x1p-31f);
  int64_t i = begin;
  for (; i + lanes <= count; i += lanes) {
    auto z = hn::Add(hn::Mul(hn::Iota(du, static_cast<uint32_t>(first + i)), hn::Set(du, 0x9e3779b9u)), low);
    z = hn::Mul(hn::Xor(z, hn::ShiftRight<16>(z)), hn::Set(du, 0x7feb352du));
    z = hn::Xor(z, high);
    z = hn::Mul(hn::Xor(z, hn::ShiftRight<15>(z)), hn::Set(du, 0x846ca68bu));
    z = hn::Xor(z, hn::ShiftRight<16>(z));
    const auto value = hn::Mul(hn::ConvertTo(d, hn::BitCast(di, z)), factor);
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, bf16_bits(d, value))), d16, out + i);
  }
  return i;
}

void uniform_row(uint64_t key, int64_t first, int64_t count, float scale, uint16_t* HWY_RESTRICT out) {
  const int64_t done = uniform_lanes(hn::ScalableTag<float>(), key, first, 0, count, scale, out);
  uniform_lanes(hn::CappedTag<float, 1>(), key, first, done, count, scale, out);
}

}  // namespace baton::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include "kernels/kernels.h"

namespace baton::kernels {
namespace {

HWY_EXPORT(uniform_row);

}  // namespace

void uniform_bf16(uint64_t key, int64_t first, int64_t count, float scale, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(uniform_row)(key, first, count, scale, out);
}

}  // namespace baton::kernels

#endif  // HWY_ONCE
