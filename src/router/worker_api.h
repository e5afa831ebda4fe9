// The router's list of workers over HTTP, as sglang-router has it.
#pragma once

#include <string>

#include "http/client.h"
#include "http/routes.h"
#include "router/open_calls.h"
#include "router/worker_registry.h"

namespace baton::router {

// One worker as the list shows it: sglang-router's fields and what this router knows besides.
[[nodiscard]] std::string worker_json(const WorkerView& view);

class WorkerApi {
 public:
  // All outlive it and its calls.
  WorkerApi(WorkerRegistry& registry, OpenCalls& calls, http::HttpClient& client, std::string api_key)
      : registry_(registry), calls_(calls), client_(client), api_key_(std::move(api_key)) {}

  void list(const http::Exchange& x) const;
  // GET and DELETE /workers/{id}: by its id, or by its URL as older versions had it.
  void show(const http::Exchange& x) const;
  void remove(const http::Exchange& x) const;
  // PUT: {"priority", "cost", "labels"}.
  void update(const http::Exchange& x) const;
  // /list_workers, /add_worker?url= and /remove_worker?url=.
  void list_urls(const http::Exchange& x) const;
  void add_url(http::Exchange x) const;
  void remove_url(const http::Exchange& x) const;
  // {"url" or "registry_url", "mode" or "worker_type": prefill|decode, "bootstrap_port", "priority", "cost", "labels"}:
  // sglang-router's and mini_lb's spelling; "bootstrap_host" is ours. A worker whose type is not said is asked for it
  // and for its port.
  void add(http::Exchange x) const;

 private:
  [[nodiscard]] Result<WorkerView> named(const http::HttpRequest& request) const;
  void ask_and_add(http::Exchange x, WorkerAddress worker, WorkerTraits traits, bool port_given) const;
  void join(const http::Exchange& x, const WorkerAddress& worker, WorkerTraits traits, bool in_words = false) const;

  WorkerRegistry& registry_;
  OpenCalls& calls_;
  http::HttpClient& client_;
  const std::string api_key_;
};

}  // namespace baton::router
