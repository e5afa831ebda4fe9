// Stopping on SIGINT and SIGTERM, waited for by one thread.
#pragma once

#include <signal.h>

#include "base/clock.h"

namespace baton {

// Blocks the two signals (and SIGCHLD) in this thread and all it starts; construct before any thread.
class SignalWait {
 public:
  SignalWait();
  // The signal that came (SIGINT, SIGTERM or SIGCHLD), or 0 after `timeout`.
  int wait(Duration timeout);

 private:
  sigset_t set_;
};

}  // namespace baton
