// Stopping on SIGINT and SIGTERM, waited for by one thread.
#pragma once

#include <signal.h>

#include "base/clock.h"

namespace baton::apps {

// Blocks the two signals (and SIGCHLD) in this thread and all it starts; construct before any thread.
class SignalWait {
 public:
  SignalWait();
  // The signal that came (SIGINT, SIGTERM or SIGCHLD), or 0 after `timeout`.
  int wait(Duration timeout);
  // True when SIGINT or SIGTERM came within `timeout`; other signals are waited past.
  bool wait_stop(Duration timeout);
  // Undoes the constructor: from here on SIGINT and SIGTERM kill.
  void restore();

 private:
  sigset_t set_;
};

}  // namespace baton::apps
