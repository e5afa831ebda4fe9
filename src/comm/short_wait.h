// How a rank waits for a word of memory to change: briefly awake, because ranks meet often, and then asleep.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/futex.h"

namespace baton::comm {

// Spins for a few microseconds when the machine has a core for every thread that may wait, yields a few times while
// that pays, and then sleeps in the kernel: more ranks than cores must not burn the core that the last rank needs.
class ShortWait {
 public:
  // `threads`: how many wait and work at the same time.
  explicit ShortWait(int threads);
  // Returns when `word` is not `old` any more; what was released with the change is visible.
  void while_equal(const FutexWord& word, uint32_t old);

 private:
  int spins_ = 0;
  std::atomic<std::chrono::steady_clock::time_point> yields_from_{};  // before then a yield does not pay
};

}  // namespace baton::comm
