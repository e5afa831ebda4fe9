#include <algorithm>
#include <exception>
#include <thread>

#include "base/thread.h"

#include "comm/card_comm.h"
#include "comm/progress.h"
#include "kernels/cuda_backend.h"
#include "kernels/kernels.h"
#include "model/executor.h"
#include "model/stage.h"

namespace baton::model {

namespace {

// A step between submit() and the last that needs it.
struct StepSlot {
  StepBatch batch;
  StepOutput output;
  bool reads_before = false;  // some of its tokens are drawn by the step before
};

// The slots of an executor: step n is in slot n % size().
using StepSlots = std::vector<std::unique_ptr<StepSlot>>;

// One pipeline stage's threads. They take every step when the stage before has done it.
class StageThreads {
 public:
  StageThreads(const ExecutorOptions& options, const ModelConfig& config, int stage, const Stage::Pipelines& pipelines,
               const StepSlots& slots)
      : stage_(options.layout, config, stage, pipelines, options.everywhere_bytes_max),
        slots_(slots),
        loaded_(options.layout.tp + 1),
        done_(options.layout.world() + 1),
        begun_(static_cast<size_t>(options.layout.tp)) {}
  ~StageThreads() {
    abort(error(ErrorCode::kCancelled, "the executor is closed"));
    for (std::thread& t : threads_) t.join();
  }
  StageThreads(const StageThreads&) = delete;
  StageThreads& operator=(const StageThreads&) = delete;

  [[nodiscard]] Stage& stage() { return stage_; }
  void add(std::unique_ptr<Rank> rank) { ranks_.push_back(std::move(rank)); }
  // Steps that every rank of the stage has finished.
  [[nodiscard]] comm::Progress& done() { return done_; }
  [[nodiscard]] int64_t busy_ns() const { return ranks_.front()->busy_ns(); }

  struct Feed {
    comm::Progress* steps = nullptr;  // how many may be taken: submitted, or done by the stage before
    comm::Progress* drawn = nullptr;  // how many have drawn their tokens; the first stage's
    StepLogits* logits = nullptr;     // as in ExecutorOptions; the last stage's
  };
  void start(const Feed& feed, const Weights& weights, RoutingReference* routing, int gemm_threads) {
    feed_ = feed;
    for (size_t i = 0; i < ranks_.size(); ++i) {
      threads_.emplace_back([this, i, &weights, routing, gemm_threads] { loop(i, weights, routing, gemm_threads); });
    }
  }
  // Every thread ends at its next barrier or layer; the first failure is the one that callers get. Those who wait for
  // the stage are told first: a thread that the stage's abort has ended has a failure of its own to tell, which must
  // come second.
  void abort(const Error& failure) {
    loaded_.abort(failure);
    done_.abort(failure);
    stage_.abort(failure);
  }
  // Waits until every rank has loaded.
  Status wait_loaded() { return loaded_.barrier(); }

 private:
  void loop(size_t index, const Weights& weights, RoutingReference* routing, int gemm_threads) {
    try {
      name_thread("baton-rank");
      kernels::set_gemm_threads(gemm_threads);
      if (Status loaded = ranks_[index]->load(weights, routing); !loaded) return abort(loaded.error());
      if (!loaded_.barrier().ok()) return;
      for (uint64_t step = 0;; ++step) {
        if (Status done = take(index, step); !done) return abort(done.error());
      }
    } catch (const std::exception& e) {  // no memory, most likely
      abort(error(ErrorCode::kResourceExhausted, "a rank failed: {}", e.what()));
    }
  }

  Status take(size_t index, uint64_t step) {
    Rank& rank = *ranks_[index];
    StepSlot& slot = *slots_[step % slots_.size()];
    if (begun_[index] == step) {
      BATON_TRY(feed_.steps->await(step + 1));
      if (feed_.drawn != nullptr && slot.reads_before) BATON_TRY(feed_.drawn->await(step));
      const StepSlot& before = *slots_[(step + slots_.size() - 1) % slots_.size()];
      BATON_TRY(begin(index, step, before.output.answers));
    }
    if (slot.batch.rows > 0) {
      BATON_TRY(begin_ahead(index, step + 1));
      BATON_TRY(
          rank.end(slot.batch, slot.output.answers, feed_.logits == nullptr ? nullptr : feed_.logits->logits.data()));
    }
    BATON_TRY(stage_.all().barrier());
    if (index == 0) done_.raise();
    return {};
  }
  Status begin(size_t index, uint64_t step, std::span<const sampling::RowAnswer> before) {
    ++begun_[index];
    const StepSlot& slot = *slots_[step % slots_.size()];
    if (slot.batch.rows == 0) return {};
    return ranks_[index]->begin(slot.batch, before, feed_.logits != nullptr);
  }
  // Puts the next step behind the one that a device is at, if it is submitted before that one's tokens are here: the
  // device goes on at once.
  Status begin_ahead(size_t index, uint64_t next) {
    while (ranks_[index]->draws_under_way()) {
      if (feed_.steps->reached() <= next) {
        std::this_thread::yield();
        continue;
      }
      if (ranks_[index]->may_follow(slots_[next % slots_.size()]->batch)) return begin(index, next, {});
      return {};
    }
    return {};
  }

