// The instances a router knows, and which of them can take work. Thread safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"
#include "http/client.h"
#include "router/pair_policy.h"

namespace baton {

struct WorkerAddress {
  Role role = Role::kPrefill;
  Url url;
  int bootstrap_port = 8998;  // prefill
};

// A copy of what is known about a worker.
struct WorkerView {
  WorkerAddress address;
  bool healthy = false;
  bool breaker_open = false;
  uint64_t outstanding = 0, requests = 0, failures = 0;
  std::string problem;  // why not healthy
};

class WorkerRegistry {
 public:
  struct Options {
    int failures_to_open = 3;                         // requests in a row that failed by the worker's fault
    Duration breaker_time = std::chrono::seconds(5);  // then probed again
  };
  WorkerRegistry(Options options, PairPolicy policy) : options_(options), policy_(policy) {}

  // Known already: kInvalidArgument.
  Status add(const WorkerAddress& address);
  Status remove(const Url& url);

  struct Pair {
    WorkerAddress prefill, decode;
    uint64_t prefill_id = 0, decode_id = 0;  // of begin_request(), for end_request()
  };
  // Counts the request as outstanding on both; end_request() must follow. Workers in `avoid` (their ids) are taken only
  // where no other can serve. kUnavailable says how many of each there are and why none fits.
  Result<Pair> begin_request(TimePoint now, const std::set<uint64_t>& avoid = {});
  // Whose fault the end was. kUnclear counts for and against nobody: an instance that waited for its peer in vain
  // answers for a failure that need not be its own.
  enum class Blame : uint8_t { kNobody, kPrefill, kDecode, kUnclear };
  void end_request(const Pair& pair, Blame blame, TimePoint now);

  void set_health(const Url& url, bool healthy, std::string problem);
  // What two instances answered when told to meet: a refusal keeps this pair apart until either is seen healthy anew.
  void set_pairing(const Url& prefill, const Url& decode, bool refused, std::string why);

  [[nodiscard]] std::vector<WorkerView> view() const;
  // Why pairs have refused each other, each after "; ".
  [[nodiscard]] std::string refusals() const;
  // Healthy prefill and decode pairs that have not met yet.
  [[nodiscard]] std::vector<Pair> unpaired() const;
  // Some pair is healthy and has not refused each other; with `met_only`, has met.
  [[nodiscard]] bool can_serve(TimePoint now, bool met_only = false) const;

 private:
  struct Worker {
    uint64_t id = 0;  // a worker that was removed and added again is another one
    WorkerView view;
    int failures_in_row = 0;
    TimePoint retry_at{};
  };
  Worker* find(const Url& url);
  [[nodiscard]] std::string refusals_text() const;
  void forget_pairings(const std::string& authority);
  [[nodiscard]] bool usable(const Worker& worker, TimePoint now) const;
  std::vector<Worker>& workers(Role role) { return role == Role::kPrefill ? prefill_ : decode_; }

  const Options options_;
  mutable std::mutex mutex_;
  PairPolicy policy_;
  std::vector<Worker> prefill_, decode_;
  uint64_t next_id_ = 1;
  std::set<std::pair<std::string, std::string>> met_;  // (prefill, decode) authorities
  std::map<std::pair<std::string, std::string>, std::string> refused_;
};

}  // namespace baton
