#include "comm/short_wait.h"

#include <thread>
#include <utility>

namespace baton::comm {

namespace {

// About two microseconds of pause instructions.
constexpr int kSpins = 64;

// A yield lets a rank that shares the core go on, and costs a fraction of sleeping and being woken. But it gives up
// this thread's share of the core (all of a time slice since Linux 6.18), so where another program takes it, yields
// cost milliseconds: after one that took long the group's ranks only sleep for a while.
constexpr int kYields = 8;
constexpr auto kYieldTooLong = std::chrono::milliseconds(1);
constexpr auto kYieldPause = std::chrono::milliseconds(200);

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ShortWait::ShortWait(int threads) {
  if (static_cast<unsigned>(threads) <= std::thread::hardware_concurrency()) spins_ = kSpins;
}

void ShortWait::while_equal(const FutexWord& word, uint32_t old) {
  const auto same = [&] { return word.load(std::memory_order_acquire) == old; };
  for (int i = 0; i < spins_ && same(); ++i) pause();
  auto now = std::chrono::steady_clock::now();
  for (int i = 0; i < kYields && same() && now >= yields_from_.load(std::memory_order_relaxed); ++i) {
    const auto before = std::exchange(now, (std::this_thread::yield(), std::chrono::steady_clock::now()));
    if (now - before > kYieldTooLong) yields_from_.store(now + kYieldPause, std::memory_order_relaxed);
  }
  futex_wait(word, old);
}

}  // namespace baton::comm
