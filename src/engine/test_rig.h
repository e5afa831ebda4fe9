// For tests of this folder: a client that collects what it is told, and page pools for a fake executor.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_loop.h"
#include "engine/fake_executor.h"
#include "engine/unified_role.h"

namespace baton::engine {

// One client's view of one request. The sink may outlive it.
class Client {
 public:
  [[nodiscard]] OutputSink sink() {
    return [state = state_](Output output) {
      std::lock_guard lock(state->mutex);
      EXPECT_FALSE(state->finish) << "a delivery after the last one";
      for (const GeneratedToken& token : output.tokens) state->tokens.push_back(token);
      if (!output.prompt_logprobs.empty()) {
        EXPECT_TRUE(state->prompt_logprobs.empty()) << "prompt logprobs come once";
        state->prompt_logprobs = output.prompt_logprobs;
      }
      EXPECT_EQ(output.completion_tokens, static_cast<int>(state->tokens.size()));
      if (output.finish) {
        state->finish = output.finish;
        state->last = output;
      }
      ++state->deliveries;
      state->changed.notify_all();
    };
  }
  // False: no end within a minute.
  bool wait() {
    return wait_until([](const State& s) { return s.finish.has_value(); });
  }
  bool wait_tokens(size_t count) {
    return wait_until([count](const State& s) { return s.finish.has_value() || s.tokens.size() >= count; });
  }
  [[nodiscard]] bool finished() const {
    std::lock_guard lock(state_->mutex);
    return state_->finish.has_value();
  }
  [[nodiscard]] std::vector<int32_t> text() const {
    std::lock_guard lock(state_->mutex);
    std::vector<int32_t> ids;
    for (const GeneratedToken& token : state_->tokens) ids.push_back(token.id);
    return ids;
  }
  // After wait().
  [[nodiscard]] const std::vector<GeneratedToken>& tokens() const { return state_->tokens; }
  [[nodiscard]] const std::vector<PromptLogprob>& prompt_logprobs() const { return state_->prompt_logprobs; }
  [[nodiscard]] const Output::Finish& finish() const { return *state_->finish; }
  [[nodiscard]] const Output& last() const { return state_->last; }

 private:
  struct State {
    mutable std::mutex mutex;
    std::condition_variable changed;
    std::vector<GeneratedToken> tokens;
    std::vector<PromptLogprob> prompt_logprobs;
    std::optional<Output::Finish> finish;
    Output last;
    int deliveries = 0;
  };
  template <typename Condition>
  bool wait_until(Condition condition) {
    std::unique_lock lock(state_->mutex);
    return state_->changed.wait_for(lock, std::chrono::seconds(60), [&] { return condition(*state_); });
  }
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

struct RigOptions {
  layout::Layout layout;
  int pages_per_group = 64;
  int page_tokens = 4;
  int vocab = 100;
  int64_t context = 1 << 20;
  std::vector<int32_t> eos_ids;
};

inline layout::KvGeometry small_geometry() { return {4, 2, 8, 8, 2}; }

inline EngineLoopOptions loop_options(const RigOptions& rig, Role role = Role::kUnified) {
  EngineLoopOptions options;
  options.info.role = role;
  options.info.layout = rig.layout;
  options.info.page_tokens = rig.page_tokens;
  options.info.pages_per_group = rig.pages_per_group;
  options.info.max_model_len = std::min<int64_t>(rig.context, int64_t{rig.pages_per_group} * rig.page_tokens);
  options.info.vocab = rig.vocab;
  options.eos_ids = rig.eos_ids;
  options.scheduler.dp = rig.layout.dp;
  options.scheduler.pages_per_group = rig.pages_per_group;
  options.scheduler.page_tokens = rig.page_tokens;
  options.scheduler.chunked_prefill_size = 24;
  options.scheduler.reserved_decode_tokens = 16;
  return options;
}

inline FakeExecutorOptions fake_options(const RigOptions& rig) {
  FakeExecutorOptions options;
  options.layout = rig.layout;
  options.geometry = small_geometry();
  options.page_tokens = rig.page_tokens;
  options.vocab = rig.vocab;
  return options;
}

inline uint64_t pool_bytes(const RigOptions& rig, int rank) {
  return layout::rank_page_shape(rig.layout, rank, small_geometry(), rig.page_tokens).page_bytes() *
         static_cast<uint64_t>(rig.pages_per_group);
}

inline Request request_of(std::string rid, std::vector<int32_t> prompt, int max_new_tokens) {
  Request request;
  request.rid = std::move(rid);
  request.prompt = std::move(prompt);
  request.sampling.max_new_tokens = max_new_tokens;
  request.sampling.temperature = 0;
  return request;
}

inline std::vector<int32_t> random_prompt(uint64_t seed, int length, int vocab) {
  std::vector<int32_t> prompt;
  uint64_t x = seed * 2 + 1;
  for (int i = 0; i < length; ++i) {
    x = x * 6364136223846793005 + 1442695040888963407;
    prompt.push_back(static_cast<int32_t>((x >> 33) % static_cast<uint64_t>(vocab)));
  }
  return prompt;
}

// Polls until the engine's published stats satisfy `condition`, at most ten seconds.
template <typename Condition>
bool eventually(const Engine& engine, Condition condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition(engine.stats())) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

// Every page is free or cached, nothing waits.
inline bool is_idle(const EngineStats& stats) {
  for (const auto& pages : stats.pages) {
    if (pages.used() != 0) return false;
  }
  return stats.running + stats.waiting + stats.waiting_grant + stats.transferring == 0;
}

// A unified engine over a fake executor and pools of its own.
struct Rig {
  explicit Rig(RigOptions rig = {}, const std::function<void(EngineLoopOptions&, FakeExecutorOptions&)>& adjust = {})
      : options(rig) {
    std::vector<std::span<std::byte>> spans;
    for (int r = 0; r < rig.layout.world(); ++r) {
      pools.push_back(std::make_unique<std::vector<std::byte>>(pool_bytes(rig, r)));
      spans.push_back(*pools.back());
    }
    EngineLoopOptions loop = loop_options(rig);
    FakeExecutorOptions fake = fake_options(rig);
    if (adjust) adjust(loop, fake);
    auto started = EngineLoop::start(std::move(loop), std::make_unique<FakeExecutor>(fake, spans),
                                     [](EngineCore& core, std::function<void()>) -> Result<std::unique_ptr<RolePart>> {
                                       return std::unique_ptr<RolePart>(std::make_unique<UnifiedRole>(core));
                                     });
    engine = std::move(started).value();
  }
  Result<SequenceId> submit(Request request, Client& client) {
    return engine->submit(std::move(request), client.sink());
  }

  RigOptions options;
  std::vector<std::unique_ptr<std::vector<std::byte>>> pools;
  std::unique_ptr<EngineLoop> engine;
};

inline void expect_all_pages_back(Rig& rig) {
  ASSERT_TRUE(eventually(*rig.engine, is_idle));
  ASSERT_TRUE(rig.engine->flush_cache().ok());
  EXPECT_TRUE(eventually(*rig.engine, [&](const EngineStats& stats) {
    for (const auto& pages : stats.pages) {
      if (pages.free != rig.options.pages_per_group) return false;
    }
    return true;
  }));
}

}  // namespace baton::engine
