// The vector steps of attention; attention.cc strings them together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace baton::kernels {

inline constexpr int kBlockTokens = 64;  // tokens of context a pass takes
inline constexpr int kTileRows = 128;    // query rows a pass takes

// Scores of a block for a tile of query rows, a column per row: (tokens, columns), columns a multiple of 16.
struct SoftmaxBlock {
  int tokens;
  int64_t columns;
  float* scores;    // becomes the probabilities when pairs is null
  uint32_t* pairs;  // ((tokens + 1) / 2, columns): probabilities of tokens 2i (low half) and 2i+1 as bfloat16; or null
  const float* visible;  // (columns): how many of the block's tokens the row may see; below 1 is none
  bool masked;           // some row sees less than all of them
  float* row_max;        // (columns): running maximum, -inf at first
  float* row_sum;        // (columns): running sum of exp(score - row_max)
  float* decay;          // (columns), out: what sums up to now must be multiplied by
};

// One step of online softmax (Milakov and Gimelshein 2018), a vector of rows at a time. False if every decay is 1.
bool softmax_block(const SoftmaxBlock& block);

// acc (rows, columns) *= decay (rows). columns a multiple of 16.
void decay_rows(float* acc, int64_t rows, int64_t columns, const float* decay);

// Few query rows against keys where they lie. `dtype` is of k and v; strides in elements.
struct DirectRun {
  int tokens;
  tensor::DType dtype;
  const std::byte* k;  // (tokens, k_dim), k_dim a multiple of 16
  int64_t k_stride;
  const std::byte* v;  // (tokens, v_dim), v_dim a multiple of 16
  int64_t v_stride;
};
inline constexpr int kDirectRowsMax = 4;

// scores (rows, kBlockTokens)[.., t] = q (rows, k_dim) . k[t] for the run's tokens; rows in [1, kDirectRowsMax].
void direct_scores(const DirectRun& run, const float* q, int rows, int64_t k_dim, float* scores);
// acc (rows, v_dim) += p (rows, kBlockTokens) * v
void direct_values(const DirectRun& run, const float* p, int rows, int64_t v_dim, float* acc);
// scores (tokens) become exp(score - new maximum); returns the decay of what was summed up to now.
float softmax_row(float* scores, int tokens, float& row_max, float& row_sum);

// out = x * factor; in place is fine.
void scale_row(const float* x, int64_t count, float factor, float* out);

}  // namespace baton::kernels
