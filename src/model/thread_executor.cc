#include <algorithm>
#include <exception>
#include <thread>

#include "base/thread.h"

#include "model/executor.h"
#include "model/stage.h"

namespace baton::model {

namespace {

// One pipeline stage's threads. They meet the engine's thread at a gate before and after every pass.
class StageThreads {
 public:
  StageThreads(const layout::Layout& layout, const ModelConfig& config, int stage)
      : stage_(layout, config, stage), gate_(layout.tp + 1) {}
  ~StageThreads() {
    abort(error(ErrorCode::kCancelled, "the executor is closed"));
    for (std::thread& t : threads_) t.join();
  }
  StageThreads(const StageThreads&) = delete;
  StageThreads& operator=(const StageThreads&) = delete;

  [[nodiscard]] Stage& stage() { return stage_; }
  void add(std::unique_ptr<Rank> rank) { ranks_.push_back(std::move(rank)); }

  void start(const Weights& weights, RoutingReference* routing, int gemm_threads) {
    for (const auto& rank : ranks_) {
      threads_.emplace_back(
          [this, &rank = *rank, &weights, routing, gemm_threads] { loop(rank, weights, routing, gemm_threads); });
    }
  }
  // Every thread ends at its next barrier or layer; the first failure is the one that callers get. The gate is told
  // first: a thread that the stage's abort has ended has a failure of its own to tell, which must come second.
  void abort(const Error& failure) {
    gate_.abort(failure);
    stage_.abort(failure);
  }
  // Waits until every rank has loaded.
  Status wait_loaded() { return gate_.barrier(); }

  Status run(const StepBatch& batch, Activations& activations, float* logits) {
    batch_ = &batch;
    activations_ = &activations;
    logits_ = logits;
    BATON_TRY(gate_.barrier());
    return gate_.barrier();
  }

 private:
  void loop(Rank& rank, const Weights& weights, RoutingReference* routing, int gemm_threads) {
    try {
      name_thread("baton-rank");
      kernels::set_gemm_threads(gemm_threads);
      if (Status loaded = rank.load(weights, routing); !loaded) return abort(loaded.error());
      if (!gate_.barrier().ok()) return;
      for (;;) {
        if (!gate_.barrier().ok()) return;
        if (Status done = rank.forward(*batch_, *activations_, logits_); !done) return abort(done.error());
        if (!gate_.barrier().ok()) return;
      }
    } catch (const std::exception& e) {  // no memory, most likely
      abort(error(ErrorCode::kResourceExhausted, "a rank failed: {}", e.what()));
    }
  }

  Stage stage_;
  comm::RankGroup gate_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::vector<std::thread> threads_;
  // Of the pass between two gates.
  const StepBatch* batch_ = nullptr;
  Activations* activations_ = nullptr;
  float* logits_ = nullptr;
};

class ThreadExecutor final : public Executor {
 public:
  ThreadExecutor(const ExecutorOptions& options, const ModelConfig& config)
      : options_(options), config_(config), rope_(config) {}

  Status start(const std::vector<std::span<std::byte>>& pools) {
    BATON_ASSIGN(weights_, Weights::open(options_, config_));
    const layout::Layout& layout = options_.layout;
    const layout::KvGeometry geometry = config_.kv_geometry(options_.kv_dtype);
    for (int s = 0; s < layout.pp; ++s) {
      auto threads = std::make_unique<StageThreads>(layout, config_, s);
      for (int r = s * layout.tp; r < (s + 1) * layout.tp; ++r) {
        const std::span<std::byte> memory = pools[static_cast<size_t>(r)];
        const layout::PageShape shape = layout::rank_page_shape(layout, r, geometry, options_.page_tokens);
        pages_ = std::min<uint64_t>(pages_, memory.size() / std::max<uint64_t>(1, shape.page_bytes()));
        threads->add(std::make_unique<Rank>(threads->stage(), config_, rank_share(config_, layout, r),
                                            KvPool{memory.data(), shape, options_.kv_dtype}, options_.compute));
      }
      stages_.push_back(std::move(threads));
    }
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    for (const auto& stage : stages_) stage->start(*weights_, options_.routing, std::max(1, cores / layout.tp));
    for (const auto& stage : stages_) {
      Status loaded = stage->wait_loaded();
      if (loaded.ok()) continue;
      for (const auto& other : stages_) other->abort(loaded.error());
      return loaded;
    }
    weights_->finish_progress();
    return {};
  }

  Result<kv::StepResult> run(const kv::StepPlan& plan) override {
    check(plan);
    kv::StepResult result;
    batch_.build(plan, config_, options_.layout.dp, options_.mla_path, rope_, result);
    activations_.grow(batch_, config_);
    result.logits.resize(static_cast<size_t>(batch_.logits_rows) * static_cast<size_t>(config_.vocab));
    if (batch_.rows == 0) return result;
    // Stages take turns; hidden states stay where they are.
    for (const auto& stage : stages_) BATON_TRY(stage->run(batch_, activations_, result.logits.data()));
    return result;
  }

 private:
  void check(const kv::StepPlan& plan) const {
    for (const kv::Segment& s : plan.segments) {
      const auto tokens = static_cast<int64_t>(s.tokens.size());
      const auto covered = static_cast<int64_t>(s.pages.size()) * options_.page_tokens;
      BATON_CHECK(tokens > 0 && s.begin >= 0 && s.dp_rank >= 0 && s.dp_rank < options_.layout.dp);
      BATON_CHECK(s.logits_rows >= 0 && s.logits_rows <= tokens, "{} logits rows of {} tokens", s.logits_rows, tokens);
      BATON_CHECK(s.begin + tokens <= covered, "{} tokens in pages for {}", s.begin + tokens, covered);
      BATON_CHECK(s.begin + tokens <= config_.max_position, "{} tokens, the model has {}", s.begin + tokens,
                  config_.max_position);
      for (const int32_t t : s.tokens) BATON_CHECK(t >= 0 && t < config_.vocab, "token {} of {}", t, config_.vocab);
      for (const uint32_t p : s.pages) BATON_CHECK(p < pages_, "page {} of {}", p, pages_);
    }
  }

  const ExecutorOptions options_;
  const ModelConfig config_;
  RopeTable rope_;
  uint64_t pages_ = UINT64_MAX;  // in the smallest pool
  std::unique_ptr<Weights> weights_;
  StepBatch batch_;
  Activations activations_;
  std::vector<std::unique_ptr<StageThreads>> stages_;  // last: their threads use all of the above
};

}  // namespace

Result<std::unique_ptr<Executor>> make_thread_executor(const ExecutorOptions& options, const ModelConfig& config,
                                                       std::vector<std::span<std::byte>> pools) {
  BATON_TRY(check_model_layout(config, options.layout));
  if (options.kv_dtype != tensor::DType::kBF16 && options.kv_dtype != tensor::DType::kF32) {
    return error(ErrorCode::kIncompatible, "KV of {} is not supported; use bfloat16 or float32",
                 tensor::dtype_name(options.kv_dtype));
  }
  BATON_CHECK(options.page_tokens > 0);
  BATON_CHECK(pools.size() == static_cast<size_t>(options.layout.world()), "{} pools for {} ranks", pools.size(),
              options.layout.world());
  auto executor = std::make_unique<ThreadExecutor>(options, config);
  BATON_TRY(executor->start(pools));
  return std::unique_ptr<Executor>(std::move(executor));
}

}  // namespace baton::model
