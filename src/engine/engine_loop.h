// The engine's one thread: takes requests, plans and runs steps, answers. The only implementation of Engine.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "base/queue.h"
#include "engine/engine.h"
#include "engine/engine_core.h"
#include "engine/role_part.h"
#include "engine/step_times.h"
#include "engine/token_rate.h"
#include "model/executor.h"

namespace baton::engine {

struct EngineLoopOptions {
  InstanceInfo info;
  scheduler::SchedulerOptions scheduler;  // its order of the queue is taken from `queue`
  QueueOptions queue;
  bool overlap = true;          // the next step is planned and begun while one is under way
  int decode_log_interval = 0;  // a line after so many steps that generate; 0: none
  std::vector<int32_t> eos_ids;
  size_t requests_max = 8192;  // live at once; more are refused
  // healthy() is false after so long without progress while requests wait.
  Duration watchdog_timeout = std::chrono::seconds(300);
  std::shared_ptr<const Clock> clock = std::make_shared<SteadyClock>();
  EngineObserver* observer = nullptr;
  std::shared_ptr<void> foundations;  // what the executor and the role stand on; let go last
};

// Makes the role over the core; `wake` may be called by any thread and makes the loop poll() soon. Called once, before
// the thread starts.
using RoleFactory = std::function<Result<std::unique_ptr<RolePart>>(EngineCore& core, std::function<void()> wake)>;

class EngineLoop final : public Engine {
 public:
  static Result<std::unique_ptr<EngineLoop>> start(EngineLoopOptions options, std::unique_ptr<model::Executor> executor,
                                                   const RoleFactory& role);
  // Ends every live request (kAbort, kUnavailable), then the role, then the executor.
  ~EngineLoop() override;

  Result<SequenceId> submit(Request request, OutputSink sink) override;
  void abort(SequenceId request) override;
  void abort(const std::string& name, std::function<void(size_t ended)> done) override;
  void stop(SequenceId request) override;
  void abort_all() override;
  void shut_down() override;
  Status flush_cache() override;
  void pause(PauseMode mode, std::function<void(Status)> done) override;
  void resume(std::function<void(Status)> done) override;
  [[nodiscard]] bool paused() const override { return pausing_; }
  [[nodiscard]] const InstanceInfo& info() const override { return info_; }
  [[nodiscard]] EngineStats stats() const override;
  void pair(const std::string& host, int port, bool told, std::function<void(Status)> done) override;
  [[nodiscard]] std::string describe_pairs() const override;
  [[nodiscard]] bool healthy() const override;
  // On the engine's thread: its sinks, its executor.
  [[nodiscard]] const StepTimes& step_times() const { return timer_.times(); }

 private:
  struct Submit {
    SequenceId id;
    Request request;
    OutputSink sink;
  };
  struct Abort {
    SequenceId id;
  };
  struct AbortNamed {
    std::string name;
    std::function<void(size_t ended)> done;
  };
  struct AbortAll {};
  struct ShutDown {};
  struct Stop {
    SequenceId id;
  };
  struct Flush {};
  struct Pause {
    PauseMode mode;
    std::function<void(Status)> done;
  };
  struct Resume {
    std::function<void(Status)> done;
  };
  struct Pair {
    std::string host;
    int port;
    bool told;
    std::function<void(Status)> done;
  };
  // Between submission and collection.
  struct StepUnderWay {
    model::Ticket ticket = 0;
    const kv::StepPlan* plan = nullptr;  // the scheduler's; what it borrows is gone
    std::vector<bool> ends;  // of each segment: it is the last of what its sequence had, and a token comes next
    TimePoint begun{};
    uint64_t prompt_tokens = 0, decode_tokens = 0;
  };
  using Command = std::variant<Submit, Abort, AbortNamed, AbortAll, ShutDown, Stop, Flush, Pause, Resume, Pair>;

  EngineLoop(EngineLoopOptions options, std::unique_ptr<model::Executor> executor);
  [[nodiscard]] Status check(Request* request) const;
  void run();
  void handle(Command command);
  // One turn: plans and begins the next step if one more may be under way, then takes what the oldest one gave if none
  // more may be. False: nothing could be done.
  bool step();
  bool begin_step();
  // The oldest step under way. False: it failed.
  bool end_step();
  // Every step under way.
  void drain_steps();
  void pause(Pause command);
  void end_steps(PauseMode mode);
  void end_wait(const Status& result);
  void log_decode(const kv::StepPlan& plan);
  void begin_sequences(const scheduler::Turn& turn);
  static void note_begun(LiveRequest& live, TimePoint now);
  void want_rows(const kv::StepPlan& plan, StepUnderWay* step);
  void count_step(const StepUnderWay& step);
  [[nodiscard]] bool rates_prompt(const LiveRequest& live, const kv::Segment& segment) const;
  [[nodiscard]] bool wants_no_token(const LiveRequest& live) const;
  [[nodiscard]] bool draws(const LiveRequest& live) const;
  void take_result(const StepUnderWay& step, model::StepOutput& output);
  bool take_prompt_logprobs(LiveRequest& live, const kv::Segment& segment, std::span<sampling::RowAnswer> rows);
  void take_token(LiveRequest& live, sampling::RowAnswer* drawn);
  void abort(LiveRequest& live);
  void finish(LiveRequest& live, FinishReason reason);
  void fail_all(const Error& failure);
  [[nodiscard]] EngineStats make_stats();
  void publish();
  [[nodiscard]] bool publishing_is_due(bool worked);
  void note_progress();

  const EngineLoopOptions options_;
  InstanceInfo info_;
  std::unique_ptr<model::Executor> executor_;
  BoundedQueue<Command> inbound_;
  std::unique_ptr<EngineCore> core_;
  std::unique_ptr<RolePart> role_;  // after the core, whose pages it may hold
  TokenRate rate_;
  StepTimer timer_;
  uint64_t steps_ = 0;
  uint64_t decode_steps_ = 0;
  StepTotals totals_;
  TimePoint last_end_{};                      // of a step
  bool paused_ = false;                       // no step is computed
  std::function<void(Status)> wait_ended_{};  // of a pause that waits for what computes
  std::deque<StepUnderWay> under_way_;
  bool waits_for_steps_ = false;              // as Turn has it
  std::vector<sampling::RowsWanted> wanted_;  // of the step that is planned
  int64_t step_tokens_ = 0;                   // of the step at hand, as on_step() has them

  std::atomic<bool> stopping_{false};   // the thread ends
  std::atomic<bool> shut_down_{false};  // nothing more is taken
  std::atomic<bool> failed_{false};
  std::atomic<bool> pausing_{false};         // paused, or about to be
  std::atomic<bool> pages_given_up_{false};  // paused, and only what is being handed over has pages
  std::atomic<int64_t> progress_ns_{0};      // of the clock, when work moved last
  std::atomic<bool> busy_{false};            // something waits or runs
  mutable std::atomic<bool> asked_{false};   // for what is published, since it was
  bool came_or_went_ = false;                // a command or the end of a request, since then
  TimePoint published_{};
  mutable std::mutex mutex_;  // of the four below
  size_t open_ = 0;           // requests submitted and not ended
  uint64_t submitted_ = 0;
  EngineStats stats_;
  std::string pairs_;
  std::thread thread_;
};

}  // namespace baton::engine
