// What /metrics shows. SGLang's names with its labels, vLLM's as a second set that can be switched off, and ours.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "http/http_activity.h"

namespace baton::http {

struct MetricsOptions {
  std::string model_name;
  engine::Role role = engine::Role::kUnified;
  bool vllm_names = true;  // --metrics-compat sglang,vllm
};

// One sequence of a client call, as the HTTP side saw it.
struct EndedRequest {
  double seconds = 0;                       // since it came
  std::optional<double> since_first_token;  // of one that has a token
  double inference_s = 0;                   // of `seconds`, what was no waiting for room
  engine::FinishReason reason = engine::FinishReason::kStop;
  int prompt_tokens = 0, completion_tokens = 0;
  int max_tokens = 0;  // as asked for
  int preemptions = 0;
};

// Thread safe.
class Metrics final : public engine::EngineObserver {
 public:
  explicit Metrics(const MetricsOptions& options);
  ~Metrics() override;

  void on_queue_time(double seconds) override;
  void on_transfer(double seconds, uint64_t bytes, uint64_t copies) override;
  void on_ttft(const engine::TtftParts& parts) override;
  void on_step(int64_t tokens) override;

  // Of one client call, as the HTTP side sees it.
  void on_first_token(double seconds);
  void on_inter_token(double seconds, size_t tokens);
  void on_request_end(const EndedRequest& ended);
  // All samples of a prompt have ended; the longest has so many tokens.
  void on_prompt_end(int samples, int longest);

  [[nodiscard]] HttpActivity& http();

  // Prometheus text, with the engine's state of this moment.
  [[nodiscard]] std::string render(const engine::EngineStats& stats, const engine::InstanceInfo& info);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::http
