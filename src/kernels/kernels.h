// The processor's operations, done by the calling thread (and by the GEMM threads it was given): what its backend
// (backend.h) is made of. Activations are float32. Every function here has a plain counterpart in reference.h that the
// tests hold it against.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "kernels/compute.h"
#include "kernels/paged_kv.h"
#include "kernels/routing.h"
#include "tensor/dtype.h"
#include "tensor/matrix_slice.h"

namespace baton::kernels {

// How many threads matrix products called from this thread may use, itself included (1 at first, and for ranks that
// share cores): [1, 1024]. The helpers belong to the calling thread and end with it. Not from within a product.
void set_gemm_threads(int threads);
// Calls fn(part, parts) for every part, each on one of those threads, and returns when all have returned. fn must not
// throw, and must not use these threads itself, as Linear, attention and silu_mul do.
void on_gemm_threads(const std::function<void(int part, int parts)>& fn);

// The weight W (n, k) of a linear layer in the form its kernels read. Immutable after construction, so any thread may
// apply it.
//
// The CPU multiplies no float8: it holds the bfloat16 (or float32) of each value times its scale. A device that does
// may keep the bytes and scales as they are.
class Linear {
 public:
  Linear();
  // W is the `stacked` one below the other, of equal k; n, k >= 1. They are read as they are stored: bfloat16 becomes
  // bfloat16 by copying, anything else is rounded once. Linears of slices of one identity and the same `compute` share
  // what they hold, and only the first reads it.
  Linear(std::span<const tensor::MatrixSlice> stacked, Compute compute);
  Linear(const tensor::MatrixSlice& weight, Compute compute) : Linear(std::span(&weight, 1), compute) {}
  ~Linear();
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;

  [[nodiscard]] int64_t n() const;
  [[nodiscard]] int64_t k() const;
  [[nodiscard]] bool empty() const { return impl_ == nullptr; }

