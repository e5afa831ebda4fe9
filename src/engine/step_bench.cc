// What a step costs the host beside the model: `./dev bench engine`. The executor takes no time, so all that is
// measured is the engine's own: planning, laying the batch out, taking results, answering, statistics.
//
// Every page of the pool is in use or cached, so that running requests grow by evicting. Times are medians of steps,
// which other programs on the machine hardly move.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <future>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "engine/engine_loop.h"
#include "engine/unified_role.h"
#include "model/step_batch.h"

namespace baton::engine {
namespace {

thread_local uint64_t allocations = 0;

}  // namespace
}  // namespace baton::engine

// Not inlined, or the compiler sees malloc() and free() behind new and delete and takes them for mistaken.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++baton::engine::allocations;
  if (void* memory = std::malloc(std::max<size_t>(bytes, 1))) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace baton::engine {
namespace {

constexpr int kPageTokens = 64;
constexpr int kContext = 4000;
constexpr int kVocab = 152'000;
constexpr int kCachedPages = 20'000;  // beside those in use, about
constexpr int kNewTokens = 1000;
constexpr int kReserved = 512;  // of them, at admission
constexpr uint64_t kWarmUp = 64, kMeasured = 256;

// As a step's batch has been laid out.
struct Moment {
  StepTimes times;
  StepTimes::Time lay_out{};
  uint64_t allocations = 0;
};
using Moments = std::vector<Moment>;

model::ModelConfig shape() {
  model::ModelConfig config;
  config.vocab = kVocab;
  config.heads = 64;
  config.kv_heads = 8;
  config.head_dim = 128;
  config.max_position = 2 * kContext;
  return config;
}

// Lays the batch out, as every executor must, and gives everyone the same token.
class NoExecutor final : public model::Executor {
 public:
  // `loop` is set before the first step.
  NoExecutor(size_t running, const EngineLoop*& loop, std::promise<Moments>& done)
      : running_(running), loop_(loop), done_(done) {
    moments_.reserve(kMeasured + 1);
  }

  [[nodiscard]] int steps_max() const override { return 2; }
  [[nodiscard]] int stages_at_once() const override { return 1; }

  model::Ticket submit(const kv::StepPlan& plan, std::span<const sampling::RowsWanted> wanted) override {
    const auto begin = std::chrono::steady_clock::now();
    Step& step = steps_[submitted_ % 2];
    step.batch.build(plan, wanted, config_, 1, model::MlaPath::kAuto, rope_, &steps_[(submitted_ + 1) % 2].batch);
    lay_out_ += std::chrono::steady_clock::now() - begin;
    const uint64_t before = allocations;
    note(plan);
    not_ours_ += allocations - before;
    return submitted_++;
  }

  Result<model::StepOutput*> collect(model::Ticket ticket) override {
    Step& step = steps_[ticket % 2];
    const uint64_t before = allocations;
    step.output.first_row = step.batch.first_row;
    step.output.answers.resize(static_cast<size_t>(step.batch.logits_rows));
    for (sampling::RowAnswer& answer : step.output.answers) answer.token.id = 7;
    not_ours_ += allocations - before;
    return &step.output;
  }

 private:
  struct Step {
    model::StepBatch batch;
    model::StepOutput output;
  };
  // The steps to measure are those of all requests, in a row.
  void note(const kv::StepPlan& plan) {
    const bool whole = plan.segments.size() == running_ &&
                       std::all_of(plan.segments.begin(), plan.segments.end(),
                                   [](const kv::Segment& s) { return s.begin > kContext / 2 && s.tokens.size() == 1; });
    whole_steps_ = whole ? whole_steps_ + 1 : 0;
    if (whole_steps_ < kWarmUp || moments_.size() > kMeasured) return;
    moments_.push_back({loop_->step_times(), lay_out_, allocations - not_ours_});
    if (moments_.size() > kMeasured) done_.set_value(moments_);
  }

  const size_t running_;
  const EngineLoop*& loop_;
  std::promise<Moments>& done_;
  const model::ModelConfig config_ = shape();
  model::RopeTable rope_{config_};
  Step steps_[2];
  StepTimes::Time lay_out_{};
  uint64_t submitted_ = 0, not_ours_ = 0, whole_steps_ = 0;
  Moments moments_;
};

Request request(uint64_t seed, int tokens, int new_tokens) {
  Random random(seed);
  Request request;
  request.prompt.resize(static_cast<size_t>(tokens));
  for (int32_t& token : request.prompt) token = static_cast<int32_t>(random.below(kVocab));
  request.sampling.max_new_tokens = new_tokens;
  request.sampling.temperature = 0;
  return request;
}

EngineLoopOptions options(int running) {
  EngineLoopOptions options;
  options.info.role = Role::kUnified;
  options.info.page_tokens = kPageTokens;
  options.info.pages_per_group = running * ((kContext + kPageTokens + kNewTokens) / kPageTokens + 1) + kCachedPages;
  options.info.max_model_len = 2 * kContext;
  options.info.vocab = kVocab;
  options.scheduler.pages_per_group = options.info.pages_per_group;
  options.scheduler.page_tokens = kPageTokens;
  options.scheduler.max_running_requests = running;
  options.scheduler.reserved_decode_tokens = kReserved;
  return options;
}

std::string measure(int running) {
  const EngineLoop* raw = nullptr;
  std::promise<Moments> done;
  const EngineLoopOptions with = options(running);
  auto loop =
      EngineLoop::start(with, std::make_unique<NoExecutor>(static_cast<size_t>(running), raw, done),
                        [](EngineCore& core, const std::function<void()>&) -> Result<std::unique_ptr<RolePart>> {
                          return std::unique_ptr<RolePart>(std::make_unique<UnifiedRole>(core));
                        })
          .value();
  raw = loop.get();
  uint64_t seed = 0;
  // Fills the cache.
  const int whole = with.info.pages_per_group / (kContext / kPageTokens) + 2;
  std::atomic<int> left{whole};
  std::promise<void> filled;
  for (int i = 0; i < whole; ++i) {
    BATON_CHECK(loop->submit(request(++seed, kContext, 1),
                             [&](const Output& output) {
                               if (output.finish && --left == 0) filled.set_value();
                             })
                    .ok());
  }
  filled.get_future().wait();
  // Their pages fill at different steps.
  for (int i = 0; i < running; ++i) {
    BATON_CHECK(loop->submit(request(++seed, kContext + i % kPageTokens, kNewTokens), [](const Output&) {}).ok());
  }
  const Moments moments = done.get_future().get();
  loop->abort_all();

  // Of the sum of parts; the executor's own part is only what it laid out.
  const auto median_us = [&moments](auto part) {
    std::vector<double> us;
    for (size_t i = 1; i < moments.size(); ++i)
      us.push_back(std::chrono::duration<double, std::micro>(part(moments[i]) - part(moments[i - 1])).count());
    std::nth_element(us.begin(), us.begin() + static_cast<ptrdiff_t>(us.size() / 2), us.end());
    return us[us.size() / 2];
  };
  const auto plan = [](const Moment& m) { return m.times.plan; };
  const auto lay_out = [](const Moment& m) { return m.lay_out; };
  const auto take = [](const Moment& m) { return m.times.take; };
  const auto between = [](const Moment& m) { return m.times.between; };
  const auto all = [&](const Moment& m) { return plan(m) + lay_out(m) + take(m) + between(m); };
  return fmt::format("| {} | {:.1f} | {:.1f} | {:.1f} | {:.1f} | {:.1f} | {:.0f} | {:.3f} |", running, median_us(plan),
                     median_us(lay_out), median_us(take), median_us(between), median_us(all), 50 + 0.2 * running,
                     static_cast<double>(moments.back().allocations - moments.front().allocations) /
                         static_cast<double>(kMeasured * static_cast<uint64_t>(running)));
}

}  // namespace
}  // namespace baton::engine

int main() {
  fmt::print("Microseconds of the host a step, all requests running, {} tokens of context, medians of {} steps:\n\n",
             baton::engine::kContext, baton::engine::kMeasured);
  fmt::print("| running | plan | lay out | take results | publish | sum | goal | allocations a token |\n");
  fmt::print("|---|---|---|---|---|---|---|---|\n");
  for (const int running : {1, 100, 1000}) fmt::print("{}\n", baton::engine::measure(running));
  return 0;
}
