// The router's background work: health of each worker, and the meeting of those that have not met.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "base/clock.h"
#include "http/client.h"
#include "router/worker_registry.h"

namespace baton {

// One thread of its own from construction to destruction.
class WorkerProbe {
 public:
  struct Options {
    Duration interval = std::chrono::seconds(1);
    Duration timeout = std::chrono::seconds(5);
    std::string api_key;  // towards workers
  };
  // All three outlive it.
  WorkerProbe(Options options, WorkerRegistry& registry, HttpClient& client, const Clock& clock);
  ~WorkerProbe();

  // Waits until a pair that has met can serve; kDeadlineExceeded says what is wrong with which worker.
  Status wait_ready(Duration timeout);

 private:
  void loop();
  void probe(const WorkerView& view);
  void introduce(const WorkerRegistry::Pair& pair);

  const Options options_;
  WorkerRegistry& registry_;
  HttpClient& client_;
  const Clock& clock_;
  std::mutex mutex_;  // of stopping_
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace baton
