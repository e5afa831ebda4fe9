// What the loop and the roles share: the scheduler and the requests that live. The engine's thread only.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/id_map.h"
#include "engine/endings.h"
#include "engine/engine.h"
#include "engine/live_request.h"
#include "engine/queue_options.h"
#include "scheduler/scheduler.h"

namespace baton::engine {

class RolePart;

struct CoreOptions {
  InstanceInfo info;
  scheduler::SchedulerOptions scheduler;
  QueueOptions queue;
  std::vector<int32_t> eos_ids;
  std::shared_ptr<const Clock> clock;  // shared: the caller of make_engine may keep it too
  EngineObserver* observer = nullptr;  // outlives the engine; may be null
  std::function<void()> on_closed;     // once for each request opened
};

class EngineCore {
 public:
  explicit EngineCore(CoreOptions options);

  // Set once, before the first request.
  void set_role(RolePart* role) { role_ = role; }
  [[nodiscard]] scheduler::Scheduler& scheduler() { return scheduler_; }
  [[nodiscard]] const scheduler::Scheduler& scheduler() const { return scheduler_; }
  // Whether the request ends with this token, its `completion_tokens`th.
  [[nodiscard]] std::optional<Output::Finish> finish_after(const LiveRequest& live, int32_t token,
                                                           int completion_tokens) const {
    return engine::finish_after(options_.eos_ids, token, completion_tokens, live.sampling());
  }
  [[nodiscard]] const InstanceInfo& info() const { return options_.info; }
  [[nodiscard]] EngineObserver* observer() const { return options_.observer; }
  [[nodiscard]] TimePoint now() const { return options_.clock->now(); }

  // ---- requests ----
  // Takes a request and hands it to the role. If the role refuses it, the client gets its last Output with the error.
  void open(SequenceId id, Request request, OutputSink sink);
  // Ends the request that is to be served last if more wait than may.
  void bound_queue();
  // A live request; null when it has ended.
  [[nodiscard]] LiveRequest* find(SequenceId sequence);
  [[nodiscard]] std::vector<SequenceId> live() const;
  [[nodiscard]] size_t live_count() const { return live_.size(); }

  // Puts the request's sequence into the scheduler.
  void add_sequence(const LiveRequest& live, scheduler::EntryMode entry, int max_new_tokens);

  // ---- answers ----
  // The next token: to the client, and into the scheduler, or the end of the request. Returns whether it ended.
  bool emit(LiveRequest& live, GeneratedToken&& token);
  // To the client only; the sequence is not touched. Returns how the request ends with this token, if it does.
  std::optional<Output::Finish> show(LiveRequest& live, GeneratedToken&& token, bool with_finish);
  // The last Output, then the request is gone. `live` dangles after.
  void close(LiveRequest& live, Output::Finish finish, bool handed_over = false);
  void fail(LiveRequest& live, Error error);

  [[nodiscard]] uint64_t generated_total() const { return generation_tokens_; }
  // The counters and what the scheduler knows.
  void fill(EngineStats* stats) const;

 private:
  [[nodiscard]] std::shared_ptr<sampling::Recipe> recipe_of(const Request& request) const;
  [[nodiscard]] int priority_of(const Request& request) const;
  // What there is to say of it but new tokens, in `delivery_`.
  Output& output_of(LiveRequest& live);

  CoreOptions options_;
  scheduler::Scheduler scheduler_;
  RolePart* role_ = nullptr;
  Output delivery_;  // at hand; its storage is used again
  IdMap<SequenceId, LiveRequest> live_;
  uint64_t requests_ = 0, aborted_ = 0, prompt_tokens_ = 0, generation_tokens_ = 0;
};

}  // namespace baton::engine