  // y (m, n; rows `y_stride` floats apart) = x (m, k; rows `x_stride` apart) * W^T. m >= 0. x and y do not
  // overlap. A row of y has the same bits whatever the other rows, m and the number of threads are.
  void apply(const float* x, int64_t x_stride, int64_t m, float* y, int64_t y_stride) const;
  // Both dense.
  void apply(const float* x, int64_t m, float* y) const { apply(x, k(), m, y, n()); }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Of all Linears of the process: stored bytes that were read so far, and bytes that they hold now.
struct WeightBytes {
  uint64_t read = 0, held = 0;
};
[[nodiscard]] WeightBytes weight_bytes();

// A layer for each head: head h of y (m, heads, n) = head h of x (m, heads, k) * W_h^T, with as many heads as there are
// weights. Strides in floats, of rows and of heads.
void linear_heads(std::span<const Linear> weights, const float* x, int64_t x_stride, int64_t x_head_stride, int64_t m,
                  float* y, int64_t y_stride, int64_t y_head_stride);

// y (m, n) = x (m, n) / rms(x) * weight (n); rms over each row with eps inside the root (Zhang and Sennrich 2019). In
// place is fine.
void rms_norm(const float* x, int64_t x_stride, const float* weight, float eps, int64_t m, int64_t n, float* y,
              int64_t y_stride);

// Rotary embedding (Su et al. 2021) of x: m rows of `heads` vectors of `dim` floats, rows `row_stride` and heads
// `head_stride` floats apart, in place. cos, sin: (m, dim/2), already gathered at each row's position. interleaved:
// pairs (0,1),(2,3)...; half: pairs (i, i + dim/2).
void rope_interleaved(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim,
                      const float* cos, const float* sin);
void rope_half(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim, const float* cos,
               const float* sin);

// y (m, n) = silu(gate) * up with gate and up the two halves of each row of gate_up (m, 2n).
void silu_mul(const float* gate_up, int64_t m, int64_t n, float* y);

// y (m, n) = x (m, n), rows apart by the strides.
void copy_columns(const float* x, int64_t x_stride, int64_t m, int64_t n, float* y, int64_t y_stride);

// y[i] += a * x[i]
void axpy(int64_t n, float a, const float* x, float* y);

// y (m, n) += bias (n)
void add_bias(const float* bias, int64_t m, int64_t n, float* y);

// rms_norm() of each of `heads` vectors of `dim` floats in every row, in place (Qwen3's queries and keys).
void rms_norm_heads(float* x, int64_t row_stride, const float* weight, float eps, int64_t m, int heads, int dim);

// logits: (m, experts). bias: (experts), or null unless kNoauxTc. expert, weight: (m, experts_per_token), the best
// first, equal ones by number.
void route(const Routing& routing, const float* logits, const float* bias, int64_t m, int32_t* expert, float* weight);
// Only the weights of one row, for experts that were chosen otherwise.
void weigh_experts(const Routing& routing, const float* logits, const int32_t* expert, float* weight);

// The weights of a gated FFN.
struct ExpertLayers {
  const Linear* gate_up = nullptr;
  const Linear* down = nullptr;
};
// y (rows, hidden) += weight * FFN of x (rows, hidden) for each choice of a row that is one of the experts [first,
// first
// + local.size()). expert, weight: (rows, choices). A row adds up its experts in ascending order.
void experts(const float* x, int64_t rows, int64_t hidden, const int32_t* expert, const float* weight, int choices,
             int first, std::span<const ExpertLayers> local, float* y);

// Made-up weights: out[i], the bits of a bfloat16, is uniform in [-scale, scale), a function of (key, first + i, scale)
// alone. Elements of a row have numbers below 2^32.
void uniform_bf16(uint64_t key, int64_t first, int64_t count, float scale, uint16_t* out);

// Stores the K and V of every sequence's new tokens. k: (rows, heads, k_dim), v: (rows, heads, v_dim) or null when
// v_dim is 0; row strides in floats. Values are rounded to kv.dtype.
void write_kv(const PagedKv& kv, std::span<const PagedRows> sequences, int heads, const float* k, int64_t k_row_stride,
              const float* v, int64_t v_row_stride);

// Causal attention of every sequence's new tokens over its KV, theirs included, which is already stored. q: (rows,
// q_heads, k_dim), row stride in floats. Query head j reads local kv head kv_head_of[j]. out: (rows, q_heads, v_dim)
// dense. Softmax of scale * q.k in float32, single pass over pages (Dao et al. 2022). compute kBF16 may round q and the
// probabilities. A row of out has the same bits whatever else is in the batch.
void gqa_attention(const float* q, int64_t q_row_stride, std::span<const PagedRows> sequences, int q_heads,
                   const int* kv_head_of, const PagedKv& kv, float scale, Compute compute, float* out);

// MLA, absorbed (DeepSeek-V2 report, section 2.1; used in decode): every query head reads the one latent K, whose
// kv.k_dim values are `lora` and then the rope part; V is the first `lora` of them. q: (rows, heads, kv.k_dim) dense.
// out: (rows, heads, lora) dense.
void mla_attention(const float* q, std::span<const PagedRows> sequences, int heads, int lora, const PagedKv& kv,
                   float scale, Compute compute, float* out);

// MLA, expanded (used in prefill): keys and values of every head are made of the cached latents.
struct ExpansionLayers {
  const Linear* key = nullptr;    // (heads * nope, lora)
  const Linear* value = nullptr;  // (heads * v_dim, lora)
  int heads = 0, nope = 0, rope = 0, v_dim = 0;
};
// kv is as in mla_attention(). q: (rows, heads, nope + rope) dense. out: (rows, heads, v_dim) dense.
void mla_expanded_attention(const float* q, std::span<const PagedRows> sequences, const ExpansionLayers& up,
                            const PagedKv& kv, float scale, Compute compute, float* out);

}  // namespace baton::kernels
