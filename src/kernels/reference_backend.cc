#include "kernels/reference_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>

#include "kernels/reference.h"

namespace baton::kernels {
namespace {

class PlainWeight final : public Weight {
 public:
  PlainWeight(std::span<const tensor::MatrixSlice> stacked, Compute compute)
      : Weight(rows_of(stacked), stacked.front().cols()), compute_(compute) {
    for (const tensor::MatrixSlice& slice : stacked) {
      const tensor::StoredMatrix m = slice.stored();
      for (int64_t r = 0; r < slice.rows(); ++r)
        for (int64_t c = 0; c < slice.cols(); ++c) {
          float& value = values_.emplace_back();
          slice.transposed ? m.read(c, r, 1, &value) : m.read(r, c, 1, &value);
        }
    }
  }
  [[nodiscard]] const float* values() const { return values_.data(); }
  [[nodiscard]] Compute compute() const { return compute_; }

 private:
  static int64_t rows_of(std::span<const tensor::MatrixSlice> stacked) {
    int64_t n = 0;
    for (const tensor::MatrixSlice& slice : stacked) n += slice.rows();
    return n;
  }

  std::vector<float> values_;
  Compute compute_;
};

const PlainWeight& own(const Weight& weight) { return static_cast<const PlainWeight&>(weight); }

// Where it is stored: the rows of few tokens are read.
struct PlainTable final : Table {
  explicit PlainTable(tensor::StoredMatrix matrix) : rows(std::move(matrix)) {}
  tensor::StoredMatrix rows;
};

class PlainExperts final : public ExpertSet {
 public:
  explicit PlainExperts(const std::vector<GatedWeights>& experts) : count_(static_cast<int>(experts.size())) {
    for (const GatedWeights& e : experts) {
      const auto add = [](const Weight& w, std::vector<float>& to) {
        to.insert(to.end(), own(w).values(), own(w).values() + w.n() * w.k());
      };
      add(*e.gate_up, gate_up_);
      add(*e.down, down_);
      width_ = e.down->k();
    }
  }
  [[nodiscard]] int count() const { return count_; }
  [[nodiscard]] int64_t width() const { return width_; }
  [[nodiscard]] const float* gate_up() const { return gate_up_.data(); }
  [[nodiscard]] const float* down() const { return down_.data(); }

 private:
  int count_;
  int64_t width_ = 0;
  std::vector<float> gate_up_, down_;
};

class ReferenceBackend final : public Backend {
 public:
  [[nodiscard]] tensor::DType activations() const override { return tensor::DType::kF32; }
  [[nodiscard]] tensor::DType sums() const override { return tensor::DType::kF32; }
  std::shared_ptr<std::byte> allocate(size_t bytes) override {
    // NaN until written.
    auto memory = std::make_shared<std::vector<uint64_t>>(bytes / sizeof(uint64_t) + 1, UINT64_MAX);
    return {memory, reinterpret_cast<std::byte*>(memory->data())};
  }

  using Backend::weight;
  WeightPtr weight(std::span<const tensor::MatrixSlice> stacked, Compute compute) override {
    return std::make_shared<PlainWeight>(stacked, compute);
  }
  WeightPtr head_weights(std::span<const tensor::MatrixSlice> heads, Compute compute) override {
    return weight(heads, compute);
  }
  std::shared_ptr<const Table> table(const tensor::MatrixSlice& slice) override {
    return std::make_shared<PlainTable>(slice.stored());
  }
  std::shared_ptr<const ExpertSet> expert_set(std::vector<GatedWeights> experts) override {
    return std::make_shared<PlainExperts>(experts);
  }

  void begin_step() override { uploads_.clear(); }
  Status finish() override { return {}; }
  const float* on_host(const Matrix& x) override { return x.floats(); }
  bool begin_draws(const Matrix& logits, std::span<const sampling::RowDraw> draws,
                   std::span<const sampling::LogitEdit> edits) override {
    drawn_.clear();
    for (int64_t r = 0; r < logits.rows; ++r)
      drawn_.push_back(draw_ref(row(logits, r), logits.columns, draws[static_cast<size_t>(r)], edits));
    begun_.push_back(drawn_);
    asked_ = 0;
    return true;
  }
  // Slow, as devices are: the next step may come first.
  [[nodiscard]] bool draws_ended() override { return begun_.size() > 1 || ++asked_ > 20000; }
  Status end_draws(std::span<sampling::RowDrawn> drawn) override {
    std::copy(begun_.front().begin(), begun_.front().end(), drawn.begin());
    begun_.pop_front();
    return {};
  }
  void read(const void* from, std::span<std::byte> to) override { std::memcpy(to.data(), from, to.size()); }
  void write(std::span<const std::byte> from, void* to) override { std::memcpy(to, from.data(), from.size()); }

