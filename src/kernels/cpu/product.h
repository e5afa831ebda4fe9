// One matrix product as the inner kernels take it: blocks that fit the caches, columns padded.
#pragma once

#include <cstdint>

// Loops over a register tile must vanish, or its sums live in memory: at -O2 GCC does that only when told.
#define BATON_UNROLL _Pragma("GCC unroll 8")

namespace baton::kernels {

inline constexpr int64_t kProductColumns = 16;
inline constexpr int64_t kInlineWork =
    256 * 1024;  // multiplications below which waking helpers costs more than it gains

[[nodiscard]] constexpr int64_t round_up(int64_t v, int64_t to) { return (v + to - 1) / to * to; }

// C (rows, panels * columns) = or += A (rows, depth) * B (depth, panels * columns). B lies in panels of `columns`,
// which is a multiple of kProductColumns; the caller pads B and C. Strides in elements of the operand.
//
// bfloat16 products go by pairs along depth: A holds uint32 pairs (2i, 2i+1), or for kernels without a bfloat16
// instruction the same values widened to float32; B holds uint32 pairs (row 2i in the low half), and depth and strides
// count pairs.
struct Product {
  int64_t rows;
  int64_t columns;
  int64_t panels = 1;
  int64_t depth;
  const void* a;
  int64_t a_stride;
  int64_t a_depth_stride;
  const void* b;
  int64_t b_stride;
  int64_t b_panel_stride = 0;
  float* c;
  int64_t c_stride;
  bool accumulate;
};

// How many of the `left` rows the next register tile takes, of at most `most`: the last two tiles share what is left,
// rather than leaving a thin one.
[[nodiscard]] constexpr int64_t tile_rows(int64_t left, int64_t most) {
  return left >= 2 * most || left == most ? most : left > most ? (left + 1) / 2 : left;
}

// What suits the instruction set in use. A panel has the columns of one register tile, so that a tile reads it as one
// stream; `depth` steps of it and of a tile's rows stay in the first or second cache while all rows pass.
struct Blocking {
  int64_t columns;
  int64_t depth;
};
[[nodiscard]] Blocking product_blocking();

// A and B float32.
void multiply_f32(const Product& p);

// Pairs of bfloat16 on any machine: B is widened as it is read, A holds float32.
void multiply_widened_pairs(const Product& p);

// Pairs of bfloat16 by the vdpbf16ps instruction. Call only where use_bf16_product() says so.
void multiply_bf16_pairs(const Product& p);
// Rounds by that processor's own conversion: subnormal values become zero.
void round_bf16_natively(const float* x, int64_t count, uint16_t* out);

}  // namespace baton::kernels
