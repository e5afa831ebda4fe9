// The helper threads of one thread that computes.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/futex.h"

namespace baton::kernels {

// Owned and used by one thread. Waits are a short spin and then a futex, so that idle helpers and a rank whose helpers
// were descheduled cost the other ranks of a shared machine nothing.
class WorkerPool {
 public:
  explicit WorkerPool(int helpers);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  [[nodiscard]] int parts() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls fn(part) for each part in [0, parts()), part 0 on the calling thread; returns when all have returned. fn must
  // not throw and must not use the pool.
  template <typename Fn>
  void run(const Fn& fn) {
    run(
        +[](const void* context, int part) { (*static_cast<const Fn*>(context))(part); }, &fn);
  }

 private:
  using Job = void (*)(const void* context, int part);
  void run(Job job, const void* context);
  void help(int part);

  Job job_ = nullptr;
  const void* context_ = nullptr;
  FutexWord generation_{0};  // raised when job_ is set; published with release
  FutexWord running_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace baton::kernels
