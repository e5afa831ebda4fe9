// How far somebody has come, for others to wait for.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>

#include "base/result.h"
#include "comm/short_wait.h"

namespace baton::comm {

// A count that one thread at a time raises by one and any thread waits for. Who returns from await(n) sees what was
// written before the n-th raise. After abort() every wait for what was not reached, begun or to come, returns its
// error.
class Progress {
 public:
  // `threads`: as ShortWait has them.
  explicit Progress(int threads) : wait_(threads) {}

  void raise() {
    reached_.fetch_add(1, std::memory_order_acq_rel);
    tell();
  }
  [[nodiscard]] uint64_t reached() const { return reached_.load(std::memory_order_acquire); }
  Status await(uint64_t count) {
    for (;;) {
      const uint32_t now = changes_.load(std::memory_order_acquire);
      if (reached() >= count) return {};
      if (aborted_.load(std::memory_order_acquire)) {
        std::lock_guard lock(mutex_);
        return *failure_;
      }
      wait_.while_equal(changes_, now);
    }
  }
  // Any thread. The first error stays.
  void abort(const Error& failure) {
    {
      std::lock_guard lock(mutex_);
      if (!failure_) failure_ = failure;
    }
    aborted_.store(true, std::memory_order_release);
    tell();
  }

 private:
  void tell() {
    changes_.fetch_add(1, std::memory_order_acq_rel);
    futex_wake_all(changes_);
  }

  ShortWait wait_;
  std::atomic<uint64_t> reached_{0};
  alignas(64) FutexWord changes_{0};
  std::atomic<bool> aborted_{false};
  std::mutex mutex_;
  std::optional<Error> failure_;
};

}  // namespace baton::comm
