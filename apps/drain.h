// The end of a server: what it has begun is finished, for so long at most.
#pragma once

#include <functional>

#include "signals.h"

namespace baton::apps {

struct DrainedServer {
  // Requests under way, looked at again and again.
  std::function<size_t()> in_flight;
  // Ends them, each with an error that its client sees.
  std::function<void()> cut_off;
};

// After new work is refused: waits until nothing is in flight. A second signal, or the end of `timeout`, cuts off what
// is left; the signal ends the process, too. Returns an ExitCode: kExitOk if everything was finished. From then on a
// signal kills.
int drain(SignalWait& signals, Duration timeout, const DrainedServer& server);

}  // namespace baton::apps
