// One instance: takes requests as token ids, gives back tokens. The HTTP side and the tools talk to it through this
// header alone.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "layout/layout.h"
#include "sampling/recipe.h"

namespace baton::engine {

enum class Role : uint8_t { kUnified, kPrefill, kDecode };
[[nodiscard]] const char* role_name(Role role);

using sampling::GeneratedToken;
using sampling::PromptLogprob;
using sampling::SamplingParams;
using sampling::TokenLogprob;

// Where the other leg is, from the router (or a router that is not ours).
struct Disaggregation {
  std::string bootstrap_host;
  int bootstrap_port = 0;
  AttemptId room;
  bool fake = false;  // host 2.2.2.2: no peer; a warm-up, whose tokens on decode are none of the model's
};

struct Request {
  std::string rid;              // how the client names it; need not be unique
  std::string call;             // how the client names the call that it is part of, if otherwise
  std::vector<int32_t> prompt;  // 1 .. max_model_len - 1 tokens
  SamplingParams sampling;
  int logprobs = -1;                             // -1 none, 0 of the sampled token, n also of the n best
  int prompt_logprob_start = -1;                 // first prompt position whose logprob is wanted; -1 none
  int prompt_logprobs = -1;                      // how many of the best at each of those; -1: as `logprobs`
  std::vector<int32_t> token_ids_logprob;        // wherever a logprob is wanted, those of these tokens too
  std::optional<Disaggregation> disaggregation;  // required by the roles prefill and decode
  std::optional<int> dp_rank;                    // routed_dp_rank
  std::string cache_salt;                        // prefix reuse only within one salt
  std::optional<int> priority;                   // larger goes first, with --enable-priority-scheduling
  TimePoint arrival{};                           // from which waits are counted; unset: submit() sets it

  // How many of the best are given at each position of the prompt.
  [[nodiscard]] int prompt_tops() const { return prompt_logprobs >= 0 ? prompt_logprobs : logprobs; }
};

// What TTFT was spent on, in milliseconds, each measured by one process on its own clock; below 0: does not apply.
struct TtftParts {
  double grant_ms = -1, prefill_queue_ms = -1, prefill_ms = -1, transfer_ms = -1, first_step_ms = -1;
};

enum class FinishReason : uint8_t { kStop, kLength, kAbort };

// One delivery to the client of a request. The last one has `finish`; there is exactly one such (S5).
struct Output {
  std::vector<GeneratedToken> tokens;          // new ones, in order
  std::vector<PromptLogprob> prompt_logprobs;  // in the first delivery, if asked for
  // Where no new token is asked for, but logprobs are: what would come next.
  std::optional<GeneratedToken> next;
  struct Finish {
    FinishReason reason = FinishReason::kStop;
    std::optional<int32_t> matched_token;  // the stop or eos token (it is in `tokens`)
    std::optional<Error> error;            // kAbort
  };
  std::optional<Finish> finish;
  int prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;  // totals so far
  int preemptions = 0;                                              // times that it lost its pages
  int dp_rank = 0;
  TtftParts ttft;            // set in the delivery of the first token
  bool handed_over = false;  // a prefill leg whose KV and first token are with decode
};
// Called from the engine's thread, in order; must not block or call the engine back synchronously.
// What it does not move away of an output is used again for the next.
using OutputSink = std::function<void(Output&&)>;

struct InstanceInfo {
  Role role = Role::kUnified;
  layout::Layout layout;
  int page_tokens = 0;
  int pages_per_group = 0;
  int64_t max_model_len = 0;     // prompt + new tokens
  int64_t max_total_tokens = 0;  // of the KV pools of all groups
  int max_running_requests = 0;
  int vocab = 0;
  std::string kv_dtype;
  std::string transfer_backend;                                  // empty for unified
  int bootstrap_port = 0;                                        // prefill: the port it listens on
  uint64_t weight_bytes = 0, kv_bytes = 0;                       // of all ranks together
  double load_weight_s = 0, kv_allocation_s = 0, startup_s = 0;  // what its start took, and that in all
};

// What steps computed since the start, and how long they took: prompts alone, new tokens alone, and both in one.
struct StepTotals {
  uint64_t prompt_tokens = 0, decode_tokens = 0;
  uint64_t cached_tokens = 0;  // of prompts, found in the prefix tree; again after a retraction
  double prompt_s = 0, decode_s = 0, mixed_s = 0;
};

// A consistent view of one moment, for /metrics, /get_load and tests.
struct EngineStats {
  int running = 0, waiting = 0;  // requests
  // Requests in SGLang's queues: prefill's bootstrap and inflight queue, decode's prealloc and transfer queue.
  int waiting_grant = 0, transferring = 0;
  double generation_tokens_per_s = 0, cache_hit_rate = 0;
  struct Pages {
    int free = 0, owned = 0, granted = 0, quarantined = 0, cached = 0;
    int sequences = 0;  // that have some of them
    int waiting = 0;    // requests that wait for some and can go to no other group
    [[nodiscard]] int used() const { return owned + granted + quarantined; }
  };
  std::vector<Pages> pages;  // one entry per DP group
  uint64_t requests_total = 0, aborted_total = 0, prompt_tokens_total = 0, generation_tokens_total = 0,
           cached_tokens_total = 0;
  uint64_t preemptions_total = 0, steps_total = 0;
  uint64_t retracted_prompt_tokens = 0, retracted_new_tokens = 0;
  int64_t running_tokens = 0;  // of sequences in the running batch, prompts included
  StepTotals steps;
  int retracted = 0;  // requests that have lost their pages and wait for others
  uint64_t bootstrap_failed_total = 0, transfer_failed_total = 0;
  struct Link {
    int source = 0, destination = 0;  // world ranks
    uint64_t bytes = 0, copies = 0;
    bool real = false;  // ever planned real
  };
  std::vector<Link> links;                            // of this instance's transfers
  std::map<std::string, uint64_t> transfer_failures;  // by reason
  uint64_t checksums = 0, checksum_mismatches = 0;    // decode: of pages that came, each rank's own
};

// Told of every duration that metrics count; called from the engine's thread, must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void on_queue_time(double /*seconds*/) {}
  virtual void on_transfer(double /*seconds*/, uint64_t /*bytes*/, uint64_t /*copies*/) {}
  virtual void on_ttft(const TtftParts&) {}
  // A step that ended with new tokens: how many, and the prompts' whose first they are.
  virtual void on_step(int64_t /*tokens*/) {}
};

