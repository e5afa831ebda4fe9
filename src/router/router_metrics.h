// What the router's own /metrics shows; its workers' come from /engine_metrics.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "router/worker_registry.h"

namespace baton::router {

// Thread safe.
class RouterMetrics {
 public:
  enum class Event { kRequest, kRetry, kPrefillError, kDecodeError, kClientLeft, kStreamError };

  RouterMetrics();
  ~RouterMetrics();
  RouterMetrics(const RouterMetrics&) = delete;
  RouterMetrics& operator=(const RouterMetrics&) = delete;

  void count(Event event);
  [[nodiscard]] uint64_t counted(Event event) const;
  // TTFT's part "router": from a request's arrival until both legs of the attempt that answered had been posted.
  void on_answer(Duration in_router);

  // Prometheus text.
  [[nodiscard]] std::string render(const std::vector<WorkerView>& workers) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::router
