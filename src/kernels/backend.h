// What a model is computed with, on one rank: memory for its activations, its weights in the form that the operations
// read, and the operations of a step. A device is one implementation: cpu/ has the processor's, reference_backend.h one
// that is written to be read.
//
// Used by one thread, its rank's. Operations take effect in the order of the calls; a device may be behind the thread,
// which waits by finish(). What is passed by pointer lies in the backend's memory, unless it is said to be the
// caller's, and stays as it is until then. No operation allocates on a path that runs once a token, except scratch that
// grows to a high-water mark and stays.
//
// A row of a result has the same bits whatever else is in the batch, on the processor; elsewhere it may differ by what
// the precision allows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "kernels/compute.h"
#include "kernels/matrix.h"
#include "kernels/paged_kv.h"
#include "kernels/routing.h"
#include "sampling/row_draw.h"
#include "tensor/matrix_slice.h"

namespace baton::kernels {

// The weight W (n, k) of a linear layer in the form that a backend reads. Immutable, so that ranks may share it.
class Weight {
 public:
  Weight(int64_t n, int64_t k) : n_(n), k_(k) {}
  virtual ~Weight() = default;
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;
  [[nodiscard]] int64_t n() const { return n_; }
  [[nodiscard]] int64_t k() const { return k_; }

 private:
  int64_t n_, k_;
};
using WeightPtr = std::shared_ptr<const Weight>;

// Values of the backend's memory that never change: norms, biases.
template <typename T>
struct Constants {
  std::shared_ptr<const std::byte> memory;
  size_t size = 0;
  [[nodiscard]] const T* data() const { return reinterpret_cast<const T*>(memory.get()); }
  [[nodiscard]] bool empty() const { return size == 0; }
};

// A gated FFN, down(silu(gate(x)) * up(x)): gate_up (2 width, hidden) and down (hidden, width).
struct GatedWeights {
  WeightPtr gate_up, down;
};
// The routed experts that a rank has, in a form that a backend reads.
class ExpertSet {
 public:
  virtual ~ExpertSet() = default;
};

// Which kv head each query head of a rank reads.
struct KvHeadMap {
  Constants<int> kv_head_of;  // (query heads): ascends
  int kv_heads = 0;
  int group_max = 0;  // most query heads of one kv head
};

// A matrix whose rows are looked up, as it is stored.
class Table {
 public:
  virtual ~Table() = default;
};

// The sequences of a batch, as Backend::sequences() has prepared them for a step. Their rows are counted from the first
// of the activations that are passed beside.
struct Sequences {
  std::span<const PagedRows> host;  // the caller's
  const void* prepared = nullptr;   // the backend's own
};

// MLA's keys and values of every head, made of the latents.
struct MlaExpansion {
  const Weight* key = nullptr;    // (heads * nope, lora)
  const Weight* value = nullptr;  // (heads * v_dim, lora)
  int heads = 0, nope = 0, rope = 0, v_dim = 0;
};

// How the values of a vector are paired for rotation: (0,1),(2,3)..., or (i, i + dim/2).
enum class RopePairs : uint8_t { kInterleaved, kHalves };

class Backend {
 public:
  virtual ~Backend() = default;

  // ---- memory ----

  // Of what products read, and of the residual stream and what is added to it. Logits are float32 everywhere.
  [[nodiscard]] virtual tensor::DType activations() const = 0;
  [[nodiscard]] virtual tensor::DType sums() const = 0;
  // Unwritten, on a 64-byte boundary.
  [[nodiscard]] virtual std::shared_ptr<std::byte> allocate(size_t bytes) = 0;
  template <typename T>
  [[nodiscard]] Constants<T> constants(std::span<const T> values) {
    if (values.empty()) return {};
    return {store(std::as_bytes(values)), values.size()};
  }
  [[nodiscard]] KvHeadMap kv_head_map(std::span<const int> kv_head_of, int kv_heads) {
    KvHeadMap map{constants(kv_head_of), kv_heads, 0};
    for (int h = 0; h < kv_heads; ++h)
      map.group_max = std::max(map.group_max, static_cast<int>(std::ranges::count(kv_head_of, h)));
    return map;
  }

  // The device's queue of operations (a cudaStream_t), for who adds its own; null: the calling thread.
  [[nodiscard]] virtual void* queue() { return nullptr; }

  // ---- weights ----

  // W is the `stacked` one below the other, of equal k; n, k >= 1. They are read as they are stored.
  [[nodiscard]] virtual WeightPtr weight(std::span<const tensor::MatrixSlice> stacked, Compute compute) = 0;
  [[nodiscard]] WeightPtr weight(const tensor::MatrixSlice& slice, Compute compute) {
    return weight(std::span(&slice, 1), compute);
  }
  // One of equal shape for each head, for linear_heads().
  [[nodiscard]] virtual WeightPtr head_weights(std::span<const tensor::MatrixSlice> heads, Compute compute) = 0;
  [[nodiscard]] virtual std::shared_ptr<const Table> table(const tensor::MatrixSlice& slice) = 0;
  [[nodiscard]] virtual std::shared_ptr<const ExpertSet> expert_set(std::vector<GatedWeights> experts) = 0;

