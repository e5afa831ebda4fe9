#include "kernels/cuda_backend.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "base/cuda/cuda_check.h"
#include "kernels/cuda/card_weights.h"
#include "kernels/cuda/kernels_cuda.h"
#include "kernels/cuda/step_draws.h"
#include "kernels/cuda/step_uploads.h"

namespace baton::kernels {
namespace {

using cuda::bf16;

using cuda::CardExperts;
using cuda::CardWeight;

struct CardTable final : Table {
  WeightPtr rows;
};

// Some sequences on the card, and how decode kernels share them out, once somebody asks.
struct CardBatch {
  cuda::CardSequences sequences;
  const int32_t* first_tile = nullptr;
};
// The sequences of a step as the kernels want them, by what they have to compute.
struct Prepared {
  CardBatch all;
  CardBatch decodes, prompts;  // those of one new token, and of more
  CardBatch tokens;            // an entry for each token, once somebody asks
};

template <class T>
class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int index) : index_(index) {
    use_card();
    BATON_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "card {}", index_);
    stream_owner_.reset(stream_, [](cudaStream_t stream) { (void)cudaStreamDestroy(stream); });
    products_.emplace();
    loader_.emplace(stream_);
    draws_.emplace(stream_, logits_rows_at_once());
    for (cudaEvent_t& event : uploaded_)
      BATON_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "card {}", index_);
  }
  ~CudaBackend() override {
    (void)cudaSetDevice(index_);
    (void)cudaStreamSynchronize(stream_);
    products_.reset();
    loader_.reset();
    draws_.reset();
    for (const cudaEvent_t event : uploaded_) (void)cudaEventDestroy(event);
  }

  [[nodiscard]] tensor::DType activations() const override { return kType; }
  [[nodiscard]] tensor::DType sums() const override { return kType; }
  std::shared_ptr<std::byte> allocate(size_t bytes) override {
    use_card();
    graphs_.clear();  // which have the addresses of what this replaces
    // In the order of the stream: nobody waits, neither here nor where it is freed. Ranks on other cards may be waiting
    // in kernels for what this one has yet to launch.
    void* memory = nullptr;
    BATON_CUDA_CHECK(cudaMallocAsync(&memory, std::max<size_t>(bytes, 1), stream_), "{} bytes", bytes);
    return {static_cast<std::byte*>(memory),
            [owner = stream_owner_](std::byte* p) { (void)cudaFreeAsync(p, owner.get()); }};
  }

  [[nodiscard]] void* queue() override { return stream_; }

  using Backend::weight;
  WeightPtr weight(std::span<const tensor::MatrixSlice> stacked, Compute) override {
    use_card();
    return loader_->load<T>(stacked, kKeepsFp8);
  }
  WeightPtr head_weights(std::span<const tensor::MatrixSlice> heads, Compute) override {
    use_card();
    return loader_->load<T>(heads, false);
  }
  std::shared_ptr<const Table> table(const tensor::MatrixSlice& slice) override {
    use_card();
    auto table = std::make_shared<CardTable>();
    table->rows = loader_->load<T>(std::span(&slice, 1), false);
    return table;
  }
  std::shared_ptr<const ExpertSet> expert_set(std::vector<GatedWeights> experts) override {
    use_card();
    return loader_->stack(experts, sizeof(T));
  }

  void begin_step() override {
    use_card();
    // The step before may be under way, the one before that not: what the processor wrote for it is written anew.
    BATON_CUDA_CHECK(cudaEventRecord(uploaded_[steps_ % 2], stream_), "before a step");
    BATON_CUDA_CHECK(cudaEventSynchronize(uploaded_[++steps_ % 2]), "before a step");
    loader_->release();
    uploads_.clear();
    prepared_.clear();
  }
  Sequences sequences(std::span<const PagedRows> rows) override {
    Prepared& p = prepared_.emplace_back();
    std::vector<PagedRows> decodes, prompts;
    for (const PagedRows& s : rows) (s.tokens == 1 ? decodes : prompts).push_back(s);
    p.all = on_card(rows);
    p.decodes = prompts.empty() ? p.all : on_card(decodes);
    p.prompts = decodes.empty() ? p.all : on_card(prompts);
    return {rows, &p};
  }
  Status run(uint64_t shape, bool repeats, const std::function<Status()>& operations) override {
    draws_->step_begins();
    uploads_.send(stream_);
    if (!repeats) return operations();
    if (graphs_.size() > kGraphsMax) graphs_.clear();
    const auto [found, is_new] = graphs_.try_emplace({shape, uploads_.places()});
    // The first time grows what has to grow and chooses algorithms.
    if (is_new) return operations();
    const auto launch = [&](const Graph& graph) {
      BATON_CUDA_CHECK(cudaGraphLaunch(graph.get(), stream_), "a step of shape {}", shape);
    };
    if (found->second != nullptr) return launch(found->second), Status();
    BATON_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "a step of shape {}", shape);
    const Status done = operations();
    cudaGraph_t recorded = nullptr;
    BATON_CUDA_CHECK(cudaStreamEndCapture(stream_, &recorded), "a step of shape {}", shape);
    cudaGraphExec_t executable = nullptr;
    BATON_CUDA_CHECK(cudaGraphInstantiate(&executable, recorded, 0), "a step of shape {}", shape);
    (void)cudaGraphDestroy(recorded);
    BATON_CHECK(graphs_.contains({shape, uploads_.places()}), "memory grew while a step was recorded");
    found->second.reset(executable);
    if (done.ok()) launch(found->second);
    return done;
  }
  [[nodiscard]] int64_t logits_rows_at_once() const override { return 512; }
  Status finish() override { return checked(draws_->step_ends()); }
  bool begin_draws(const Matrix& logits, std::span<const sampling::RowDraw> draws,
                   std::span<const sampling::LogitEdit> edits) override {
    return draws_->begin(logits.floats(), logits.stride, logits.columns, draws, edits);
  }
  [[nodiscard]] bool draws_ended() override { return draws_->ended(); }
  Status end_draws(std::span<sampling::RowDrawn> drawn) override { return checked(draws_->end(drawn)); }
  [[nodiscard]] int64_t busy_ns() const override { return draws_->busy_ns(); }
  const float* on_host(const Matrix& x) override {
    const auto bytes = static_cast<size_t>(x.rows * x.columns) * sizeof(float);
    pinned(bytes);
    BATON_CUDA_CHECK(cudaMemcpyAsync(host_.get(), x.dense_floats(), bytes, cudaMemcpyDeviceToHost, stream_),
                     "{} bytes of logits", bytes);
    BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "{} bytes of logits", bytes);
    return reinterpret_cast<const float*>(host_.get());
  }

  void read(const void* from, std::span<std::byte> to) override {
    BATON_CUDA_CHECK(cudaMemcpyAsync(to.data(), from, to.size(), cudaMemcpyDeviceToHost, stream_), "{} bytes",
                     to.size());
    BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "{} bytes", to.size());
  }
  void write(std::span<const std::byte> from, void* to) override {
    BATON_CUDA_CHECK(cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyHostToDevice, stream_), "{} bytes",
                     from.size());
    BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "{} bytes", from.size());
  }

  void look_up(const Table& table, const int32_t* index, const Matrix& y) override {
    const Weight& rows = *static_cast<const CardTable&>(table).rows;
    if (y.rows > 0)
      cuda::gather_rows(stream_, values(rows), rows.k(), index, draws_->tokens(), y.rows, y.columns, dense(y));
  }
  void gather_rows(const Matrix& x, const int32_t* index, const Matrix& y) override {
    if (y.rows > 0)
      cuda::gather_rows(stream_, const_cast<const T*>(at(x)), x.stride, index, nullptr, y.rows, y.columns, dense(y));
  }
  void add(const Matrix& x, const Matrix& y) override {
    if (y.rows > 0) cuda::add(stream_, y.rows * y.columns, const_cast<const T*>(dense(x)), dense(y));
  }
  void add_rms_norm(const Matrix& x, const Matrix& y, const Constants<float>& weight, float eps,
                    const Matrix& z) override {
    if (y.rows > 0)
      cuda::add_rms_norm(stream_, const_cast<const T*>(dense(x)), dense(y), weight.data(), eps, y.rows, y.columns,
                         dense(z));
  }
  void add_bias(const Constants<float>& bias, const Matrix& y) override {
    if (y.rows > 0) cuda::add_bias(stream_, bias.data(), y.rows, y.columns, dense(y));
  }
  void zero(const Matrix& y) override {
    BATON_CUDA_CHECK(cudaMemsetAsync(dense(y), 0, static_cast<size_t>(y.rows) * y.row_bytes(), stream_), "zeros");
  }
  void copy(const Heads& x, const Heads& y) override {
    if (x.rows > 0)
      cuda::copy_heads(stream_, const_cast<const T*>(at(x)), x.row_stride, x.head_stride, x.rows, x.heads, x.dim, at(y),
                       y.row_stride, y.head_stride);
  }
  void linear(const Weight& weight, const Matrix& x, const Matrix& y) override {
    if (x.rows == 0) return;
    y.dtype == tensor::DType::kF32 ? multiply(weight, at(x), x.stride, x.rows, y.floats(), y.stride)
                                   : multiply(weight, at(x), x.stride, x.rows, at(y), y.stride);
  }
  void linear_heads(const Weight& weights, const Heads& x, const Heads& y) override {
    if (x.rows > 0)
      products_->linear_heads(stream_, values(weights), x.heads, y.dim, x.dim, const_cast<const T*>(at(x)),
                              x.row_stride, x.head_stride, x.rows, at(y), y.row_stride, y.head_stride);
  }
  void rms_norm(const Matrix& x, const Constants<float>& weight, float eps, const Matrix& y) override {
    if (x.rows > 0)
      cuda::rms_norm(stream_, const_cast<const T*>(at(x)), x.stride, weight.data(), eps, x.rows, x.columns, at(y),
                     y.stride);
  }
  void rms_norm_heads(const Heads& x, const Constants<float>& weight, float eps) override {
    BATON_CHECK(x.head_stride == x.dim);
    if (x.rows > 0) cuda::rms_norm_heads(stream_, at(x), x.row_stride, weight.data(), eps, x.rows, x.heads, x.dim);
  }
  void rope(RopePairs pairs, const Heads& x, const float* cos, const float* sin) override {
    if (x.rows > 0)
      cuda::rope(stream_, pairs, at(x), x.rows, x.row_stride, x.heads, x.head_stride, x.dim, nullptr, cos, sin);
  }
  void silu_mul(const Matrix& gate_up, const Matrix& y) override {
    if (y.rows > 0) cuda::silu_mul(stream_, const_cast<const T*>(dense(gate_up)), y.rows, y.columns, dense(y));
  }

  void route(const Routing& routing, const Matrix& logits, const Constants<float>& bias, int32_t* expert,
             float* weight) override {
    if (logits.rows > 0)
      cuda::route(stream_, routing, logits.dense_floats(), bias.empty() ? nullptr : bias.data(), logits.rows, expert,
                  weight);
  }
  void add_norm_route(const Matrix& x, const Matrix& y, const Constants<float>& norm, float eps, const Matrix& z,
                      const Weight& gate, const Routing& routing, const Matrix& logits, const Constants<float>& bias,
                      int32_t* expert, float* weight) override {
    if constexpr (std::is_same_v<T, bf16>) {
      if (!in_fp8(gate) &&
          cuda::add_norm_route(stream_, dense(x), dense(y), norm.data(), eps, y.rows, y.columns, dense(z), values(gate),
                               routing, bias.empty() ? nullptr : bias.data(), logits.dense_floats(), expert, weight))
        return;
    }
    Backend::add_norm_route(x, y, norm, eps, z, gate, routing, logits, bias, expert, weight);
  }
  bool shared_and_experts(const GatedWeights& shared, const ExpertSet& set, int first, const Matrix& x,
                          const int32_t* expert, const float* weight, int choices, const Matrix& y) override {
    const auto& local = static_cast<const CardExperts&>(set);
    if (x.rows > cuda::kFewRowsMoe || local.count == 0 || in_fp8(*local.down) || in_fp8(*shared.gate_up) ||
        in_fp8(*shared.down))
      return false;
    if constexpr (std::is_same_v<T, bf16>) {
      auto bank = bank_of<T>(local, first);
      bank.gate_up = values(*local.gate_up);
      bank.down = values(*local.down);
      const cuda::SharedFfn ffn{values(*shared.gate_up), values(*shared.down), shared.down->k()};
      return cuda::few_rows_moe(stream_, dense(x), x.rows, expert, weight, choices, ffn, bank,
                                expert_activated_.room<T>(*this, x.rows * choices * bank.width),
                                shared_activated_.room<T>(*this, x.rows * ffn.width), dense(y));
    }
    return false;
  }
  void experts(const ExpertSet& set, int first, const Matrix& x, const int32_t* expert, const float* weight,
               int choices, const Matrix& y) override {
    const auto& local = static_cast<const CardExperts&>(set);
    if (local.count == 0 || x.rows == 0) return;
    const int64_t pairs = x.rows * choices;
    const cuda::ExpertSlots slots{expert_offset_.room<int32_t>(*this, local.count + 1),
                                  expert_pair_.room<int32_t>(*this, pairs), expert_slot_.room<int32_t>(*this, pairs)};
    T* activated = expert_activated_.room<T>(*this, pairs * local.down->k());
    T* out = expert_out_.room<T>(*this, pairs * local.down->n());
    const auto compute = [&](auto& bank) {
      void* in_fp8 = nullptr;
      if constexpr (std::is_same_v<decltype(bank), cuda::ExpertBank<bf16, cuda::fp8>&>)
        if (bank.hidden * bank.width >= kLarge && pairs > kExpertRows * bank.experts)
          in_fp8 = in_fp8_.room<std::byte>(*this, static_cast<int64_t>(cuda::expert_fp8_bytes(x.rows, choices, bank)));
      cuda::experts(stream_, const_cast<const T*>(dense(x)), x.rows, expert, weight, choices, slots, bank, activated,
                    out, true, dense(y), in_fp8);
    };
    if constexpr (kKeepsFp8) {
      if (local.down->scales != nullptr) {
        auto bank = bank_of<cuda::fp8>(local, first);
        bank.gate_up = local.gate_up->fp8_weight();
        bank.down = local.down->fp8_weight();
        return compute(bank);
      }
    }
    auto bank = bank_of<T>(local, first);
    bank.gate_up = values(*local.gate_up);
    bank.down = values(*local.down);
    compute(bank);
  }

  void write_kv(const PagedKv& kv, const Sequences& sequences, const Heads& k, const Heads& v) override {
    if (sequences.host.empty()) return;
    cuda::write_kv(stream_, kv, of(sequences).all.sequences, k.heads, const_cast<const T*>(at(k)), k.row_stride,
                   v.heads == 0 ? nullptr : const_cast<const T*>(at(v)), v.row_stride);
  }
  void write_latents(const PagedKv& kv, const Sequences& sequences, const Matrix& entries, const Constants<float>& norm,
                     float eps, RopePairs pairs, const Heads& q, const Heads& absorbed, const float* cos,
                     const float* sin) override {
    if (sequences.host.empty()) return;
    BATON_CHECK(absorbed.rows == 0 || absorbed.heads == q.heads);
    const auto lora = static_cast<int>(norm.size);
    const cuda::NewLatents<T> latents{at(entries),
                                      entries.stride,
                                      norm.data(),
                                      eps,
                                      lora,
                                      q.dim,
                                      q.heads,
                                      at(q),
                                      q.row_stride,
                                      q.head_stride,
                                      at(absorbed),
                                      absorbed.rows,
                                      absorbed.row_stride,
                                      absorbed.head_stride,
                                      cos,
                                      sin};
    cuda::write_latents(stream_, kv, of(sequences).all.sequences, pairs, latents);
  }
  void gqa_attention(const Heads& q, const Sequences& sequences, const KvHeadMap& heads, const PagedKv& kv, float scale,
                     const Matrix& out) override {
    if (sequences.host.empty()) return;
    Prepared& p = of(sequences);
    const cuda::QueryHeads query{q.heads, heads.kv_heads, heads.group_max, heads.kv_head_of.data()};
    const T* queries = at(q);
    if (const int entries = p.decodes.sequences.count; entries > 0) {
      void* scratch = decode_scratch(cuda::decode_scratch_bytes(entries, heads.kv_heads, heads.group_max, kv.v_dim));
      cuda::gqa_decode(stream_, queries, q.row_stride, p.decodes.sequences, plan_of(p.decodes), query, kv, scale,
                       scratch, dense(out));
    }
    if (p.prompts.sequences.count > 0)
      cuda::gqa_prefill(stream_, queries, q.row_stride, p.prompts.sequences, query, kv, scale, dense(out));
  }
  void mla_attention(const Heads& q, const Sequences& sequences, int lora, const PagedKv& kv, float scale,
                     const Matrix& out) override {
    if (sequences.host.empty()) return;
    CardBatch& tokens = tokens_of(of(sequences), sequences.host);
    void* scratch = decode_scratch(cuda::decode_scratch_bytes(tokens.sequences.count, 1, q.heads, lora));
    cuda::mla_decode(stream_, const_cast<const T*>(at(q)), tokens.sequences, plan_of(tokens), q.heads, lora, kv, scale,
                     scratch, dense(out));
  }
  void mla_expanded_attention(const Heads& q, const Sequences& sequences, const MlaExpansion& up, const PagedKv& kv,
                              float scale, const Matrix& out) override {
    if (sequences.host.empty()) return;
    std::vector<int32_t> first;
    int64_t total = 0, longest = 0;
    for (const PagedRows& s : sequences.host) {
      first.push_back(static_cast<int32_t>(total));
      total += s.begin + s.tokens;
      longest = std::max(longest, s.begin + s.tokens);
    }
    const auto lora = static_cast<int>(up.key->k());
    const int64_t entry = lora + up.rope;
    cuda::ExpandedKv<T> expanded;
    T* latents = latents_.room<T>(*this, total * entry);
    T* keys = keys_.room<T>(*this, total * up.key->n());
    T* value_rows = values_.room<T>(*this, total * up.value->n());
    expanded.latents = latents;
    expanded.keys = keys;
    expanded.values = value_rows;
    expanded.context_first = upload(std::span<const int32_t>(first));
    uploads_.send(stream_);
    expanded.heads = up.heads;
    expanded.lora = lora;
    expanded.nope = up.nope;
    expanded.rope = up.rope;
    expanded.v_dim = up.v_dim;
    const cuda::CardSequences& all = of(sequences).all.sequences;
    cuda::mla_gather_latents(stream_, kv, all, longest, expanded.context_first, latents);
    multiply(*up.key, expanded.latents, entry, total, keys, up.key->n());
    multiply(*up.value, expanded.latents, entry, total, value_rows, up.value->n());
    cuda::mla_prefill(stream_, const_cast<const T*>(at(q)), q.row_stride, all, expanded, scale, dense(out));
  }

 protected:
  std::shared_ptr<const std::byte> store(std::span<const std::byte> bytes) override {
    use_card();
    auto memory = cuda::allocate_on_card(bytes.size());
    BATON_CUDA_CHECK(cudaMemcpy(memory.get(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "{} bytes",
                     bytes.size());
    return memory;
  }
  const void* upload_bytes(std::span<const std::byte> bytes) override { return uploads_.add(bytes); }

 private:
  static constexpr bool kKeepsFp8 = std::is_same_v<T, bf16>;
  // Rows that multiply a large weight are made fp8 too, as these checkpoints mean it ("activation_scheme": "dynamic"):
  // where the library has the product, or they are many. Fewer read fp8 weights as they are; between, and for small
  // weights, the weight is made bfloat16 first. Of experts the number counts that one of them has on average.
  static constexpr int64_t kFewRows = 8, kManyRows = 512, kExpertRows = 8, kLarge = int64_t{1} << 20;
  static bool rounds_rows(const cuda::Fp8Weight& w, int64_t m) {
    const bool in_library = m > kFewRows && m % 4 == 0 && w.row_shift == 7 && w.k % 16 == 0;
    return w.n * w.k >= kLarge && (in_library || m >= kManyRows);
  }
  static constexpr tensor::DType kType = std::is_same_v<T, bf16> ? tensor::DType::kBF16 : tensor::DType::kF32;

  template <class View>
  static T* at(const View& x) {
    BATON_CHECK(x.dtype == kType, "{}", tensor::dtype_name(x.dtype));
    return reinterpret_cast<T*>(x.data);
  }
  static T* dense(const Matrix& x) {
    BATON_CHECK(x.stride == x.columns || x.rows <= 1, "rows of {} values are {} apart", x.columns, x.stride);
    return at(x);
  }
  static const T* values(const Weight& weight) {
    const auto& on_card = static_cast<const CardWeight&>(weight);
    BATON_CHECK(on_card.scales == nullptr, "a weight in fp8");
    return reinterpret_cast<const T*>(on_card.memory.get());
  }
  static bool in_fp8(const Weight& weight) { return static_cast<const CardWeight&>(weight).scales != nullptr; }
  // But for the weights.
  template <class W>
  static cuda::ExpertBank<T, W> bank_of(const CardExperts& local, int first) {
    cuda::ExpertBank<T, W> bank;
    bank.experts = first + local.count;
    bank.first = first;
    bank.local = local.count;
    bank.hidden = local.down->n();
    bank.width = local.down->k();
    return bank;
  }
  // y (m, n) = x (m, k) * W^T
  template <class Y>
  void multiply(const Weight& weight, const T* x, int64_t x_stride, int64_t m, Y* y, int64_t y_stride) {
    const auto& on_card = static_cast<const CardWeight&>(weight);
    if constexpr (kKeepsFp8) {
      if (on_card.scales != nullptr) {
        const cuda::Fp8Weight w = on_card.fp8_weight();
        if constexpr (std::is_same_v<Y, bf16>) {
          if (rounds_rows(w, m)) {
            void* in_fp8 = in_fp8_.room<std::byte>(*this, static_cast<int64_t>(cuda::fp8_rows_bytes(m, w.k)));
            return products_->linear_fp8(stream_, cuda::quantize_rows(stream_, x, x_stride, m, w.k, in_fp8), w, y,
                                         y_stride);
          }
        }
        if (m <= kFewRows) return cuda::linear_fp8(stream_, w, x, x_stride, m, y, y_stride);
        // Of so many rows that cuBLASLt multiplies them: our own kernel for few reads its weights before it waits for
        // the kernel that makes these.
        bf16* wide = dequantized_.room<bf16>(*this, w.n * w.k);
        cuda::dequantize_weight(stream_, w, wide);
        return products_->linear(stream_, static_cast<const bf16*>(wide), w.n, w.k, x, x_stride, m, y, y_stride);
      }
    }
    products_->linear(stream_, values(weight), weight.n(), weight.k(), x, x_stride, m, y, y_stride);
  }
  static Prepared& of(const Sequences& sequences) {
    return *static_cast<Prepared*>(const_cast<void*>(sequences.prepared));
  }

  [[nodiscard]] Status checked(cudaError_t code) const {
    if (code == cudaSuccess) return {};
    return error(ErrorCode::kUnavailable, "cuda:{}: {}", index_, cuda_text(code));
  }
  void use_card() const { BATON_CUDA_CHECK(cudaSetDevice(index_), "card {}", index_); }
  void* decode_scratch(size_t bytes) { return decode_scratch_.room<std::byte>(*this, static_cast<int64_t>(bytes)); }

  std::byte* pinned(size_t bytes) {
    if (host_bytes_ < bytes) {
      host_ = cuda::allocate_pinned(bytes);
      host_bytes_ = bytes;
    }
    return host_.get();
  }

  CardBatch on_card(std::span<const PagedRows> rows) {
    CardBatch batch;
    if (rows.empty()) return batch;
    batch.sequences.rows = upload(rows);
    batch.sequences.count = static_cast<int>(rows.size());
    for (const PagedRows& s : rows) batch.sequences.tokens_max = std::max(batch.sequences.tokens_max, s.tokens);
    return batch;
  }
  CardBatch& tokens_of(Prepared& p, std::span<const PagedRows> rows) {
    if (p.prompts.sequences.count == 0) return p.decodes;
    if (p.tokens.sequences.count == 0) {
      std::vector<PagedRows> each;
      for (const PagedRows& s : rows)
        for (int64_t t = 0; t < s.tokens; ++t) each.push_back({s.row + t, s.begin + t, 1, s.first_page});
      p.tokens = on_card(each);
      uploads_.send(stream_);
    }
    return p.tokens;
  }
  cuda::DecodePlan plan_of(CardBatch& batch) {
    if (batch.first_tile == nullptr) {
      auto* first_tile = decode_plan_.room<int32_t>(*this, batch.sequences.count + 1);
      cuda::plan_decode(stream_, batch.sequences, first_tile);
      batch.first_tile = first_tile;
    }
    return {batch.first_tile};
  }

  const int index_;
  cudaStream_t stream_ = nullptr;
  std::shared_ptr<std::remove_pointer_t<cudaStream_t>> stream_owner_;  // also of what was allocated in its order
  std::optional<cuda::Products> products_;
  std::optional<cuda::WeightLoader> loader_;
  std::optional<cuda::StepDraws> draws_;
  cuda::StepUploads uploads_;
  uint64_t steps_ = 0;
  cudaEvent_t uploaded_[2] = {};  // all of the even, the odd step
  struct GraphDeleter {
    void operator()(cudaGraphExec_t graph) const { (void)cudaGraphExecDestroy(graph); }
  };
  using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, GraphDeleter>;
  // By shape and by where the uploads lie; null: met once, not recorded yet. DP groups of different sizes make many
  // shapes, and a record takes megabytes of the card.
  static constexpr size_t kGraphsMax = 1024;
  std::map<std::pair<uint64_t, uint64_t>, Graph> graphs_;
  std::deque<Prepared> prepared_;
  std::shared_ptr<std::byte> host_;
  size_t host_bytes_ = 0;
  GrowingMemory decode_scratch_, decode_plan_, latents_, keys_, values_, expert_offset_, expert_pair_, expert_slot_,
      expert_activated_, expert_out_, dequantized_, in_fp8_, shared_activated_;
};

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend(Compute compute, int index) {
  int count = 0;
  if (const cudaError_t code = cudaGetDeviceCount(&count); code != cudaSuccess || index >= count)
    return error(ErrorCode::kIncompatible, "cuda:{}: this machine has {} cards ({})", index, count, cuda_text(code));
  if (compute == Compute::kBF16) return std::unique_ptr<Backend>(std::make_unique<CudaBackend<bf16>>(index));
  return std::unique_ptr<Backend>(std::make_unique<CudaBackend<float>>(index));
}

}  // namespace baton::kernels
