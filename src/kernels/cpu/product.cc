// The inner products for every instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/product.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h
#include <algorithm>

#include "hwy/highway.h"
#include "kernels/cpu/product.h"

HWY_BEFORE_NAMESPACE();
namespace baton::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using TagF = hn::ScalableTag<float>;
using VecF = hn::Vec<TagF>;

// A register tile holds R rows by P panels by V vectors of sums. AVX-512 has 32 registers: six rows of four vectors (64
// columns) fill 24. The others have 16: six rows of two vectors fill 12.
constexpr bool kManyRegisters = HWY_MAX_BYTES >= 64;
constexpr int kVectorsMax = kManyRegisters ? 4 : 2;
// Narrow tiles take more rows, so that there are sums enough to hide the latency of an addition.
template <int V>
constexpr int kTileRows = V <= 2 && kManyRegisters ? 8 : 6;
constexpr int64_t kAhead = 4096;  // bytes of a weight in flight: what memory sends while one line is on its way

// Every step of depth is one step of k.
struct Float32 {
  static constexpr int kSteps = 1;
  static VecF load(const uint32_t* b, int /*step*/) { return hn::LoadU(TagF(), reinterpret_cast<const float*>(b)); }
};

// Every step of depth is two steps of k: the low halves, and then the high ones.
struct WidenedPairs {
  static constexpr int kSteps = 2;
  static VecF load(const uint32_t* b, int step) {
    const hn::Rebind<uint32_t, TagF> du;
    const auto pair = hn::LoadU(du, b);
    return hn::BitCast(TagF(), step == 0 ? hn::ShiftLeft<16>(pair) : hn::And(pair, hn::Set(du, 0xffff0000u)));
  }
};

// The compiler must have `v` in a register here. Without this GCC mixes the steps of a tile and runs out of registers.
HWY_INLINE VecF settled(VecF v) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  auto raw = v.raw;
  asm("" : "+v"(raw));
  return VecF{raw};
#else
  return v;
#endif
}

// Lines of a weight that a later step reads, fetched into the second cache while this one computes. The hardware's own
// prefetching stops at pages and takes a while to start; without this, time for memory adds to time for arithmetic.
struct Ahead {
  const char* line;
  int64_t step;  // bytes further at every step of depth
};

// C (R, P panels of V vectors) += A (R, depth) * B, sums in registers, strictly in the order of k: the value of an
// element of C does not depend on the rows and columns it is computed with.
// Every step fetches one line ahead, or, if dense, as many as it reads.
template <class Operand, int R, int P, int V, bool kDense>
HWY_INLINE void multiply_tile(const Product& p, const float* HWY_RESTRICT a, const uint32_t* HWY_RESTRICT b,
                              float* HWY_RESTRICT c, Ahead ahead) {
  const TagF d;
  constexpr int kSteps = Operand::kSteps;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto column = [&](int v) { return v / V * p.columns + v % V * lanes; };  // in C, of the tile's v-th vector
  VecF sum[R][P * V];
  BATON_UNROLL
  for (int r = 0; r < R; ++r) {
    BATON_UNROLL
    for (int v = 0; v < P * V; ++v)
      sum[r][v] = p.accumulate ? hn::LoadU(d, c + r * p.c_stride + column(v)) : hn::Zero(d);
  }
  const int64_t a_stride = kSteps * p.a_stride, a_depth_stride = kSteps * p.a_depth_stride;
  for (int64_t i = 0; i < p.depth; ++i) {
    if constexpr (kDense) {
      BATON_UNROLL
      for (int panel = 0; panel < P; ++panel) {
        BATON_UNROLL
        for (size_t line = 0; line < V * sizeof(VecF); line += 64)
          __builtin_prefetch(ahead.line + panel * p.b_panel_stride * 4 + line, 0, 2);
      }
    } else {
      __builtin_prefetch(ahead.line, 0, 2);
    }
    ahead.line += ahead.step;
    BATON_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      VecF row[P * V];
      BATON_UNROLL
      for (int v = 0; v < P * V; ++v) row[v] = Operand::load(b + v / V * p.b_panel_stride + v % V * lanes, step);
      BATON_UNROLL
      for (int r = 0; r < R; ++r) {
        const VecF factor = hn::Set(d, a[r * a_stride + step]);
        BATON_UNROLL
        for (int v = 0; v < P * V; ++v) sum[r][v] = hn::MulAdd(factor, row[v], sum[r][v]);
      }
      BATON_UNROLL
      for (int r = 0; r < R; ++r) {
        BATON_UNROLL
        for (int v = 0; v < P * V; ++v) sum[r][v] = settled(sum[r][v]);
      }
    }
    a += a_depth_stride;
    b += p.b_stride;
  }
  BATON_UNROLL
  for (int r = 0; r < R; ++r) {
    BATON_UNROLL
    for (int v = 0; v < P * V; ++v) hn::StoreU(sum[r][v], d, c + r * p.c_stride + column(v));
  }
}

