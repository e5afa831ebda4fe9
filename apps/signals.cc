#include "signals.h"

#include <pthread.h>
#include <time.h>

namespace baton {

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

}  // namespace baton
