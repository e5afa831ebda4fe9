// A request between submit() and its last Output. The engine's thread owns it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "engine/engine.h"
#include "sampling/recipe.h"

namespace baton::engine {

struct LiveRequest {
  Request request;  // max_new_tokens already cut to what the context allows
  OutputSink sink;
  SequenceId sequence;
  int dp_rank = 0;                           // once admitted
  std::shared_ptr<sampling::Recipe> recipe;  // how its tokens are drawn; its history is the executor's
  int completion_tokens = 0;
  int cached_tokens = 0;
  std::vector<PromptLogprob> prompt_logprobs;  // wanted ones; filled chunk by chunk, delivered with the first Output
  std::optional<GeneratedToken> next;          // as Output::next
  TtftParts ttft;

  TimePoint submitted{};   // it arrived
  TimePoint computable{};  // nothing but room is missing: submitted, or the grant's arrival
  TimePoint first_step{};  // its first chunk began
  bool admitted = false, stepped = false;
  bool retracted = false;  // lost its pages and waits for others
  int preemptions = 0;

  [[nodiscard]] int prompt_tokens() const { return static_cast<int>(request.prompt.size()); }
  [[nodiscard]] const SamplingParams& sampling() const { return request.sampling; }
};

}  // namespace baton::engine
