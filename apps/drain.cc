#include "drain.h"

#include <unistd.h>

#include "base/log.h"
#include "exit_code.h"

namespace baton::apps {
namespace {

constexpr Duration kLook = std::chrono::milliseconds(20);
constexpr Duration kFarewell = std::chrono::milliseconds(500);  // for the errors of what is cut off to be sent

}  // namespace

int drain(SignalWait& signals, Duration timeout, const DrainedServer& server) {
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const TimePoint give_up = now() + timeout;
  size_t left = server.in_flight();
  if (left > 0) {
    log_info("stopping: {} requests are finished first, for {:.0f} s at most; a second signal ends them", left,
             to_seconds(timeout));
  }
  bool again = false;
  for (; left > 0 && !again && now() < give_up; left = server.in_flight()) again = signals.wait_stop(kLook);
  if (left > 0) {
    log_warning("{}: {} requests are cut off", again ? "a second signal" : "the time to drain is over", left);
    server.cut_off();
    for (const TimePoint end = now() + kFarewell; server.in_flight() > 0 && now() < end;) (void)signals.wait(kLook);
  }
  log_info("stopped");
  if (again && left > 0) {  // at once: whatever else would still be waited for
    log_flush();
    _exit(kExitFailed);
  }
  signals.restore();
  return left > 0 ? kExitFailed : kExitOk;
}

}  // namespace baton::apps
