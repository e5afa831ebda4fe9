// A tile of query rows meets blocks of context. See attention.cc.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention_steps.h"
#include "kernels/cpu/growing_buffer.h"
#include "kernels/kernels.h"

namespace baton::kernels {

// The query rows of a tile and what has been summed for them.
struct Tile {
  int rows = 0;
  int64_t columns = 0;          // rows, padded
  int64_t v_columns = 0;        // v_dim, padded
  bool pairs = false;           // operands are bfloat16 pairs
  uint32_t* queries = nullptr;  // (k_dim or k_dim / 2, columns): scaled float32, or pairs
  float* acc = nullptr;         // (rows, v_columns)
  int64_t visible[kTileRows];   // context tokens the row may see
  float row_max[kTileRows];
  float row_sum[kTileRows];
};

// Context tokens as the products read them.
struct ContextBlock {
  int64_t begin = 0;
  int tokens = 0;
  const void* k = nullptr;  // float32 rows, or rows of bfloat16 pairs; stride in 4-byte units
  int64_t k_stride = 0;
  const void* v = nullptr;  // float32 rows, or rows of pairs (tokens 2i, 2i + 1); readable up to v_columns in every row
  int64_t v_stride = 0;
};

// Work space of the calling thread; tiles and blocks point into it.
struct AttentionScratch {
  GrowingBuffer queries, query_scaled, query_rounded, acc, k, v, v_pairs, scores, probabilities, heads, groups;
};
AttentionScratch& attention_scratch();

// Whether keys of k_dim values are multiplied as bfloat16 pairs.
[[nodiscard]] bool use_pairs(int64_t k_dim, Compute compute);
// A tile that has seen nothing. One tile a thread at a time: its rows lie in the thread's scratch.
void start_tile(Tile& tile, int rows, int64_t k_dim, int64_t v_dim, Compute compute);
// Puts scale * q (k_dim) into row `row`.
void pack_query(Tile& tile, int row, const float* q, int64_t k_dim, float scale);
// Adds what the tile's rows see of the block to their sums.
void attend(Tile& tile, const ContextBlock& block, int64_t k_dim);
// Rows of bfloat16 v (tokens, v_dim) to rows of pairs of tokens (2i, 2i + 1): out ((tokens + 1) / 2, v_dim).
void pair_tokens(const uint16_t* v, int64_t v_stride, int64_t tokens, int64_t v_dim, uint32_t* out, int64_t out_stride);

}  // namespace baton::kernels
