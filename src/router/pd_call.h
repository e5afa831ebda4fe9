// One client request on its two legs.
#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "http/client.h"
#include "http/live_names.h"
#include "http/routes.h"
#include "router/open_calls.h"
#include "router/router_metrics.h"
#include "router/worker_registry.h"

namespace baton::router {

struct PdCallContext {
  WorkerRegistry& registry;
  OpenCalls& calls;
  http::HttpClient& client;
  const Clock& clock;
  RouterMetrics& metrics;
  http::LiveNames& names;
  Duration request_timeout{};  // from the request's arrival to the answer's last byte; 0: none
  int attempts_max = 3;        // tries in all, each with new rooms, as long as the client has seen nothing
};

// Posts the request to a prefill and a decode instance at once and answers with decode's stream. Every answer carries
// the verdict header "x-baton-verdict". A client that leaves cancels both legs. A worker that is lost meanwhile ends
// its leg at once. A name (rid) that a call of this router has is 400. The context outlives the call. Takes as long as
// reading the body does: not for I/O threads.
void start_pd_call(PdCallContext context, http::Exchange x);

}  // namespace baton::router
