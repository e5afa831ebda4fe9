#include "kernels/cpu/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/convert.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h
#include "kernels/cpu/bf16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace baton::kernels::HWY_NAMESPACE {

void demote(const float* HWY_RESTRICT x, int64_t n, uint16_t* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const hn::Rebind<int32_t, decltype(d)> di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, bf16_bits(d, hn::LoadU(d, x + i)))), d16, out + i);
  for (; i < n; ++i) out[i] = tensor::to_bf16(x[i]).bits;
}

void promote(const uint16_t* HWY_RESTRICT x, int64_t n, float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(load_floats(d, x + i), d, out + i);
  for (; i < n; ++i) out[i] = tensor::to_float(tensor::BF16{x[i]});
}

void demote_and_promote(const float* HWY_RESTRICT x, int64_t n, float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(bf16_bits(d, hn::LoadU(d, x + i)))), d, out + i);
  for (; i < n; ++i) out[i] = tensor::to_float(tensor::to_bf16(x[i]));
}

void demote_to_f8(const float* HWY_RESTRICT x, int64_t n, uint8_t* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const hn::Rebind<int32_t, decltype(d)> di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(di, f8_bits(d, hn::LoadU(d, x + i)))), d8, out + i);
  for (; i < n; ++i) out[i] = tensor::to_f8e4m3(x[i]).bits;
}

void promote_f8(const uint8_t* HWY_RESTRICT x, int64_t n, float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(load_floats(d, x + i), d, out + i);
  for (; i < n; ++i) out[i] = tensor::to_float(tensor::F8E4M3{x[i]});
}

// Every float8 is a bfloat16: the upper half of the float32.
void widen_f8(const uint8_t* HWY_RESTRICT x, int64_t n, uint16_t* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const hn::Rebind<int32_t, decltype(d)> di;
  const hn::Rebind<uint32_t, decltype(d)> du;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto high = hn::ShiftRight<16>(hn::BitCast(du, load_floats(d, x + i)));
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, high)), d16, out + i);
  }
  for (; i < n; ++i) out[i] = tensor::to_bf16(tensor::to_float(tensor::F8E4M3{x[i]})).bits;
}

void interleave(const uint16_t* low, const uint16_t* high, int64_t n, uint32_t* HWY_RESTRICT out) {
  const hn::ScalableTag<uint32_t> du;
  const hn::Rebind<uint16_t, decltype(du)> d16;
  const auto lanes = static_cast<int64_t>(hn::Lanes(du));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    auto pair = hn::PromoteTo(du, hn::LoadU(d16, low + i));
    if (high != nullptr) pair = hn::Or(pair, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, high + i))));
    hn::StoreU(pair, du, out + i);
  }
  for (; i < n; ++i) out[i] = low[i] | (high != nullptr ? static_cast<uint32_t>(high[i]) << 16 : 0);
}

}  // namespace baton::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace baton::kernels {
namespace {

HWY_EXPORT(demote);
HWY_EXPORT(promote);
HWY_EXPORT(demote_and_promote);
HWY_EXPORT(demote_to_f8);
HWY_EXPORT(promote_f8);
HWY_EXPORT(widen_f8);
HWY_EXPORT(interleave);

}  // namespace

void bf16_from_floats(const float* x, int64_t count, uint16_t* out) { HWY_DYNAMIC_DISPATCH(demote)(x, count, out); }
void floats_from_bf16(const uint16_t* x, int64_t count, float* out) { HWY_DYNAMIC_DISPATCH(promote)(x, count, out); }
void round_to_bf16(const float* x, int64_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(demote_and_promote)(x, count, out);
}
void f8_from_floats(const float* x, int64_t count, uint8_t* out) { HWY_DYNAMIC_DISPATCH(demote_to_f8)(x, count, out); }
void floats_from_f8(const uint8_t* x, int64_t count, float* out) { HWY_DYNAMIC_DISPATCH(promote_f8)(x, count, out); }
void bf16_from_f8(const uint8_t* x, int64_t count, uint16_t* out) { HWY_DYNAMIC_DISPATCH(widen_f8)(x, count, out); }
void interleave_bf16(const uint16_t* low, const uint16_t* high, int64_t count, uint32_t* out) {
  HWY_DYNAMIC_DISPATCH(interleave)(low, high, count, out);
}

}  // namespace baton::kernels

#endif  // HWY_ONCE