// What becomes of the requests under way when generation is paused.
enum class PauseMode : uint8_t {
  kAbort,    // they end
  kInPlace,  // they stay as they are
  // They give up their pages, so that flush_cache() succeeds, and compute them anew afterwards. One that is being
  // handed over stays as it is.
  kRetract,
  // Those that compute go on to their end, the others wait; then as kRetract.
  kWait,
};

// Thread safe. Callers never wait for a step.
class Engine {
 public:
  virtual ~Engine() = default;
  // kInvalidArgument: prompt too long (numbers and flag), bad parameters, missing room; kResourceExhausted: queue full;
  // kUnavailable: shutting down. After success `sink` gets exactly one Output with `finish`.
  virtual Result<SequenceId> submit(Request request, OutputSink sink) = 0;
  // Ends the request (finish kAbort, error kCancelled) if it lives; pages return when their writers are quiet.
  virtual void abort(SequenceId request) = 0;
  // Likewise every live request of that rid or call; `done` is told how many those were, on any thread.
  virtual void abort(const std::string& name, std::function<void(size_t ended)> done) = 0;
  // Ends the request if it lives, as a stop token would have: the client has all it wants.
  virtual void stop(SequenceId request) = 0;
  virtual void abort_all() = 0;
  // Ends every live request (kAbort, kUnavailable) and takes no more.
  virtual void shut_down() = 0;
  // Drops every cached prefix; kUnavailable while requests run or wait, unless they gave up
  // their pages for a pause.
  virtual Status flush_cache() = 0;
  // No step is computed until resume(); requests are taken and wait. `done` is told when the last step is over, on any
  // thread; kUnavailable: kWait was cut short by resume() or another pause(). Pausing again is possible, with another
  // mode too.
  virtual void pause(PauseMode /*mode*/, std::function<void(Status)> done) { done({}); }
  virtual void resume(std::function<void(Status)> done) { done({}); }
  // From a pause() that was taken, kWait's from its beginning, to resume().
  [[nodiscard]] virtual bool paused() const { return false; }
  [[nodiscard]] virtual const InstanceInfo& info() const = 0;
  [[nodiscard]] virtual EngineStats stats() const = 0;
  // Decode: meets a prefill instance ahead of requests. `told`: whoever asks may say whom this instance trusts. The
  // callback says paired, or refused with both sides in words, or kForbidden; any thread.
  virtual void pair(const std::string& host, int port, bool told, std::function<void(Status)> done) = 0;
  // What `baton plan` prints for the pairs met so far; empty for unified.
  [[nodiscard]] virtual std::string describe_pairs() const = 0;
  // True while steps move or nothing waits.
  [[nodiscard]] virtual bool healthy() const = 0;
};

}  // namespace baton::engine
