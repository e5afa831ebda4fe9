#include <algorithm>
#include <cstring>

#include "kernels/backend.h"
#include "kernels/kernels.h"
#include "tensor/aligned_buffer.h"

namespace baton::kernels {
namespace {

class CpuWeight final : public Weight {
 public:
  CpuWeight(int64_t n, int64_t k, std::vector<Linear> layers) : Weight(n, k), layers_(std::move(layers)) {}
  [[nodiscard]] const Linear& whole() const { return layers_.front(); }
  [[nodiscard]] std::span<const Linear> by_heads() const { return layers_; }

 private:
  std::vector<Linear> layers_;  // one, or one a head
};

const CpuWeight& own(const Weight& weight) { return static_cast<const CpuWeight&>(weight); }

// Where it is stored: the rows of few tokens are read.
struct StoredTable final : Table {
  explicit StoredTable(tensor::StoredMatrix matrix) : rows(std::move(matrix)) {}
  tensor::StoredMatrix rows;
};

class CpuExperts final : public ExpertSet {
 public:
  explicit CpuExperts(std::vector<GatedWeights> experts) : experts_(std::move(experts)) {
    for (const GatedWeights& e : experts_) layers_.push_back({&own(*e.gate_up).whole(), &own(*e.down).whole()});
  }
  [[nodiscard]] std::span<const ExpertLayers> layers() const { return layers_; }

