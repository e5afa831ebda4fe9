// The router's background work: health of each worker, the meeting of those that have not met, and the end of calls
// that nothing answers any more.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/clock.h"
#include "http/client.h"
#include "router/open_calls.h"
#include "router/worker_registry.h"

namespace baton::router {

// One thread of its own from construction to destruction. Workers are asked side by side: one that does not answer
// delays no other.
class WorkerProbe {
 public:
  struct Options {
    Duration interval = std::chrono::seconds(1);  // from the answer to one probe to the next
    Duration timeout = std::chrono::seconds(10);  // of a probe; the registry's silence_max
    std::string api_key;                          // towards workers
  };
  // All outlive it.
  WorkerProbe(Options options, WorkerRegistry& registry, OpenCalls& calls, http::HttpClient& client,
              const Clock& clock);
  ~WorkerProbe();
  // Waits until a pair that has met can serve; kDeadlineExceeded says what is wrong with which worker.
  Status wait_ready(Duration timeout);

 private:
  void loop();
  void pass(Duration time);
  [[nodiscard]] http::HttpCallRequest call_of(const WorkerView& view, const char* path) const;
  void probe(const WorkerView& view);
  void ask_model(const WorkerView& view);
  void introduce(const WorkerRegistry::Pair& pair);
  void on_health(const WorkerView& view, const Result<http::HttpReply>& reply);
  void on_introduced(const WorkerRegistry::Pair& pair, const Result<http::HttpReply>& reply);
  // One call under a name at a time; `done` gets the answer on a client thread.
  void ask(const std::string& name, http::HttpCallRequest call,
           std::function<void(const Result<http::HttpReply>&)> done);

  const Options options_;
  WorkerRegistry& registry_;
  OpenCalls& calls_;
  http::HttpClient& client_;
  const Clock& clock_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  bool stopping_ = false;
  bool news_ = false;  // a worker is seen anew
  std::map<std::string, std::shared_ptr<http::HttpCall>> asking_;
  std::thread thread_;
};

}  // namespace baton::router
