#include "kernels/cpu/attention_tile.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/product.h"

namespace baton::kernels {

AttentionScratch& attention_scratch() {
  static thread_local AttentionScratch scratch;
  return scratch;
}

bool use_pairs(int64_t k_dim, Compute compute) {
  return compute == Compute::kBF16 && k_dim % 2 == 0 && use_bf16_product();
}

void start_tile(Tile& tile, int rows, int64_t k_dim, int64_t v_dim, Compute compute) {
  tile.rows = rows;
  tile.columns = round_up(rows, kProductColumns);
  tile.v_columns = round_up(v_dim, kProductColumns);
  tile.pairs = use_pairs(k_dim, compute);
  AttentionScratch& scratch = attention_scratch();
  tile.queries = scratch.queries.get<uint32_t>(k_dim * tile.columns);
  tile.acc = scratch.acc.get<float>(rows * tile.v_columns);
  if (rows < tile.columns) std::memset(tile.queries, 0, static_cast<size_t>(k_dim * tile.columns) * sizeof(uint32_t));
  std::fill(tile.acc, tile.acc + rows * tile.v_columns, 0.0f);
  std::fill(tile.visible, tile.visible + kTileRows,
            std::numeric_limits<int64_t>::max());  // padding sees all and is ignored
  std::fill(tile.row_max, tile.row_max + kTileRows, -std::numeric_limits<float>::infinity());
  std::fill(tile.row_sum, tile.row_sum + kTileRows, 0.0f);
}

void pack_query(Tile& tile, int row, const float* q, int64_t k_dim, float scale) {
  uint32_t* column = tile.queries + row;
  if (tile.pairs) {
    AttentionScratch& scratch = attention_scratch();
    float* scaled = scratch.query_scaled.get<float>(k_dim);
    auto* rounded = scratch.query_rounded.get<uint16_t>(k_dim);
    scale_row(q, k_dim, scale, scaled);
    round_bf16_natively(scaled, k_dim, rounded);
    for (int64_t i = 0; i < k_dim / 2; ++i) std::memcpy(column + i * tile.columns, rounded + 2 * i, sizeof(uint32_t));
  } else {
    for (int64_t i = 0; i < k_dim; ++i) column[i * tile.columns] = std::bit_cast<uint32_t>(q[i] * scale);
  }
}

void attend(Tile& tile, const ContextBlock& block, int64_t k_dim) {
  const auto multiply = tile.pairs ? multiply_bf16_pairs : multiply_f32;
  AttentionScratch& scratch = attention_scratch();
  float* scores = scratch.scores.get<float>(kBlockTokens * kTileRows);
  multiply(Product{.rows = block.tokens,
                   .columns = tile.columns,
                   .depth = tile.pairs ? k_dim / 2 : k_dim,
                   .a = block.k,
                   .a_stride = block.k_stride,
                   .a_depth_stride = 1,
                   .b = tile.queries,
                   .b_stride = tile.columns,
                   .c = scores,
                   .c_stride = tile.columns,
                   .accumulate = false});

  float visible[kTileRows], decay[kTileRows];
  bool masked = false;
  for (int64_t r = 0; r < tile.columns; ++r) {
    const int64_t tokens = std::clamp<int64_t>(tile.visible[r] - block.begin, 0, block.tokens);
    visible[r] = static_cast<float>(tokens);
    masked = masked || tokens < block.tokens;
  }
  uint32_t* pairs = tile.pairs ? scratch.probabilities.get<uint32_t>(kBlockTokens / 2 * kTileRows) : nullptr;
  const bool decays = softmax_block(SoftmaxBlock{.tokens = block.tokens,
                                                 .columns = tile.columns,
                                                 .scores = scores,
                                                 .pairs = pairs,
                                                 .visible = visible,
                                                 .masked = masked,
                                                 .row_max = tile.row_max,
                                                 .row_sum = tile.row_sum,
                                                 .decay = decay});
  if (decays) decay_rows(tile.acc, tile.rows, tile.v_columns, decay);

  multiply(Product{.rows = tile.rows,
                   .columns = tile.v_columns,
                   .depth = tile.pairs ? (block.tokens + 1) / 2 : block.tokens,
                   .a = tile.pairs ? static_cast<const void*>(pairs) : scores,
                   .a_stride = 1,
                   .a_depth_stride = tile.columns,
                   .b = block.v,
                   .b_stride = block.v_stride,
                   .c = tile.acc,
                   .c_stride = tile.v_columns,
                   .accumulate = true});
}

void pair_tokens(const uint16_t* v, int64_t v_stride, int64_t tokens, int64_t v_dim, uint32_t* out,
                 int64_t out_stride) {
  for (int64_t t = 0; t < tokens; t += 2)
    interleave_bf16(v + t * v_stride, t + 1 < tokens ? v + (t + 1) * v_stride : nullptr, v_dim,
                    out + t / 2 * out_stride);
}

}  // namespace baton::kernels
