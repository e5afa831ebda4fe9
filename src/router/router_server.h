// The router: pairs a prefill and a decode instance for each request, watches their health, and answers like one
// server.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "http/server.h"
#include "router/worker_registry.h"

namespace baton {

struct RouterOptions {
  HttpServerOptions http;
  std::vector<WorkerAddress> workers;
  PlacementPolicy prefill_policy = PlacementPolicy::kLeastLoaded;
  PlacementPolicy decode_policy = PlacementPolicy::kLeastLoaded;
  Duration health_interval = std::chrono::seconds(1);
  Duration health_timeout = std::chrono::seconds(5);
  std::string api_key;  // for the admin paths of the router itself, and towards workers
  std::string version;
};

class Router {
 public:
  // Serves at once; workers are probed and paired in the background.
  static Result<std::unique_ptr<Router>> start(RouterOptions options);
  ~Router();
  [[nodiscard]] int port() const;
  // Waits until a pair can serve; kDeadlineExceeded says what is wrong with which worker.
  Status wait_ready(Duration timeout);
  [[nodiscard]] static std::vector<std::string> routes();

 private:
  class Impl;
  explicit Router(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton
