#include "signals.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>

namespace baton::apps {

SignalWait::SignalWait() {
  sigemptyset(&set_);
  for (const int s : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&set_, s);
  pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

int SignalWait::wait(Duration timeout) {
  const auto ns = timeout.count();
  const timespec limit{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  const int got = sigtimedwait(&set_, nullptr, &limit);
  return got > 0 ? got : 0;
}

bool SignalWait::wait_stop(Duration timeout) {
  const TimePoint end = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const int got = wait(std::max<Duration>(end - std::chrono::steady_clock::now(), Duration(0)));
    if (got == SIGINT || got == SIGTERM) return true;
    if (got == 0 && std::chrono::steady_clock::now() >= end) return false;
  }
}

void SignalWait::restore() {
  while (wait(Duration(0)) != 0) continue;  // those that came are dealt with
  pthread_sigmask(SIG_UNBLOCK, &set_, nullptr);
}

}  // namespace baton::apps
