// Products of bfloat16 pairs by vdpbf16ps (Zen 4, Sapphire Rapids and later). Highway 1.0.3 has no target with that
// instruction, so this one kernel is written in intrinsics; where it is missing, linear.cc widens to float32 instead.
#include <immintrin.h>

#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/product.h"
#include "tensor/dtype.h"

namespace baton::kernels {

#if defined(__x86_64__)

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bf16")

namespace {

constexpr int64_t kLanes = 16;

__m512bh broadcast_pair(const uint32_t* pair) {
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(*pair)));
}

template <int R, int V>
void tile(const Product& p, const uint32_t* a, const uint32_t* b, float* c) {
  __m512 sum[R][V];
  BATON_UNROLL
  for (int r = 0; r < R; ++r) {
    BATON_UNROLL
    for (int v = 0; v < V; ++v)
      sum[r][v] = p.accumulate ? _mm512_loadu_ps(c + r * p.c_stride + v * kLanes) : _mm512_setzero_ps();
  }
  for (int64_t i = 0; i < p.depth; ++i) {
    __m512bh row[V];
    BATON_UNROLL
    for (int v = 0; v < V; ++v) row[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + v * kLanes));
    BATON_UNROLL
    for (int r = 0; r < R; ++r) {
      const __m512bh factor = broadcast_pair(a + r * p.a_stride);
      BATON_UNROLL
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], factor, row[v]);
    }
    a += p.a_depth_stride;
    b += p.b_stride;
  }
  BATON_UNROLL
  for (int r = 0; r < R; ++r) {
    BATON_UNROLL
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(c + r * p.c_stride + v * kLanes, sum[r][v]);
  }
}

template <int V>
void rows(const Product& p, int64_t panel, int64_t column) {
  constexpr int kRows = V <= 2 ? 8 : 6;
  for (int64_t r = 0; r < p.rows;) {
    const auto* a = static_cast<const uint32_t*>(p.a) + r * p.a_stride;
    const auto* b = static_cast<const uint32_t*>(p.b) + panel * p.b_panel_stride + column;
    float* c = p.c + r * p.c_stride + panel * p.columns + column;
    const int64_t take = tile_rows(p.rows - r, kRows);
    switch (take) {
      case 1:
        tile<1, V>(p, a, b, c);
        break;
      case 2:
        tile<2, V>(p, a, b, c);
        break;
      case 3:
        tile<3, V>(p, a, b, c);
        break;
      case 4:
        tile<4, V>(p, a, b, c);
        break;
      case 5:
        tile<5, V>(p, a, b, c);
        break;
      case 6:
        tile<6, V>(p, a, b, c);
        break;
      case 7:
        tile<7, V>(p, a, b, c);
        break;
      default:
        tile<8, V>(p, a, b, c);
        break;
    }
    r += take;
  }
}

}  // namespace

void multiply_bf16_pairs(const Product& p) {
  for (int64_t panel = 0; panel < p.panels; ++panel)
    for (int64_t column = 0; column < p.columns;) {
      const int64_t vectors = std::min<int64_t>((p.columns - column) / kLanes, 4);
      switch (vectors) {
        case 1:
          rows<1>(p, panel, column);
          break;
        case 2:
          rows<2>(p, panel, column);
          break;
        case 3:
          rows<3>(p, panel, column);
          break;
        default:
          rows<4>(p, panel, column);
          break;
      }
      column += vectors * kLanes;
    }
}

void round_bf16_natively(const float* x, int64_t count, uint16_t* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i))));
  for (; i < count; ++i) out[i] = tensor::to_bf16(x[i]).bits;
}

#pragma GCC pop_options

#else

void multiply_bf16_pairs(const Product&) { BATON_CHECK(false, "no bfloat16 product on this machine"); }
void round_bf16_natively(const float*, int64_t, uint16_t*) {
  BATON_CHECK(false, "no bfloat16 product on this machine");
}

#endif

}  // namespace baton::kernels