 private:
  std::vector<GatedWeights> experts_;
  std::vector<ExpertLayers> layers_;
};

// The floats of vectors that lie one after another, row after row.
const float* dense(const Heads& x) {
  BATON_CHECK(x.rows <= 1 || (x.head_stride == x.dim && x.row_stride == int64_t{x.heads} * x.dim));
  return x.floats();
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(Compute compute) : compute_(compute) {}

  [[nodiscard]] tensor::DType activations() const override { return tensor::DType::kF32; }
  [[nodiscard]] tensor::DType sums() const override { return tensor::DType::kF32; }
  std::shared_ptr<std::byte> allocate(size_t bytes) override {
    auto buffer = std::make_shared<tensor::AlignedBuffer>(tensor::AlignedBuffer::unwritten(bytes));
    return {buffer, buffer->data()};
  }

  using Backend::weight;
  WeightPtr weight(std::span<const tensor::MatrixSlice> stacked, Compute compute) override {
    std::vector<Linear> layers;
    const Linear& layer = layers.emplace_back(stacked, compute);
    return std::make_shared<CpuWeight>(layer.n(), layer.k(), std::move(layers));
  }
  WeightPtr head_weights(std::span<const tensor::MatrixSlice> heads, Compute compute) override {
    std::vector<Linear> layers;
    for (const tensor::MatrixSlice& head : heads) layers.emplace_back(head, compute);
    const auto count = static_cast<int64_t>(layers.size());
    return std::make_shared<CpuWeight>(count * layers.front().n(), layers.front().k(), std::move(layers));
  }
  std::shared_ptr<const Table> table(const tensor::MatrixSlice& slice) override {
    return std::make_shared<StoredTable>(slice.stored());
  }
  std::shared_ptr<const ExpertSet> expert_set(std::vector<GatedWeights> experts) override {
    return std::make_shared<CpuExperts>(std::move(experts));
  }

  void begin_step() override {}
  Status finish() override { return {}; }
  const float* on_host(const Matrix& x) override { return x.floats(); }
  void read(const void* from, std::span<std::byte> to) override { std::memcpy(to.data(), from, to.size()); }
  void write(std::span<const std::byte> from, void* to) override { std::memcpy(to, from.data(), from.size()); }

  void look_up(const Table& table, const int32_t* index, const Matrix& y) override {
    const tensor::StoredMatrix& rows = static_cast<const StoredTable&>(table).rows;
    for (int64_t r = 0; r < y.rows; ++r) rows.read(index[r], 0, y.columns, y.floats() + r * y.stride);
  }
  void gather_rows(const Matrix& x, const int32_t* index, const Matrix& y) override {
    for (int64_t r = 0; r < y.rows; ++r)
      std::memcpy(y.floats() + r * y.stride, x.floats() + index[r] * x.stride, y.row_bytes());
  }
  void add(const Matrix& x, const Matrix& y) override {
    axpy(y.rows * y.columns, 1.0F, x.dense_floats(), y.dense_floats());
  }
  void add_bias(const Constants<float>& bias, const Matrix& y) override {
    kernels::add_bias(bias.data(), y.rows, y.columns, y.dense_floats());
  }
  void zero(const Matrix& y) override { std::fill_n(y.dense_floats(), y.rows * y.columns, 0.0F); }
  void copy(const Heads& x, const Heads& y) override {
    for (int64_t r = 0; r < x.rows; ++r)
      copy_columns(x.floats() + r * x.row_stride, x.head_stride, x.heads, x.dim, y.floats() + r * y.row_stride,
                   y.head_stride);
  }
  void linear(const Weight& weight, const Matrix& x, const Matrix& y) override {
    own(weight).whole().apply(x.floats(), x.stride, x.rows, y.floats(), y.stride);
  }
  void linear_heads(const Weight& weights, const Heads& x, const Heads& y) override {
    kernels::linear_heads(own(weights).by_heads(), x.floats(), x.row_stride, x.head_stride, x.rows, y.floats(),
                          y.row_stride, y.head_stride);
  }
  void rms_norm(const Matrix& x, const Constants<float>& weight, float eps, const Matrix& y) override {
    kernels::rms_norm(x.floats(), x.stride, weight.data(), eps, x.rows, x.columns, y.floats(), y.stride);
  }
  void rms_norm_heads(const Heads& x, const Constants<float>& weight, float eps) override {
    BATON_CHECK(x.head_stride == x.dim);
    kernels::rms_norm_heads(x.floats(), x.row_stride, weight.data(), eps, x.rows, x.heads, x.dim);
  }
  void rope(RopePairs pairs, const Heads& x, const float* cos, const float* sin) override {
    const auto turn = pairs == RopePairs::kInterleaved ? rope_interleaved : rope_half;
    turn(x.floats(), x.rows, x.row_stride, x.heads, x.head_stride, x.dim, cos, sin);
  }
  void silu_mul(const Matrix& gate_up, const Matrix& y) override {
    kernels::silu_mul(gate_up.dense_floats(), y.rows, y.columns, y.dense_floats());
  }

  void route(const Routing& routing, const Matrix& logits, const Constants<float>& bias, int32_t* expert,
             float* weight) override {
    kernels::route(routing, logits.dense_floats(), bias.empty() ? nullptr : bias.data(), logits.rows, expert, weight);
  }
  void experts(const ExpertSet& set, int first, const Matrix& x, const int32_t* expert, const float* weight,
               int choices, const Matrix& y) override {
    kernels::experts(x.dense_floats(), x.rows, x.columns, expert, weight, choices, first,
                     static_cast<const CpuExperts&>(set).layers(), y.dense_floats());
  }

  void write_kv(const PagedKv& kv, const Sequences& sequences, const Heads& k, const Heads& v) override {
    kernels::write_kv(kv, sequences.host, k.heads, k.floats(), k.row_stride, v.heads == 0 ? nullptr : v.floats(),
                      v.row_stride);
  }
  void gqa_attention(const Heads& q, const Sequences& sequences, const KvHeadMap& heads, const PagedKv& kv, float scale,
                     const Matrix& out) override {
    kernels::gqa_attention(q.floats(), q.row_stride, sequences.host, q.heads, heads.kv_head_of.data(), kv, scale,
                           compute_, out.dense_floats());
  }
  void mla_attention(const Heads& q, const Sequences& sequences, int lora, const PagedKv& kv, float scale,
                     const Matrix& out) override {
    kernels::mla_attention(dense(q), sequences.host, q.heads, lora, kv, scale, compute_, out.dense_floats());
  }
  void mla_expanded_attention(const Heads& q, const Sequences& sequences, const MlaExpansion& up, const PagedKv& kv,
                              float scale, const Matrix& out) override {
    if (sequences.host.empty()) return;
    const ExpansionLayers layers{&own(*up.key).whole(), &own(*up.value).whole(), up.heads, up.nope, up.rope, up.v_dim};
    // They may lie beside other columns.
    Heads queries = q;
    if (q.row_stride != int64_t{q.heads} * q.dim) {
      queries = queries_.matrix(*this, q.dtype, q.rows, int64_t{q.heads} * q.dim).by_heads(q.heads);
      copy(q, queries);
    }
    kernels::mla_expanded_attention(dense(queries), sequences.host, layers, kv, scale, compute_, out.dense_floats());
  }

 protected:
  std::shared_ptr<const std::byte> store(std::span<const std::byte> bytes) override {
    auto memory = allocate(bytes.size());
    std::memcpy(memory.get(), bytes.data(), bytes.size());
    return memory;
  }
  const void* upload_bytes(std::span<const std::byte> bytes) override { return bytes.data(); }

 private:
  const Compute compute_;
  GrowingMemory queries_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(Compute compute) { return std::make_unique<CpuBackend>(compute); }

}  // namespace baton::kernels
