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

namespace baton::router {

struct WorkerAddress {
  engine::Role role = engine::Role::kPrefill;
  http::Url url;
  // Prefill: where decode meets it. Without a host that is the URL's.
  int bootstrap_port = 8998;
  std::string bootstrap_host = {};
  [[nodiscard]] const std::string& meeting_host() const { return bootstrap_host.empty() ? url.host : bootstrap_host; }
};

// What clients of sglang-router give a worker and read of it; nothing here depends on them.
struct WorkerTraits {
  int64_t priority = 50;
  double cost = 1;
  std::map<std::string, std::string> labels = {};
};

// A copy of what is known about a worker.
struct WorkerView {
  uint64_t id = 0;   // a worker that was removed and added again is another one
  std::string name;  // likewise: a UUID, by which the router's clients call it
  WorkerAddress address;
  WorkerTraits traits;
  std::string model;  // as it calls what it serves; empty until it has been asked
  bool healthy = false;
  bool breaker_open = false;
  Duration silence{};  // since it was last heard; reaches silence_max at most while it is healthy
  uint64_t outstanding = 0, requests = 0, failures = 0;
  std::string problem;  // why not healthy
};

class WorkerRegistry {
 public:
  struct Options {
    int failures_to_open = 3;                         // requests in a row that failed by the worker's fault
    Duration breaker_time = std::chrono::seconds(5);  // then tried again, even where another could serve
    Duration silence_max = std::chrono::seconds(10);  // a worker that says nothing for so long is not healthy
  };
  WorkerRegistry(Options options, PairPolicy policy) : options_(options), policy_(policy) {}

  // Known already: kInvalidArgument.
  Status add(const WorkerAddress& address, WorkerTraits traits = {});
  Status remove(const http::Url& url);
  // By WorkerView::id; nothing where it is gone.
  void set_traits(uint64_t id, WorkerTraits traits);
  void set_model(uint64_t id, std::string model);

  struct Pair {
    WorkerAddress prefill, decode;
    uint64_t prefill_id = 0, decode_id = 0;  // of begin_request(), for end_request()
  };
  // Counts the request as outstanding on both; end_request() must follow. Workers in `avoid` (their ids), those whose
  // breaker is open and those that have been silent for a third of silence_max are taken only where no other can serve.
  // kUnavailable says how many of each there are and why none fits.
  Result<Pair> begin_request(TimePoint now, const std::set<uint64_t>& avoid = {});
  // Whose fault the end was. kUnclear counts for and against nobody: an instance that waited for its peer in vain
  // answers for a failure that need not be its own.
  enum class Blame : uint8_t { kNobody, kPrefill, kDecode, kUnclear };
  void end_request(const Pair& pair, Blame blame, TimePoint now);

  // What a probe found; true if that is new.
  bool set_health(const http::Url& url, bool healthy, std::string problem);
  // A sign of life: an answer to a probe, or bytes of any other answer. A busy instance that streams may be late with
  // its probe; one that is stopped, or whose host is gone, says nothing at all, though its connections stay open.
  void heard(uint64_t id);
  struct Silent {
    WorkerView view;
    bool fresh;  // was healthy until now
  };
  // `time` has passed: those that have been silent for silence_max are not healthy any more, and stay in the list until
  // they are heard again. Whatever waits for them waits in vain.
  std::vector<Silent> pass(Duration time);
  // What two instances answered when told to meet: a refusal keeps this pair apart until either is seen healthy anew.
  void set_pairing(const http::Url& prefill, const http::Url& decode, bool refused, std::string why);

  [[nodiscard]] std::vector<WorkerView> view() const;
  // Why pairs have refused each other, each after "; ".
  [[nodiscard]] std::string refusals() const;
  // Healthy prefill and decode pairs that have not met yet.
  [[nodiscard]] std::vector<Pair> unpaired() const;
  // Some pair is healthy and has not refused each other; with `met_only`, has met.
  [[nodiscard]] bool can_serve(bool met_only = false) const;

 private:
  struct Worker {
    WorkerView view;
    int failures_in_row = 0;
    TimePoint retry_at{};
  };
  Worker* find(const http::Url& url);
  Worker* find(uint64_t id);
  [[nodiscard]] std::string refusals_text() const;
  void forget_pairings(const std::string& authority);
  void start_anew(Worker* worker);
  // Nothing speaks against it but that it may be avoided by this request.
  [[nodiscard]] bool sound(const Worker& worker, TimePoint now) const;
  std::vector<Worker>& workers(engine::Role role) { return role == engine::Role::kPrefill ? prefill_ : decode_; }

  const Options options_;
  mutable std::mutex mutex_;
  PairPolicy policy_;
  std::vector<Worker> prefill_, decode_;
  uint64_t next_id_ = 1;
  std::set<std::pair<std::string, std::string>> met_;  // (prefill, decode) authorities
  std::map<std::pair<std::string, std::string>, std::string> refused_;
};

}  // namespace baton::router
