// The inner products for every instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/product.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace baton::HWY_NAMESPACE {

void product_f32(const Product& p) { multiply(p); }

// B is pairs of bfloat16; A is float32 (already rounded to bfloat16), two a pair.
template <int R, int V>
HWY_INLINE void widening_tile(const Product& p, const float* HWY_RESTRICT a, const uint32_t* HWY_RESTRICT b,
                              float* HWY_RESTRICT c) {
  const hn::ScalableTag<float> d;
  const hn::ScalableTag<uint32_t> du;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  VecF sum[R][V];
  BATON_UNROLL
  for (int r = 0; r < R; ++r) {
    BATON_UNROLL
    for (int v = 0; v < V; ++v) sum[r][v] = p.accumulate ? hn::LoadU(d, c + r * p.c_stride + v * lanes) : hn::Zero(d);
  }
  const auto high_half = hn::Set(du, 0xffff0000u);
  for (int64_t i = 0; i < p.depth; ++i) {
    BATON_UNROLL
    for (int v = 0; v < V; ++v) {
      const auto pair = hn::LoadU(du, b + v * lanes);
      const VecF even = hn::BitCast(d, hn::ShiftLeft<16>(pair));
      const VecF odd = hn::BitCast(d, hn::And(pair, high_half));
      BATON_UNROLL
      for (int r = 0; r < R; ++r) {
        sum[r][v] = hn::MulAdd(hn::Set(d, a[2 * r * p.a_stride]), even, sum[r][v]);
        sum[r][v] = hn::MulAdd(hn::Set(d, a[2 * r * p.a_stride + 1]), odd, sum[r][v]);
      }
    }
    a += 2;
    b += p.b_stride;
  }
  BATON_UNROLL
  for (int r = 0; r < R; ++r) {
    BATON_UNROLL
    for (int v = 0; v < V; ++v) hn::StoreU(sum[r][v], d, c + r * p.c_stride + v * lanes);
  }
}

template <int V>
HWY_INLINE void widening_rows(const Product& p, int64_t column) {
  for (int64_t r = 0; r < p.rows;) {
    const auto* a = static_cast<const float*>(p.a) + 2 * r * p.a_stride;
    const auto* b = static_cast<const uint32_t*>(p.b) + column;
    float* c = p.c + r * p.c_stride + column;
    if (p.rows - r >= 4) {
      widening_tile<4, V>(p, a, b, c);
      r += 4;
    } else {
      widening_tile<1, V>(p, a, b, c);
      r += 1;
    }
  }
}

void product_widening(const Product& p) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  int64_t column = 0;
  for (; column + 2 * lanes <= p.columns; column += 2 * lanes) widening_rows<2>(p, column);
  for (; column < p.columns; column += lanes) widening_rows<1>(p, column);
}

}  // namespace baton::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace baton {
namespace {

HWY_EXPORT(product_f32);
HWY_EXPORT(product_widening);

}  // namespace

void multiply_f32(const Product& p) { HWY_DYNAMIC_DISPATCH(product_f32)(p); }
void multiply_widened_pairs(const Product& p) { HWY_DYNAMIC_DISPATCH(product_widening)(p); }

}  // namespace baton

#endif  // HWY_ONCE
