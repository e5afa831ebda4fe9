// The endpoints of an instance.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "http/api_request.h"
#include "http/live_names.h"
#include "http/metrics.h"
#include "http/routes.h"
#include "http/work_pool.h"

namespace baton::http {

// What is loading, for /health before the instance is ready.
struct LoadProgress {
  std::string phase = "starting";
  uint64_t done = 0, total = 0;  // bytes
};

// Exists before the engine does, so that the port answers (503 with progress) while weights load. Thread safe.
class ApiServer {
 public:
  struct Options {
    std::string api_key;  // empty: open
    std::string version;
    std::string server_args_json = "{}";  // an object, merged into /get_server_info
    bool loopback = false;                // the server listens on loopback alone
    // Threads that read bodies: JSON, templates, tokenizing. 0: handle() does so itself.
    int text_threads = 0;
    bool log_requests = false;  // --log-requests, --log-requests-level
    int log_requests_level = 2;
    Origins allowed_origins = {};  // whose pages may do what any client may
    std::string root_path = {};    // as Access has it
  };
  explicit ApiServer(Options options);
  ~ApiServer();

  void set_progress(LoadProgress progress);
  // From here on requests are served. All three outlive the server.
  void set_ready(engine::Engine& engine, const ModelText& model, Metrics& metrics);
  // From here on new work gets 503, and so do /health and /readiness; what is under way goes on, and who asks how far
  // it is gets an answer.
  void set_draining();

  // Lets go of every request whose body is being read or waits for that. After the HttpServer's stop() and before the
  // engine goes; what comes later gets 503.
  void stop();

  // The handler for an HttpServer, and its check of heads.
  void handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer);
  [[nodiscard]] std::optional<HttpRefusal> check_head(const HttpRequest& head) const;

  // Every route as "METHOD PATH"; compatibility.inc is held against it.
  [[nodiscard]] static std::vector<std::string> routes();

 private:
  struct Ready {
    engine::Engine* engine;
    const ModelText* model;
    Metrics* metrics;
  };
  struct Call : Exchange {
    using Exchange::Exchange;
    Ready ready{};
  };
  using Handler = void (ApiServer::*)(Call&);
  static const std::vector<Route<Handler>>& table();
  // The route of a request that is welcome now.
  [[nodiscard]] Admission<Handler> admission(const HttpRequest& head) const;

  void health(Call& x);
  void health_generate(Call& x);
  void readiness(Call& x);
  void metrics(Call& x);
  void version(Call& x);
  void models(Call& x);
  void model_info(Call& x);
  void server_info(Call& x);
  void load(Call& x);
  void weight_version(Call& x);
  void update_weight_version(Call& x);
  void generate(Call& x);
  void completions(Call& x);
  void chat(Call& x);
  void invocations(Call& x);
  void tokenize(Call& x);
  void detokenize(Call& x);
  void tokenizer_info(Call& x);
  void flush_cache(Call& x);
  void abort_request(Call& x);
  void pause_generation(Call& x);
  void continue_generation(Call& x);
  void pause(Call& x);
  void resume(Call& x);
  void is_paused(Call& x);
  void pair(Call& x);
  void plan(Call& x);
  void start_profile(Call& x);
  void stop_profile(Call& x);
  void configure_logging(Call& x);
  void run(Call& x, std::optional<ApiKind> kind);  // none: the body says

  const Options options_;
  const Access access_;
  mutable std::mutex mutex_;  // of progress_ and profile_
  LoadProgress progress_;
  struct Profile {
    std::chrono::steady_clock::time_point start;
    engine::EngineStats stats;
  };
  std::optional<Profile> profile_;  // between /start_profile and /stop_profile
  void log_request(const Call& x, const ApiRequest& request) const;
  LiveNames live_names_;
  std::atomic<bool> log_requests_;
  std::atomic<int> log_requests_level_;
  std::atomic<bool> draining_{false};
  std::atomic<Ready*> ready_{nullptr};
  std::unique_ptr<Ready> ready_storage_;
  std::stop_source stopping_text_;
  WorkPool pool_;  // goes first: its work uses the rest
};

}  // namespace baton::http
