// What a model is computed with, on a card: launchers over device memory, each in the order of its stream, none of
// which waits for the card or allocates (all may be captured in a graph). Meanings are those of kernels/backend.h;
// reference.h is the oracle of both.
//
// T is the element type of activations and weights: bf16, or float for the path that is held against the reference.
// All arithmetic is float32. Pointers are device pointers and rows begin at multiples of 16 bytes; strides are in
// elements. Norm weights and biases are float32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "kernels/paged_kv.h"
#include "kernels/routing.h"
#include "sampling/row_draw.h"

namespace baton::kernels {
enum class RopePairs : uint8_t;  // backend.h
}

namespace baton::kernels::cuda {

using bf16 = __nv_bfloat16;
using fp8 = __nv_fp8_e4m3;

// Columns that share a scale, of weights and of activations in fp8.
inline constexpr int kScaleBlock = 128;
// How a weight (n, k) lies in fp8; k is a multiple of 8.
struct Fp8Layout {
  int64_t n = 0, k = 0;
  int row_shift = 7;  // 3 to 7: 2^row_shift rows share a scale
  // Bytes from row to row; zeros are behind k.
  [[nodiscard]] __host__ __device__ int64_t stride() const { return (k + 15) / 16 * 16; }
  // Scales: (scale_rows, scale_stride), of which the first ceil(k / 128) of a row count (cuBLASLt wants fours).
  [[nodiscard]] __host__ __device__ int64_t scale_rows() const { return (n + (1 << row_shift) - 1) >> row_shift; }
  [[nodiscard]] __host__ __device__ int64_t scale_stride() const { return (k + 511) / 512 * 4; }
};
struct Fp8Weight : Fp8Layout {
  const fp8* values = nullptr;
  const float* scales = nullptr;
};

// Rows (m, k) in fp8, k a multiple of 8, for products of many rows: each 128 columns of a row have a scale.
struct Fp8Rows {
  int64_t m = 0, k = 0;
  fp8* values = nullptr;
  float* scales = nullptr;  // (ceil(k / 128), scale_stride): rows are contiguous, as cuBLASLt wants them
  // Bytes from row to row; zeros are behind k.
  [[nodiscard]] __host__ __device__ int64_t stride() const { return (k + 15) / 16 * 16; }
  [[nodiscard]] __host__ __device__ int64_t scale_stride() const { return (m + 3) / 4 * 4; }
};
// Memory for such rows.
constexpr size_t fp8_rows_bytes(int64_t m, int64_t k) {
  return static_cast<size_t>((m + 3) / 4 * 4 * ((k + 127) / 128 * (128 + 4)));
}
// x in fp8, in `memory`: s = max|x| / 448 of each 128 columns of a row, as DeepSeek-V3 does it (report, section 3.3).
Fp8Rows quantize_rows(cudaStream_t stream, const bf16* x, int64_t x_stride, int64_t m, int64_t k, void* memory);

template <class T>
void rms_norm(cudaStream_t stream, const T* x, int64_t x_stride, const float* weight, float eps, int64_t m, int64_t n,
              T* y, int64_t y_stride);
// residual (m, n) += delta (m, n); y (m, n) = rms_norm(residual). What is normed is the rounded sum.
template <class T>
void add_rms_norm(cudaStream_t stream, const T* delta, T* residual, const float* weight, float eps, int64_t m,
                  int64_t n, T* y);
template <class T>
void rms_norm_heads(cudaStream_t stream, T* x, int64_t row_stride, const float* weight, float eps, int64_t m, int heads,
                    int dim);

// cos, sin: tables (positions, dim / 2); row i of x is at positions[i], or, if that is null, at i.
template <class T>
void rope(cudaStream_t stream, RopePairs pairs, T* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride,
          int dim, const int32_t* positions, const float* cos, const float* sin);

template <class T>
void silu_mul(cudaStream_t stream, const T* gate_up, int64_t m, int64_t n, T* y);
template <class T>
void copy_columns(cudaStream_t stream, const T* x, int64_t x_stride, int64_t m, int64_t n, T* y, int64_t y_stride);
// y (m, heads, dim) = x (m, heads, dim), each with the strides of its rows and heads.
template <class T>
void copy_heads(cudaStream_t stream, const T* x, int64_t x_stride, int64_t x_head_stride, int64_t m, int heads, int dim,
                T* y, int64_t y_stride, int64_t y_head_stride);
// y[i] += x[i]
template <class T>
void add(cudaStream_t stream, int64_t n, const T* x, T* y);
template <class T>
void add_bias(cudaStream_t stream, const float* bias, int64_t m, int64_t n, T* y);
// y (m, n) = row rows[i] of x, or row drawn[-1 - rows[i]] if that is negative. From is T or bf16.
template <class From, class T>
void gather_rows(cudaStream_t stream, const From* x, int64_t x_stride, const int32_t* rows, const int32_t* drawn,
                 int64_t m, int64_t n, T* y);

// CardSequences of a batch, on the card. kv.pages is there too.
struct CardSequences {
  const PagedRows* rows = nullptr;  // (count); an entry with tokens = 0 is skipped
  int count = 0;
  int64_t tokens_max = 0;  // new tokens of the longest: bounds the grid
};

template <class T>
void write_kv(cudaStream_t stream, const PagedKv& kv, CardSequences sequences, int heads, const T* k,
              int64_t k_row_stride, const T* v, int64_t v_row_stride);

// What write_latents() of backend.h is given, rows counted as the sequences' are.
template <class T>
struct NewLatents {
  const T* entries = nullptr;  // (rows, lora + rope), not changed
  int64_t stride = 0;
  const float* norm = nullptr;  // (lora)
  float eps = 0;
  int lora = 0, rope = 0, heads = 0;
  T* q = nullptr;  // (rows, heads, rope)
  int64_t q_row_stride = 0, q_head_stride = 0;
  T* absorbed = nullptr;  // (absorbed_rows, heads, rope)
  int64_t absorbed_rows = 0, absorbed_row_stride = 0, absorbed_head_stride = 0;
  const float *cos = nullptr, *sin = nullptr;  // (rows, rope / 2)
};
template <class T>
void write_latents(cudaStream_t stream, const PagedKv& kv, CardSequences sequences, RopePairs pairs,
                   const NewLatents<T>& latents);

// How the blocks of a decode kernel share out the KV of a batch: block i of `blocks` reads tiles of kDecodeTile tokens
// [i, i + 1) * total / blocks of all sequences' in order. One plan serves every layer of a step.
inline constexpr int kDecodeTile = 64;
struct DecodePlan {
  const int32_t* first_tile = nullptr;  // (count + 1), made by plan_decode()
};
// Decode kernels take one token an entry: a sequence with several new tokens has as many entries, each with its own
// `begin`.
void plan_decode(cudaStream_t stream, CardSequences sequences, int32_t* first_tile);

// Which query heads read which kv head of a rank.
struct QueryHeads {
  int count = 0;
  int kv_heads = 0;
  int group_max = 0;                // most query heads of one kv head
  const int* kv_head_of = nullptr;  // (count), on the card; ascends
};
// Bytes of scratch for one decode attention of up to `entries` entries (MLA: kv_heads 1, group_max heads, v_dim lora).
size_t decode_scratch_bytes(int entries, int kv_heads, int group_max, int v_dim);

// bf16 with head_dim 64 or 128 has kernels of its own, anything else is computed by a plain one. out: (rows,
// heads.count, v_dim). gqa_decode wants entries of one token.
template <class T>
void gqa_decode(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences, DecodePlan plan,
                const QueryHeads& heads, const PagedKv& kv, float scale, void* scratch, T* out);
template <class T>
void gqa_prefill(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences,
                 const QueryHeads& heads, const PagedKv& kv, float scale, T* out);

// MLA, absorbed. q: (rows, heads, kv.k_dim), out: (rows, heads, lora). bf16 with lora 512 and rope 64 has a kernel of
// its own. Entries of one token.
template <class T>
void mla_decode(cudaStream_t stream, const T* q, CardSequences sequences, DecodePlan plan, int heads, int lora,
                const PagedKv& kv, float scale, void* scratch, T* out);

// MLA, expanded, in three steps: the latents of the sequences' KV are gathered into latents (total, lora + rope);
// Products::linear makes keys (total, heads * nope) and values (total, heads * v_dim) of them; then attention.
// context_first (count): where a sequence's tokens begin in latents.
template <class T>
void mla_gather_latents(cudaStream_t stream, const PagedKv& kv, CardSequences sequences, int64_t context_max,
                        const int32_t* context_first, T* latents);
template <class T>
struct ExpandedKv {
  const T* latents = nullptr;  // (total, lora + rope)
  const T* keys = nullptr;     // (total, heads, nope)
  const T* values = nullptr;   // (total, heads, v_dim)
  const int32_t* context_first = nullptr;
  int heads = 0, lora = 0, nope = 0, rope = 0, v_dim = 0;
};
// q: (rows, heads, nope + rope); out: (rows, heads, v_dim).
template <class T>
void mla_prefill(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences,
                 const ExpandedKv<T>& kv, float scale, T* out);

// expert, weight: (m, experts_per_token), the best first. experts <= 512.
void route(cudaStream_t stream, const Routing& routing, const float* logits, const float* bias, int64_t m,
           int32_t* expert, float* weight);

// add_rms_norm() of few rows, and then route() by logits (m, experts) = y * gate^T. False, and nothing done: of so many
// rows that is not faster, or they are too wide.
bool add_norm_route(cudaStream_t stream, const bf16* delta, bf16* residual, const float* norm, float eps, int64_t m,
                    int64_t n, bf16* y, const bf16* gate, const Routing& routing, const float* bias, float* logits,
                    int32_t* expert, float* weight);

// Which slots, pairs of a row and a choice ordered by expert, each of this rank's experts works on.
struct ExpertSlots {
  int32_t* offset = nullptr;   // (local + 1): the slots of expert first + i are [offset[i], offset[i + 1])
  int32_t* pair_of = nullptr;  // (rows * choices): slot -> row * choices + choice
  int32_t* slot_of = nullptr;  // (rows * choices): its inverse, or -1: an expert of another rank
};
void permute_experts(cudaStream_t stream, const int32_t* expert, int64_t rows, int choices, int first, int local,
                     ExpertSlots slots);

// The experts [first, first + local) of a layer that has `experts`, one after another.
template <class T, class W = T>
struct ExpertBank {
  const W* gate_up = nullptr;  // (local, 2 width, hidden)
  const W* down = nullptr;     // (local, hidden, width)
  int experts = 0, first = 0, local = 0;
  int64_t hidden = 0, width = 0;
};
// The same in fp8: the layouts are one expert's, (2 width, hidden) and (hidden, width), and experts lie one after
// another. width is a multiple of 8.
template <>
struct ExpertBank<bf16, fp8> {
  Fp8Weight gate_up, down;
  int experts = 0, first = 0, local = 0;
  int64_t hidden = 0, width = 0;
};
// y (rows, hidden) = (add: y +) sum over a row's choices of weight * FFN of x. A row adds up its experts in ascending
// order. Calls permute_experts(): slots is scratch, as are activated (rows * choices, width) and out (rows * choices,
// hidden). fp8 of many rows multiplies by x and activations in fp8 too, and wants memory for them: expert_fp8_bytes().
template <class T, class W>
void experts(cudaStream_t stream, const T* x, int64_t rows, const int32_t* expert, const float* weight, int choices,
             const ExpertSlots& slots, const ExpertBank<T, W>& bank, T* activated, T* out, bool add, T* y,
             void* fp8_memory = nullptr);
[[nodiscard]] size_t expert_fp8_bytes(int64_t rows, int choices, const ExpertBank<bf16, fp8>& bank);

// What a few rows' choices and a shared FFN (width may differ) give together, in two kernels. False, and nothing done:
// of so many rows that is not faster, or sizes are odd.
inline constexpr int kFewRowsMoe = 8;  // the most rows
struct SharedFfn {
  const bf16* gate_up = nullptr;  // (2 width, hidden)
  const bf16* down = nullptr;     // (hidden, width)
  int64_t width = 0;
};
// y (rows, hidden) = the shared FFN of x, and as experts(). activated: (rows * choices, bank's width) and
// shared_activated: (rows, shared width) are scratch.
bool few_rows_moe(cudaStream_t stream, const bf16* x, int64_t rows, const int32_t* expert, const float* weight,
                  int choices, const SharedFfn& shared, const ExpertBank<bf16>& bank, bf16* activated,
                  bf16* shared_activated, bf16* y);

// Matrix products of one rank: the library's handle and workspace, and the algorithm chosen for each shape. One thread
// and one stream at a time.
class Products {
 public:
  Products();
  ~Products();
  Products(Products&&) noexcept;
  Products& operator=(Products&&) noexcept;

