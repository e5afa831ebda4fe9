// The endpoints of an instance.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "engine/engine.h"
#include "http/api_request.h"
#include "http/metrics.h"
#include "http/server.h"

namespace baton {

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
  };
  explicit ApiServer(Options options);
  ~ApiServer();

  void set_progress(LoadProgress progress);
  // From here on requests are served. All three outlive the server.
  void set_ready(Engine& engine, const ModelText& model, Metrics& metrics);
  // From here on new requests get 503; those under way go on.
  void set_stopping();

  // The handler for an HttpServer.
  void handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer);

  // Every route as "METHOD PATH": the compatibility table that a test walks.
  [[nodiscard]] static std::vector<std::string> routes();

 private:
  struct Ready {
    Engine* engine;
    const ModelText* model;
    Metrics* metrics;
  };
  struct Exchange;
  using Route = void (ApiServer::*)(Exchange&);
  struct RouteEntry {
    const char* method;
    const char* path;
    Route route;
    bool open;  // served without the API key and while loading
  };
  static const std::vector<RouteEntry>& table();

  void health(Exchange& x);
  void health_generate(Exchange& x);
  void readiness(Exchange& x);
  void metrics(Exchange& x);
  void version(Exchange& x);
  void models(Exchange& x);
  void model_info(Exchange& x);
  void server_info(Exchange& x);
  void load(Exchange& x);
  void generate(Exchange& x);
  void completions(Exchange& x);
  void chat(Exchange& x);
  void tokenize(Exchange& x);
  void detokenize(Exchange& x);
  void tokenizer_info(Exchange& x);
  void flush_cache(Exchange& x);
  void abort_request(Exchange& x);
  void pair(Exchange& x);
  void plan(Exchange& x);
  void unsupported(Exchange& x);
  void call(Exchange& x, ApiKind kind);
  [[nodiscard]] bool authorized(const HttpRequest& request) const;

  const Options options_;
  mutable std::mutex mutex_;  // of progress_
  LoadProgress progress_;
  std::atomic<bool> stopping_{false};
  std::atomic<Ready*> ready_{nullptr};
  std::unique_ptr<Ready> ready_storage_;
};

}  // namespace baton
