// The router: pairs a prefill and a decode instance for each request, watches their health, and answers like one
// server.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "http/server.h"
#include "router/worker_registry.h"

namespace baton::router {

struct RouterOptions {
  http::HttpServerOptions http;
  std::vector<WorkerAddress> workers;
  PlacementPolicy prefill_policy = PlacementPolicy::kLeastLoaded;
  PlacementPolicy decode_policy = PlacementPolicy::kLeastLoaded;
  Duration health_interval = std::chrono::seconds(1);     // less where four do not fit into health_timeout
  Duration health_timeout = std::chrono::seconds(10);     // a worker that says nothing for so long is given up
  Duration request_timeout = std::chrono::seconds(1800);  // of a generation call, arrival to last byte; 0: none
  std::string api_key;  // for the admin paths of the router itself, and towards workers
  std::string version;
  std::string root_path;  // as http::Access has it
};

class Router {
 public:
  // Serves at once; workers are probed and paired in the background.
  static Result<std::unique_ptr<Router>> start(RouterOptions options);
  ~Router();
  [[nodiscard]] int port() const;
  // Waits until a pair can serve; kDeadlineExceeded says what is wrong with which worker.
  Status wait_ready(Duration timeout);
  // From here on new work gets 503, and so do /health and /readiness; what is under way goes on.
  void drain();
  // Requests whose answer is not wholly sent.
  [[nodiscard]] size_t in_flight() const;
  // Ends every generation call with an error.
  void end_calls();
  [[nodiscard]] static std::vector<std::string> routes();

 private:
  class Impl;
  explicit Router(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::router