  // ---- a step ----

  // What was uploaded for the step before is gone.
  virtual void begin_step() = 0;
  // The caller's values, which stay as they are until finish(), in the backend's memory until the next begin_step().
  template <typename T>
  [[nodiscard]] const T* upload(std::span<const T> values) {
    return static_cast<const T*>(upload_bytes(std::as_bytes(values)));
  }
  // For the operations of the step; the same rule.
  [[nodiscard]] virtual Sequences sequences(std::span<const PagedRows> rows) { return {rows, nullptr}; }
  // Does `operations`, which upload nothing, wait for nothing, and fail only for good. With `repeats`, they depend on
  // `shape` and on what was uploaded alone: what a device has recorded of an earlier step it may do again in their
  // place.
  virtual Status run(uint64_t shape, bool repeats, const std::function<Status()>& operations) {
    (void)shape, (void)repeats;
    return operations();
  }
  // Rows of logits that are worth making at a time.
  [[nodiscard]] virtual int64_t logits_rows_at_once() const { return 64; }
  // Waits for everything before. Errors are the device's, and final.
  virtual Status finish() = 0;
  // Begins to draw a token from each row of float32 logits, as `draws` say; `edits` are those they name. To look_up()
  // of the next step, which may be begun before this one has ended, what is drawn from row i is -1 - i. False, and
  // nothing done: the processor may as well do it itself.
  virtual bool begin_draws(const Matrix& logits, std::span<const sampling::RowDraw> draws,
                           std::span<const sampling::LogitEdit> edits) {
    (void)logits, (void)draws, (void)edits;
    return false;
  }
  // Of the oldest draws that were begun and not ended: whether end_draws() would wait no more; and what was drawn, for
  // which it waits. Tokens are counted from the first column.
  [[nodiscard]] virtual bool draws_ended() { return true; }
  virtual Status end_draws(std::span<sampling::RowDrawn> drawn) {
    (void)drawn;
    return {};
  }
  // For how long a device was at work between the beginnings and the ends of steps. Any thread.
  [[nodiscard]] virtual int64_t busy_ns() const { return 0; }
  // The values of a float32 matrix for the processor, when finish() has returned, until the next call.
  [[nodiscard]] virtual const float* on_host(const Matrix& x) = 0;

  // Copies between the processor's memory and the backend's, done when they return. For who looks into a computation.
  virtual void read(const void* from, std::span<std::byte> to) = 0;
  virtual void write(std::span<const std::byte> from, void* to) = 0;

  // ---- operations ----

  // y (m, n), of sums(): row i is row index[i] of the table. Negative indices: see begin_draws().
  virtual void look_up(const Table& table, const int32_t* index, const Matrix& y) = 0;
  // y (m, n): row i is row index[i] of x, of the same type.
  virtual void gather_rows(const Matrix& x, const int32_t* index, const Matrix& y) = 0;
  // y += x, both of sums().
  virtual void add(const Matrix& x, const Matrix& y) = 0;
  // The same, and then z = rms_norm(y, weight, eps).
  virtual void add_rms_norm(const Matrix& x, const Matrix& y, const Constants<float>& weight, float eps,
                            const Matrix& z) {
    add(x, y);
    rms_norm(y, weight, eps, z);
  }
  virtual void add_bias(const Constants<float>& bias, const Matrix& y) = 0;
  virtual void zero(const Matrix& y) = 0;
  virtual void copy(const Heads& x, const Heads& y) = 0;
  // y = x * W^T
  virtual void linear(const Weight& weight, const Matrix& x, const Matrix& y) = 0;
  // Head h of y = head h of x * W_h^T.
  virtual void linear_heads(const Weight& weights, const Heads& x, const Heads& y) = 0;
  // y = x / rms(x) * weight; rms over each row with eps inside the root (Zhang and Sennrich 2019). In place is fine.
  virtual void rms_norm(const Matrix& x, const Constants<float>& weight, float eps, const Matrix& y) = 0;
  // The same of each vector, in place (Qwen3's queries and keys).
  virtual void rms_norm_heads(const Heads& x, const Constants<float>& weight, float eps) = 0;
  // Rotary embedding (Su et al. 2021), in place. cos, sin: (rows, dim / 2), already gathered at each row's position.
  virtual void rope(RopePairs pairs, const Heads& x, const float* cos, const float* sin) = 0;
  // y (m, n) = silu(gate) * up with gate and up the two halves of each row of gate_up (m, 2n).
  virtual void silu_mul(const Matrix& gate_up, const Matrix& y) = 0;