// The `take` rows of a tile.
template <class Operand, int V, bool kDense>
HWY_INLINE void multiply_rows(const Product& p, int64_t take, const float* a, const uint32_t* b, float* c,
                              Ahead ahead) {
  switch (take) {
    case 1:
      multiply_tile<Operand, 1, 1, V, kDense>(p, a, b, c, ahead);
      break;
    case 2:
      multiply_tile<Operand, 2, 1, V, kDense>(p, a, b, c, ahead);
      break;
    case 3:
      multiply_tile<Operand, 3, 1, V, kDense>(p, a, b, c, ahead);
      break;
    case 4:
      multiply_tile<Operand, 4, 1, V, kDense>(p, a, b, c, ahead);
      break;
    case 5:
      multiply_tile<Operand, 5, 1, V, kDense>(p, a, b, c, ahead);
      break;
    case 6:
      multiply_tile<Operand, 6, 1, V, kDense>(p, a, b, c, ahead);
      break;
    case 7:
      if constexpr (kTileRows < V >> 6) multiply_tile<Operand, 7, 1, V, kDense>(p, a, b, c, ahead);
      break;
    default:
      if constexpr (kTileRows < V >> 6) multiply_tile<Operand, 8, 1, V, kDense>(p, a, b, c, ahead);
      break;
  }
}

// V vectors of one panel from `column` on, all rows.
template <class Operand, int V>
HWY_INLINE void multiply_columns(const Product& p, int64_t panel, int64_t column) {
  const auto* b = static_cast<const uint32_t*>(p.b) + panel * p.b_panel_stride + column;
  const auto bytes = [](const uint32_t* at) { return reinterpret_cast<const char*>(at); };
  const int64_t step = p.b_stride * 4;
  const int64_t tiles = (p.rows + kTileRows<V> - 1) / kTileRows<V>;
  for (int64_t r = 0, tile = 0; r < p.rows; ++tile) {
    const float* a = static_cast<const float*>(p.a) + r * Operand::kSteps * p.a_stride;
    float* c = p.c + r * p.c_stride + panel * p.columns + column;
    const int64_t take = tile_rows(p.rows - r, kTileRows<V>);
    if (p.b_panel_stride == 0) {
      multiply_rows<Operand, V, false>(p, take, a, b, c, Ahead{bytes(b), 0});
    } else if (tiles == 1) {
      multiply_rows<Operand, V, true>(p, take, a, b, c, Ahead{bytes(b) + kAhead, step});
    } else {
      // The row tiles share the lines of the next panel.
      const int64_t share = std::min<int64_t>(step / tiles, 64);
      multiply_rows<Operand, V, false>(p, take, a, b, c,
                                       Ahead{bytes(b + p.b_panel_stride) + tile * share * p.depth, share});
    }
    r += take;
  }
}

// All columns of one panel.
template <class Operand>
HWY_INLINE void multiply_panel(const Product& p, int64_t panel) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(TagF()));
  for (int64_t column = 0; column < p.columns;) {
    const int64_t vectors = std::min<int64_t>((p.columns - column) / lanes, kVectorsMax);
    if constexpr (kManyRegisters) {
      if (vectors == 4) multiply_columns<Operand, 4>(p, panel, column);
      if (vectors == 3) multiply_columns<Operand, 3>(p, panel, column);
      if (vectors == 1) multiply_columns<Operand, 1>(p, panel, column);
    }
    if (vectors == 2) multiply_columns<Operand, 2>(p, panel, column);
    column += vectors * lanes;
  }
}

// Few rows by panels of two vectors would wait for additions: a tile takes several panels. Returns how many were done.
template <class Operand>
HWY_INLINE int64_t multiply_few_rows(const Product& p) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(TagF()));
  const int64_t at_once = p.rows == 1 ? 4 : p.rows <= 3 ? 2 : p.panels + 1;
  const float* a = static_cast<const float*>(p.a);
  int64_t panel = 0;
  for (; panel + at_once <= p.panels; panel += at_once) {
    for (int64_t column = 0; column < p.columns; column += 2 * lanes) {
      const auto* b = static_cast<const uint32_t*>(p.b) + panel * p.b_panel_stride + column;
      float* c = p.c + panel * p.columns + column;
      const Ahead ahead{reinterpret_cast<const char*>(b) + kAhead / at_once, p.b_stride * 4};
      if (p.rows == 1) multiply_tile<Operand, 1, 4, 2, true>(p, a, b, c, ahead);
      if (p.rows == 2) multiply_tile<Operand, 2, 2, 2, true>(p, a, b, c, ahead);
      if (p.rows == 3) multiply_tile<Operand, 3, 2, 2, true>(p, a, b, c, ahead);
    }
  }
  return panel;
}

template <class Operand>
HWY_INLINE void multiply(const Product& p) {
  int64_t panel = 0;
  if constexpr (!kManyRegisters) panel = multiply_few_rows<Operand>(p);
  for (; panel < p.panels; ++panel) multiply_panel<Operand>(p, panel);
}

void product_f32(const Product& p) { multiply<Float32>(p); }
void product_widening(const Product& p) { multiply<WidenedPairs>(p); }

// 128 KiB of a panel in the second cache, or 16 KiB in the first, where a tile's rows take 12.
Blocking blocking() { return kManyRegisters ? Blocking{64, 512} : Blocking{16, 256}; }

}  // namespace baton::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace baton::kernels {
namespace {

HWY_EXPORT(product_f32);
HWY_EXPORT(product_widening);
HWY_EXPORT(blocking);

}  // namespace

void multiply_f32(const Product& p) { HWY_DYNAMIC_DISPATCH(product_f32)(p); }
void multiply_widened_pairs(const Product& p) { HWY_DYNAMIC_DISPATCH(product_widening)(p); }
Blocking product_blocking() { return HWY_DYNAMIC_DISPATCH(blocking)(); }

}  // namespace baton::kernels

#endif  // HWY_ONCE
