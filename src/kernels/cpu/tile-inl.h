// The register tile that matrix products and attention share. Included once per instruction set (Highway's
// foreach_target).
#if defined(BATON_KERNELS_CPU_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef BATON_KERNELS_CPU_TILE_INL_H
#undef BATON_KERNELS_CPU_TILE_INL_H
#else
#define BATON_KERNELS_CPU_TILE_INL_H
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/product.h"

HWY_BEFORE_NAMESPACE();
namespace baton::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using VecF = hn::Vec<hn::ScalableTag<float>>;

// Vectors per row of a tile: four of AVX-512 fill 24 of its 32 registers with six rows; two of AVX2 12 of 16.
constexpr int tile_vectors_max() { return HWY_MAX_BYTES >= 64 ? 4 : 2; }

// C (R, V vectors) += A (R, depth) * B (depth, V vectors), sums in registers, strictly in the order of depth: the value
// of an element of C does not depend on how many rows are computed with it.
template <int R, int V>
HWY_INLINE void multiply_tile(int64_t depth, const Product& p, const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                              float* HWY_RESTRICT c) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  VecF sum[R][V];
  BATON_UNROLL
  for (int r = 0; r < R; ++r) {
    BATON_UNROLL
    for (int v = 0; v < V; ++v) sum[r][v] = p.accumulate ? hn::LoadU(d, c + r * p.c_stride + v * lanes) : hn::Zero(d);
  }
  for (int64_t i = 0; i < depth; ++i) {
    VecF row[V];
    BATON_UNROLL
    for (int v = 0; v < V; ++v) row[v] = hn::LoadU(d, b + v * lanes);
    BATON_UNROLL
    for (int r = 0; r < R; ++r) {
      const VecF factor = hn::Set(d, a[r * p.a_stride]);
      BATON_UNROLL
      for (int v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(factor, row[v], sum[r][v]);
    }
    a += p.a_depth_stride;
    b += p.b_stride;
  }
  BATON_UNROLL
  for (int r = 0; r < R; ++r) {
    BATON_UNROLL
    for (int v = 0; v < V; ++v) hn::StoreU(sum[r][v], d, c + r * p.c_stride + v * lanes);
  }
}

template <int V>
HWY_INLINE void multiply_rows(const Product& p, int64_t column) {
  // Narrow tiles take more rows, so that there are sums enough to hide the latency of an addition.
  constexpr int kRows = V <= 2 && HWY_MAX_BYTES >= 64 ? 8 : 6;
  const float* b = static_cast<const float*>(p.b) + column;
  for (int64_t r = 0; r < p.rows;) {
    const float* a = static_cast<const float*>(p.a) + r * p.a_stride;
    float* c = p.c + r * p.c_stride + column;
    const int64_t take = tile_rows(p.rows - r, kRows);
    switch (take) {
      case 1:
        multiply_tile<1, V>(p.depth, p, a, b, c);
        break;
      case 2:
        multiply_tile<2, V>(p.depth, p, a, b, c);
        break;
      case 3:
        multiply_tile<3, V>(p.depth, p, a, b, c);
        break;
      case 4:
        multiply_tile<4, V>(p.depth, p, a, b, c);
        break;
      case 5:
        multiply_tile<5, V>(p.depth, p, a, b, c);
        break;
      case 6:
        multiply_tile<6, V>(p.depth, p, a, b, c);
        break;
      case 7:
        multiply_tile<7, V>(p.depth, p, a, b, c);
        break;
      default:
        multiply_tile<8, V>(p.depth, p, a, b, c);
        break;
    }
    r += take;
  }
}

// p.a and p.b are float32. p.columns is a multiple of kProductColumns.
HWY_INLINE void multiply(const Product& p) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t column = 0;
  while (column < p.columns) {
    const int64_t vectors = std::min<int64_t>((p.columns - column) / lanes, tile_vectors_max());
    if constexpr (HWY_MAX_BYTES >= 64) {
      if (vectors == 4) multiply_rows<4>(p, column);
      if (vectors == 3) multiply_rows<3>(p, column);
      if (vectors == 1) multiply_rows<1>(p, column);
    }
    if (vectors == 2) multiply_rows<2>(p, column);
    column += vectors * lanes;
  }
}

}  // namespace baton::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // BATON_KERNELS_CPU_TILE_INL_H