  void look_up(const Table& table, const int32_t* index, const Matrix& y) override {
    const tensor::StoredMatrix& rows = static_cast<const PlainTable&>(table).rows;
    for (int64_t r = 0; r < y.rows; ++r) {
      const int32_t at = index[r] >= 0 ? index[r] : drawn_.at(static_cast<size_t>(-1 - index[r])).token;
      rows.read(at, 0, y.columns, y.floats() + r * y.stride);
    }
  }
  void gather_rows(const Matrix& x, const int32_t* index, const Matrix& y) override {
    for (int64_t r = 0; r < y.rows; ++r) std::copy_n(x.floats() + index[r] * x.stride, y.columns, row(y, r));
  }
  void add(const Matrix& x, const Matrix& y) override {
    for (int64_t r = 0; r < y.rows; ++r) axpy_ref(y.columns, 1, row(x, r), row(y, r));
  }
  void add_bias(const Constants<float>& bias, const Matrix& y) override {
    for (int64_t r = 0; r < y.rows; ++r) axpy_ref(y.columns, 1, bias.data(), row(y, r));
  }
  void zero(const Matrix& y) override {
    for (int64_t r = 0; r < y.rows; ++r) std::fill_n(row(y, r), y.columns, 0.0F);
  }
  void copy(const Heads& x, const Heads& y) override {
    for (int64_t r = 0; r < x.rows; ++r)
      for (int h = 0; h < x.heads; ++h) std::copy_n(vector(x, r, h), x.dim, vector(y, r, h));
  }
  void linear(const Weight& weight, const Matrix& x, const Matrix& y) override {
    linear_ref(own(weight).values(), weight.n(), weight.k(), own(weight).compute(), x.floats(), x.stride, x.rows,
               y.floats(), y.stride);
  }
  void linear_heads(const Weight& weights, const Heads& x, const Heads& y) override {
    for (int h = 0; h < x.heads; ++h)
      linear_ref(own(weights).values() + int64_t{h} * y.dim * x.dim, y.dim, x.dim, own(weights).compute(),
                 vector(x, 0, h), x.row_stride, x.rows, vector(y, 0, h), y.row_stride);
  }
  void rms_norm(const Matrix& x, const Constants<float>& weight, float eps, const Matrix& y) override {
    rms_norm_ref(x.floats(), x.stride, weight.data(), eps, x.rows, x.columns, y.floats(), y.stride);
  }
  void rms_norm_heads(const Heads& x, const Constants<float>& weight, float eps) override {
    for (int64_t r = 0; r < x.rows; ++r)
      rms_norm_ref(vector(x, r, 0), x.head_stride, weight.data(), eps, x.heads, x.dim, vector(x, r, 0), x.head_stride);
  }
  void rope(RopePairs pairs, const Heads& x, const float* cos, const float* sin) override {
    const auto turn = pairs == RopePairs::kInterleaved ? rope_interleaved_ref : rope_half_ref;
    turn(x.floats(), x.rows, x.row_stride, x.heads, x.head_stride, x.dim, cos, sin);
  }
  void silu_mul(const Matrix& gate_up, const Matrix& y) override {
    silu_mul_ref(gate_up.dense_floats(), y.rows, y.columns, y.dense_floats());
  }

  void route(const Routing& routing, const Matrix& logits, const Constants<float>& bias, int32_t* expert,
             float* weight) override {
    route_ref(routing, logits.dense_floats(), bias.empty() ? nullptr : bias.data(), logits.rows, expert, weight);
  }
  void experts(const ExpertSet& set, int first, const Matrix& x, const int32_t* expert, const float* weight,
               int choices, const Matrix& y) override {
    const auto& local = static_cast<const PlainExperts&>(set);
    experts_ref(x.dense_floats(), x.rows, x.columns, expert, weight, choices, first, local.count(), local.width(),
                local.gate_up(), local.down(), y.dense_floats());
  }

  void write_kv(const PagedKv& kv, const Sequences& sequences, const Heads& k, const Heads& v) override {
    write_kv_ref(kv, sequences.host, k.heads, k.floats(), k.row_stride, v.heads == 0 ? nullptr : v.floats(),
                 v.row_stride);
  }
  void gqa_attention(const Heads& q, const Sequences& sequences, const KvHeadMap& heads, const PagedKv& kv, float scale,
                     const Matrix& out) override {
    gqa_attention_ref(q.floats(), q.row_stride, sequences.host, q.heads, heads.kv_head_of.data(), kv, scale,
                      out.dense_floats());
  }
  void mla_attention(const Heads& q, const Sequences& sequences, int lora, const PagedKv& kv, float scale,
                     const Matrix& out) override {
    mla_attention_ref(q.floats(), sequences.host, q.heads, lora, kv, scale, out.dense_floats());
  }
  void mla_expanded_attention(const Heads& q, const Sequences& sequences, const MlaExpansion& up, const PagedKv& kv,
                              float scale, const Matrix& out) override {
    if (sequences.host.empty()) return;
    const Heads dense = queries_.matrix(*this, q.dtype, q.rows, int64_t{q.heads} * q.dim).by_heads(q.heads);
    copy(q, dense);
    mla_expanded_attention_ref(dense.floats(), sequences.host, own(*up.key).values(), own(*up.value).values(), up.heads,
                               up.nope, up.rope, up.v_dim, kv, scale, out.dense_floats());
  }

 protected:
  std::shared_ptr<const std::byte> store(std::span<const std::byte> bytes) override {
    auto memory = allocate(bytes.size());
    std::memcpy(memory.get(), bytes.data(), bytes.size());
    return memory;
  }
  // A copy, so that who goes on to change the caller's is found out.
  const void* upload_bytes(std::span<const std::byte> bytes) override {
    uploads_.push_back(store(bytes));
    return uploads_.back().get();
  }

 private:
  static float* row(const Matrix& x, int64_t r) { return x.floats() + r * x.stride; }
  static float* vector(const Heads& x, int64_t r, int head) {
    return x.floats() + r * x.row_stride + head * x.head_stride;
  }

  std::vector<std::shared_ptr<const std::byte>> uploads_;
  int asked_ = 0;
  GrowingMemory queries_;
  std::vector<sampling::RowDrawn> drawn_;              // by the last step
  std::deque<std::vector<sampling::RowDrawn>> begun_;  // by those whose draws are not ended
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace baton::kernels
