// Which requests are taken, and in which order they are served.
#pragma once

#include <optional>

#include "scheduler/queue_policy.h"

namespace baton::engine {

struct QueueOptions {
  scheduler::QueuePolicy policy = scheduler::QueuePolicy::kFair;  // --schedule-policy
  bool priorities = false;                                        // --enable-priority-scheduling
  bool low_values_first = false;                                  // --schedule-low-priority-values-first
  bool refuse_priorities = false;                                 // --abort-on-priority-when-disabled
  std::optional<int> default_priority;      // of requests that state none; otherwise they are last
  std::optional<int> preemption_threshold;  // what finds no room retracts what is lower by so much
  std::optional<int> waiting_max;           // --max-queued-requests; of unified instances, more get 503
};

}  // namespace baton::engine