  // logits: (m, experts), float32. bias: (experts), or empty unless kNoauxTc. expert, weight: (m, experts_per_token),
  // the best first, equal ones by number.
  virtual void route(const Routing& routing, const Matrix& logits, const Constants<float>& bias, int32_t* expert,
                     float* weight) = 0;
  // The same by logits that are made: x is added and normed as by add_rms_norm(), which makes z, and logits are
  // linear(gate, z).
  virtual void add_norm_route(const Matrix& x, const Matrix& y, const Constants<float>& norm, float eps,
                              const Matrix& z, const Weight& gate, const Routing& routing, const Matrix& logits,
                              const Constants<float>& bias, int32_t* expert, float* weight) {
    add_rms_norm(x, y, norm, eps, z);
    linear(gate, z, logits);
    route(routing, logits, bias, expert, weight);
  }
  // y (rows, hidden), of sums(), += weight * FFN of x (rows, hidden) for each choice of a row that is one of the
  // experts [first, first + size of the set). expert, weight: (rows, choices). A row adds up its experts in ascending
  // order.
  virtual void experts(const ExpertSet& set, int first, const Matrix& x, const int32_t* expert, const float* weight,
                       int choices, const Matrix& y) = 0;
  // The same added to the FFN `shared` of x, which makes y. False, and nothing done: the operations by themselves are
  // as good.
  virtual bool shared_and_experts(const GatedWeights& shared, const ExpertSet& set, int first, const Matrix& x,
                                  const int32_t* expert, const float* weight, int choices, const Matrix& y) {
    (void)shared, (void)set, (void)first, (void)x, (void)expert, (void)weight, (void)choices, (void)y;
    return false;
  }

  // Stores the K and V of every sequence's new tokens, rounded to kv.dtype. v has no heads when kv.v_dim is 0.
  virtual void write_kv(const PagedKv& kv, const Sequences& sequences, const Heads& k, const Heads& v) = 0;
  // What MLA's attention reads of new tokens. entries (rows, lora + rope) become their KV, the first lora values normed
  // as by rms_norm() and the others turned as by rope(), and are stored as by write_kv(); what they hold then is
  // unspecified. q (rows, heads, rope): the part of the queries that is turned, in place, and in the first rows copied
  // to `absorbed`.
  virtual void write_latents(const PagedKv& kv, const Sequences& sequences, const Matrix& entries,
                             const Constants<float>& norm, float eps, RopePairs pairs, const Heads& q,
                             const Heads& absorbed, const float* cos, const float* sin) {
    const auto lora = static_cast<int64_t>(norm.size);
    const Matrix latents = entries.column_range(0, lora);
    rms_norm(latents, norm, eps, latents);
    rope(pairs, entries.column_range(lora, entries.columns - lora).by_heads(1), cos, sin);
    rope(pairs, q, cos, sin);
    write_kv(kv, sequences, entries.by_heads(1), {});
    if (absorbed.rows > 0) copy(q.first_rows(absorbed.rows), absorbed);
  }
  // Causal attention of every sequence's new tokens over its KV, theirs included, which is already stored. q: (rows,
  // q_heads, k_dim). out: (rows, q_heads * v_dim), dense. Softmax of
  // scale * q.k in float32, single pass over pages (Dao et al. 2022).
  virtual void gqa_attention(const Heads& q, const Sequences& sequences, const KvHeadMap& heads, const PagedKv& kv,
                             float scale, const Matrix& out) = 0;
  // MLA, absorbed (DeepSeek-V2 report, section 2.1; used in decode): every query head reads the one latent K, whose
  // kv.k_dim values are `lora` and then the rope part; V is the first `lora` of them. q: (rows, heads, kv.k_dim),
  // dense. out: (rows, heads * lora), dense.
  virtual void mla_attention(const Heads& q, const Sequences& sequences, int lora, const PagedKv& kv, float scale,
                             const Matrix& out) = 0;
  // MLA, expanded (used in prefill): q: (rows, heads, nope + rope). out: (rows, heads * v_dim), dense.
  virtual void mla_expanded_attention(const Heads& q, const Sequences& sequences, const MlaExpansion& up,
                                      const PagedKv& kv, float scale, const Matrix& out) = 0;

 protected:
  // A copy in the backend's memory.
  [[nodiscard]] virtual std::shared_ptr<const std::byte> store(std::span<const std::byte> bytes) = 0;
  [[nodiscard]] virtual const void* upload_bytes(std::span<const std::byte> bytes) = 0;
};

// On the calling thread and the GEMM threads that it was given. `compute` kBF16 may round queries and probabilities of
// attention too.
[[nodiscard]] std::unique_ptr<Backend> make_cpu_backend(Compute compute);

// Memory of a backend that grows to a high-water mark and stays.
class GrowingMemory {
 public:
  // What was there is lost.
  template <typename T>
  [[nodiscard]] T* room(Backend& backend, int64_t count) {
    return reinterpret_cast<T*>(bytes(backend, static_cast<size_t>(count) * sizeof(T)));
  }
  [[nodiscard]] Matrix matrix(Backend& backend, tensor::DType dtype, int64_t rows, int64_t columns) {
    return {bytes(backend, static_cast<size_t>(rows * columns) * tensor::dtype_size(dtype)), dtype, rows, columns,
            columns};
  }

 private:
  std::byte* bytes(Backend& backend, size_t count) {
    if (size_ < count) {
      memory_ = backend.allocate(count);
      size_ = count;
    }
    return memory_.get();
  }
  std::shared_ptr<std::byte> memory_;
  size_t size_ = 0;
};

}  // namespace baton::kernels
