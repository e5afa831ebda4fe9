// What /metrics shows. SGLang's names with its labels, vLLM's as a second set that can be switched off, and ours.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/engine.h"

namespace baton::http {

struct MetricsOptions {
  std::string model_name;
  engine::Role role = engine::Role::kUnified;
  bool vllm_names = true;  // --metrics-compat sglang,vllm
};

// Thread safe.
class Metrics final : public engine::EngineObserver {
 public:
  explicit Metrics(const MetricsOptions& options);
  ~Metrics() override;

  void on_queue_time(double seconds) override;
  void on_transfer(double seconds, uint64_t bytes, uint64_t copies) override;
  void on_ttft(const engine::TtftParts& parts) override;

  // Of one client call, as the HTTP side sees it.
  void on_first_token(double seconds);
  void on_inter_token(double seconds, size_t tokens);
  // `since_first_token`: of a choice that has one.
  void on_request_end(double seconds, std::optional<double> since_first_token, engine::FinishReason reason);

  // Prometheus text, with the engine's state of this moment.
  [[nodiscard]] std::string render(const engine::EngineStats& stats, const engine::InstanceInfo& info);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::http