  Stage stage_;
  const StepSlots& slots_;
  comm::RankGroup loaded_;
  comm::Progress done_;
  Feed feed_;
  std::vector<uint64_t> begun_;  // steps, by each rank
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::vector<std::thread> threads_;
};

class ThreadExecutor final : public Executor {
 public:
  ThreadExecutor(const ExecutorOptions& options, const ModelConfig& config)
      : options_(options), config_(config), rope_(config), submitted_(options.layout.world() + 1) {
    // One more than may be under way: a step reads what the one before drew, collected or not.
    for (int i = 0; i < steps_max() + 1; ++i) slots_.push_back(std::make_unique<StepSlot>());
  }
  ~ThreadExecutor() override {
    for (const auto& stage : stages_) stage->abort(closed());
    submitted_.abort(closed());
  }

  Status start(const std::vector<device::Memory>& pools) {
    BATON_ASSIGN(weights_, Weights::open(options_, config_));
    const layout::Layout& layout = options_.layout;
    const layout::KvGeometry geometry = config_.kv_geometry(options_.kv_dtype);
    for (int r = 0; r < layout.tp; ++r) pipelines_.push_back(std::make_unique<comm::RankGroup>(layout.pp));
    for (int s = 0; s < layout.pp; ++s) {
      auto threads = std::make_unique<StageThreads>(options_, config_, s, pipelines_, slots_);
      for (int r = s * layout.tp; r < (s + 1) * layout.tp; ++r) {
        const device::Memory& memory = pools[static_cast<size_t>(r)];
        BATON_CHECK(options_.backend || memory.home == home_of(options_, r), "pages of rank {} on {}", r,
                    memory.home.to_string());
        const layout::PageShape shape = layout::rank_page_shape(layout, r, geometry, options_.page_tokens);
        pages_ = std::min<uint64_t>(pages_, memory.size / std::max<uint64_t>(1, shape.page_bytes()));
        BATON_ASSIGN(auto backend, make_backend(r));
        const device::Home home = options_.backend ? device::Home{} : home_of(options_, r);
        threads->add(std::make_unique<Rank>(threads->stage(), config_, rank_share(config_, layout, r),
                                            KvPool{memory.base, shape, options_.kv_dtype}, options_.compute, home,
                                            std::move(backend)));
      }
      stages_.push_back(std::move(threads));
    }
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    for (size_t s = 0; s < stages_.size(); ++s) {
      StageThreads::Feed feed;
      feed.steps = s == 0 ? &submitted_ : &stages_[s - 1]->done();
      if (s == 0) feed.drawn = &stages_.back()->done();
      if (s + 1 == stages_.size()) feed.logits = options_.logits;
      stages_[s]->start(feed, *weights_, options_.routing, std::max(1, cores / layout.tp));
    }
    for (const auto& stage : stages_) {
      Status loaded = stage->wait_loaded();
      if (loaded.ok()) continue;
      for (const auto& other : stages_) other->abort(loaded.error());
      submitted_.abort(loaded.error());
      return loaded;
    }
    weights_->finish_progress();
    return {};
  }

  [[nodiscard]] int steps_max() const override { return options_.logits == nullptr ? options_.layout.pp + 1 : 1; }

  // On the processor stages share the cores, and one at a time has all of them; two steps of half as many rows read the
  // weights twice. The same where they share a card.
  [[nodiscard]] int stages_at_once() const override {
    const bool own_cards = options_.first_device.kind != device::DeviceKind::kCpu && options_.device_step > 0;
    return own_cards && options_.logits == nullptr ? options_.layout.pp : 1;
  }

  [[nodiscard]] int64_t busy_ns() const override { return stages_.front()->busy_ns(); }

