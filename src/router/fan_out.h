// One request handed to several workers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "http/client.h"
#include "http/load_report.h"
#include "http/routes.h"
#include "router/open_calls.h"
#include "router/worker_registry.h"

namespace baton::router {

// What workers need of a client's headers goes on; the rest stays at the edge.
inline constexpr const char* kPassedOn[] = {"authorization", "x-api-key", http::kRequestIdHeader, "traceparent",
                                            http::kLoadFormatHeader};

struct WorkerReply {
  WorkerAddress worker;
  int status = 502;  // stays so without an answer; the body is an error object then
  std::string body;
};

// Asks every worker what the client asked, with the headers of its that go on, and calls `done` with the replies in the
// order of `workers`, on the thread where the last one ended. Bodies are cut at 64 MiB. A worker that says nothing for
// `patience` is not waited for. A worker that `calls` loses
// meanwhile counts as one that answered 504.
void fan_out(http::HttpClient& client, OpenCalls& calls, const std::vector<WorkerView>& workers, http::Exchange x,
             std::function<void(const http::Exchange& x, std::vector<WorkerReply> replies)> done,
             std::chrono::milliseconds patience = std::chrono::seconds(60));

}  // namespace baton::router
