// The plain counterpart of every function of kernels.h: one scalar loop nest each, written to be read against the
// formula, sums in double. The tests hold the fast kernels against these; nothing else calls them. Arguments and
// meanings are those of kernels.h.
#pragma once

#include "kernels/kernels.h"
#include "sampling/row_draw.h"

namespace baton::kernels {

// w: (n, k) row major. kBF16 rounds x and w to bfloat16 first.
void linear_ref(const float* w, int64_t n, int64_t k, Compute compute, const float* x, int64_t x_stride, int64_t m,
                float* y, int64_t y_stride);

void rms_norm_ref(const float* x, int64_t x_stride, const float* weight, float eps, int64_t m, int64_t n, float* y,
                  int64_t y_stride);

void rope_interleaved_ref(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim,
                          const float* cos, const float* sin);
void rope_half_ref(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim, const float* cos,
                   const float* sin);

void silu_mul_ref(const float* gate_up, int64_t m, int64_t n, float* y);
void axpy_ref(int64_t n, float a, const float* x, float* y);

void route_ref(const Routing& routing, const float* logits, const float* bias, int64_t m, int32_t* expert,
               float* weight);
// gate_up: (count, 2 width, hidden), down: (count, hidden, width).
void experts_ref(const float* x, int64_t rows, int64_t hidden, const int32_t* expert, const float* weight, int choices,
                 int first, int count, int64_t width, const float* gate_up, const float* down, float* y);

// One row; sampling/vocabulary_sampler.h says what it means.
[[nodiscard]] sampling::RowDrawn draw_ref(const float* logits, int64_t n, const sampling::RowDraw& draw,
                                          std::span<const sampling::LogitEdit> edits);

void write_kv_ref(const PagedKv& kv, std::span<const PagedRows> sequences, int heads, const float* k,
                  int64_t k_row_stride, const float* v, int64_t v_row_stride);
void read_kv_ref(const PagedKv& kv, int64_t begin, int64_t m, int head, float* k, float* v);

// Softmax in two passes over all scores, no rounding of q or of the probabilities.
void gqa_attention_ref(const float* q, int64_t q_row_stride, std::span<const PagedRows> sequences, int q_heads,
                       const int* kv_head_of, const PagedKv& kv, float scale, float* out);
void mla_attention_ref(const float* q, std::span<const PagedRows> sequences, int heads, int lora, const PagedKv& kv,
                       float scale, float* out);

// The weights of ExpansionLayers: key (heads * nope, lora), value (heads * v_dim, lora).
void mla_expanded_attention_ref(const float* q, std::span<const PagedRows> sequences, const float* key,
                                const float* value, int heads, int nope, int rope, int v_dim, const PagedKv& kv,
                                float scale, float* out);

void attention_block_ref(const float* q, int64_t begin, int64_t m, int heads, int qk_dim, int v_dim, const float* k,
                         const float* v, int64_t block_begin, int64_t n, float scale, float* acc, float* row_max,
                         float* row_sum);
void attention_finish_ref(int64_t m, int heads, int v_dim, float* acc, const float* row_sum);

void uniform_bf16_ref(uint64_t key, int64_t first, int64_t count, float scale, uint16_t* out);

}  // namespace baton::kernels
