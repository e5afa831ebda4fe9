// The metrics of several workers as one page.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "http/exposition.h"
#include "router/fan_out.h"

namespace baton::router {

struct WorkerPage {
  std::string worker;  // "host:port"
  engine::Role role = engine::Role::kPrefill;
  std::string text;  // of its /metrics; what cannot be read is left out
};

// Of the workers that gave theirs.
[[nodiscard]] std::vector<WorkerPage> pages_of(std::vector<WorkerReply> replies);

// Keeps what workers said last. Thread safe.
class LastPages {
 public:
  // The replies' pages, and the last ones of those that have just not replied. Who is not among them is forgotten.
  std::vector<WorkerPage> update(std::vector<WorkerReply> replies);

 private:
  std::mutex mutex_;
  std::map<std::string, WorkerPage> pages_;  // by worker
};

// Every sample, with the label `worker`; each family once.
[[nodiscard]] std::vector<http::MetricFamily> labelled_metrics(const std::vector<WorkerPage>& pages);
// SGLang's and vLLM's names as one sample for each role and set of labels, as if whoever scraped the workers had summed
// them up: counts are added, shares are averaged, times of a start and what is no number of things are the largest.
// vLLM's names, which do not tell roles apart, get SGLang's label engine_type.
[[nodiscard]] std::vector<http::MetricFamily> summed_metrics(const std::vector<WorkerPage>& pages);

}  // namespace baton::router