  // y (m, n; rows y_stride apart) = x (m, k; rows x_stride apart) * W^T, w (n, k) row major. Y is T or float.
  template <class T, class Y>
  void linear(cudaStream_t stream, const T* w, int64_t n, int64_t k, const T* x, int64_t x_stride, int64_t m, Y* y,
              int64_t y_stride);
  // head h of y (m, heads, n) = head h of x (m, heads, k) * W_h^T, w (heads, n, k).
  template <class T>
  void linear_heads(cudaStream_t stream, const T* w, int heads, int64_t n, int64_t k, const T* x, int64_t x_stride,
                    int64_t x_head_stride, int64_t m, T* y, int64_t y_stride, int64_t y_head_stride);
  // y = x * W^T in fp8, for many rows.
  void linear_fp8(cudaStream_t stream, const Fp8Rows& x, const Fp8Weight& w, bf16* y, int64_t y_stride);
  // Whether the library is asked for them at all, else our own kernel makes them.
  void set_fp8_library(bool asked);
  // Products of so many rows or fewer are computed by our own kernel, which reads the weight once at memory's rate,
  // whatever its size; 0: none.
  void set_small_rows(int64_t rows);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// y (m, n) = x (m, k) * W^T with W in fp8 as it is stored, for few rows (decode): W is read once every 16 of them. Y is
// bf16 or float.
template <class Y>
void linear_fp8(cudaStream_t stream, const Fp8Weight& w, const bf16* x, int64_t x_stride, int64_t m, Y* y,
                int64_t y_stride);

// Weights on their way to the card. rows (n, k) = kernels::uniform_bf16 of row_keys (n), from column first_col on.
void uniform_rows(cudaStream_t stream, const uint64_t* row_keys, int64_t n, int64_t first_col, int64_t k, float scale,
                  bf16* rows);
// Rows and columns [row, row + rows) x [column, column + columns) of tensor::quantize_fp8(w (n, k), blocks of 128 x
// 128), to rows [at, at + rows) of `values` and the scales of `to`; `column` is a multiple of 128.
void quantize_weight(cudaStream_t stream, const bf16* w, int64_t n, int64_t k, int64_t row, int64_t rows,
                     int64_t column, const Fp8Layout& to, int64_t at, fp8* values, float* scales);
// rows (n, k) = W.
void dequantize_weight(cudaStream_t stream, const Fp8Weight& w, bf16* rows);

// Draws from m rows of logits (n, rows stride apart), one as each of `draws` says; the edits are of all. drawn (m), and
// tokens (m): their tokens again, for a step that reads them. False, and nothing done: the rows are too long.
bool draw(cudaStream_t stream, const float* logits, int64_t stride, int64_t m, int64_t n,
          const sampling::RowDraw* draws, const sampling::LogitEdit* edits, sampling::RowDrawn* drawn, int32_t* tokens);

}  // namespace baton::kernels::cuda