  Ticket submit(const kv::StepPlan& plan, std::span<const sampling::RowsWanted> wanted) override {
    check(plan);
    const Ticket step = submitted_.reached();
    BATON_CHECK(step - collected_ < static_cast<uint64_t>(steps_max()), "step {} before step {} is collected", step,
                collected_);
    StepSlot& slot = *slots_[step % slots_.size()];
    const StepBatch& before = slots_[(step + slots_.size() - 1) % slots_.size()]->batch;
    slot.batch.build(plan, wanted, config_, options_.layout.dp, options_.mla_path, rope_, &before);
    slot.reads_before = std::any_of(plan.segments.begin(), plan.segments.end(),
                                    [](const kv::Segment& segment) { return segment.drawn_by >= 0; });
    slot.output.first_row = slot.batch.first_row;
    slot.output.answers.resize(static_cast<size_t>(slot.batch.logits_rows));
    if (StepLogits* logits = options_.logits) {
      logits->vocab = config_.vocab;
      logits->rows = slot.batch.first_row;
      logits->logits.resize(slot.output.answers.size() * static_cast<size_t>(config_.vocab));
    }
    submitted_.raise();
    return step;
  }

  Result<StepOutput*> collect(Ticket ticket) override {
    BATON_CHECK(ticket == collected_ && ticket < submitted_.reached(), "step {} is collected, the next is {}", ticket,
                collected_);
    BATON_TRY(stages_.back()->done().await(ticket + 1));
    ++collected_;
    return &slots_[ticket % slots_.size()]->output;
  }

 private:
  Result<std::unique_ptr<kernels::Backend>> make_backend(int rank) const {
    if (options_.backend) return options_.backend();
    const device::Home home = home_of(options_, rank);
    if (home.kind == device::DeviceKind::kCuda) return kernels::make_cuda_backend(options_.compute, home.index);
    return kernels::make_cpu_backend(options_.compute);
  }

  static Error closed() { return error(ErrorCode::kCancelled, "the executor is closed"); }

  void check(const kv::StepPlan& plan) const {
    for (const kv::Segment& s : plan.segments) {
      const auto tokens = static_cast<int64_t>(s.tokens.size());
      const auto covered = static_cast<int64_t>(s.pages.size()) * options_.page_tokens;
      BATON_CHECK(tokens > 0 && s.begin >= 0 && s.dp_rank >= 0 && s.dp_rank < options_.layout.dp);
      BATON_CHECK(s.logits_rows >= 0 && s.logits_rows <= tokens, "{} logits rows of {} tokens", s.logits_rows, tokens);
      BATON_CHECK(s.begin + tokens <= covered, "{} tokens in pages for {}", s.begin + tokens, covered);
      BATON_CHECK(s.begin + tokens <= config_.max_position, "{} tokens, the model has {}", s.begin + tokens,
                  config_.max_position);
      const std::span<const int32_t> known = std::span(s.tokens).first(s.tokens.size() - (s.drawn_by >= 0 ? 1 : 0));
      for (const int32_t t : known) BATON_CHECK(t >= 0 && t < config_.vocab, "token {} of {}", t, config_.vocab);
      for (const uint32_t p : s.pages) BATON_CHECK(p < pages_, "page {} of {}", p, pages_);
    }
  }

  const ExecutorOptions options_;
  const ModelConfig config_;
  RopeTable rope_;
  uint64_t pages_ = UINT64_MAX;  // in the smallest pool
  std::unique_ptr<Weights> weights_;
  StepSlots slots_;
  comm::Progress submitted_;
  uint64_t collected_ = 0;
  Stage::Pipelines pipelines_;
  std::vector<std::unique_ptr<StageThreads>> stages_;  // last: their threads use all of the above
};

}  // namespace

device::Home home_of(const ExecutorOptions& options, int rank) {
  device::Home home = options.first_device;
  if (home.kind != device::DeviceKind::kCpu) home.index += rank * options.device_step;
  return home;
}

Status compute_logits(Executor& executor, const kv::StepPlan& plan, StepLogits& logits) {
  logits.rows.clear();
  BATON_TRY(executor.collect(executor.submit(plan, {})));
  return {};
}

Result<std::unique_ptr<Executor>> make_thread_executor(const ExecutorOptions& options, const ModelConfig& config,
                                                       const std::vector<device::Memory>& pools) {
  BATON_TRY(check_model_layout(config, options.layout));
  if (options.first_device.kind != device::DeviceKind::kCpu && options.layout.tp > comm::kCardRanksMax) {
    return error(ErrorCode::kIncompatible, "--tp-size {} on cards: at most {} ranks, or --device cpu",
                 options.layout.tp, comm::kCardRanksMax);
  }
  if (options.kv_dtype == tensor::DType::kF16) {
    return error(ErrorCode::kIncompatible, "KV of {} is not supported; use bfloat16, float32 or float8_e4m3fn",
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
