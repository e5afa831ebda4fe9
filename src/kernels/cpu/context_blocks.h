// What mla_expanded_attention() of the CPU is made of: a block of the context out of the pages, and attention over it.
// Each has a counterpart in reference.h, too.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace baton::kernels {

// Reads K (and V if v_dim > 0) rows of tokens [begin, begin + m) of local kv head `head` as float32: k (m, k_dim), v
// (m, v_dim).
void read_kv(const PagedKv& kv, int64_t begin, int64_t m, int head, float* k, float* v);

// Causal attention over K and V that lie dense in float32 (a block of the context). Call it for each block of the
// context with the same running state, then call attention_finish().
//
// q: (m, heads, qk_dim) dense, the queries of positions [begin, begin + m). The block is the context's tokens
// [block_begin, block_begin + n): k (n, heads, qk_dim) and v (n, heads, v_dim), dense. The state is acc (m, heads,
// v_dim), row_max and row_sum (m, heads); it begins as acc = 0, row_max = -inf, row_sum = 0. The result is acc /
// row_sum after the last block.
void attention_block(const float* q, int64_t begin, int64_t m, int heads, int qk_dim, int v_dim, const float* k,
                     const float* v, int64_t block_begin, int64_t n, float scale, Compute compute, float* acc,
                     float* row_max, float* row_sum);
void attention_finish(int64_t m, int heads, int v_dim, float* acc, const float* row_sum);

}  // namespace baton::kernels
