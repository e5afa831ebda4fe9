#include "engine/engine_loop.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/thread.h"

namespace baton::engine {
namespace {

// How long the loop sleeps when nothing can be computed; deadlines of roles are checked as often.
constexpr Duration kIdleWait = std::chrono::milliseconds(100);
// Of what the engine publishes while it computes and nobody asks.
constexpr Duration kPublishInterval = std::chrono::milliseconds(10);

Error rank_failed() { return error(ErrorCode::kUnavailable, "a rank of this instance failed; restart it"); }
Error shutting_down() { return error(ErrorCode::kUnavailable, "the instance is shutting down"); }

}  // namespace

EngineLoop::EngineLoop(EngineLoopOptions options, std::unique_ptr<model::Executor> executor)
    : options_(std::move(options)),
      info_(options_.info),
      executor_(std::move(executor)),
      inbound_(4 * options_.requests_max + 64) {  // requests, and an abort or two of each
  CoreOptions core{
      options_.info, options_.scheduler, options_.queue, options_.eos_ids, options_.clock, options_.observer, {}};
  core.scheduler.policy = options_.queue.policy;
  core.scheduler.pp = options_.overlap ? executor_->stages_at_once() : 1;
  core.scheduler.priorities = options_.queue.priorities;
  core.scheduler.preemption_threshold = options_.queue.preemption_threshold;
  core.on_closed = [this] {
    note_progress();
    came_or_went_ = true;
    std::lock_guard lock(mutex_);
    --open_;
  };
  core_ = std::make_unique<EngineCore>(std::move(core));
}

Result<std::unique_ptr<EngineLoop>> EngineLoop::start(EngineLoopOptions options,
                                                      std::unique_ptr<model::Executor> executor,
                                                      const RoleFactory& role) {
  std::unique_ptr<EngineLoop> loop(new EngineLoop(std::move(options), std::move(executor)));
  BATON_ASSIGN(loop->role_, role(*loop->core_, [queue = &loop->inbound_] { queue->wake(); }));
  loop->core_->set_role(loop->role_.get());
  loop->info_.bootstrap_port = loop->role_->listening_port();
  loop->note_progress();
  loop->publish();
  loop->thread_ = std::thread([raw = loop.get()] { raw->run(); });
  return loop;
}

EngineLoop::~EngineLoop() {
  stopping_ = true;
  inbound_.close();
  if (thread_.joinable()) thread_.join();
  role_.reset();
}

// ---- any thread ----

Status EngineLoop::check(Request* request) const {
  const InstanceInfo& info = options_.info;
  const auto prompt = static_cast<int64_t>(request->prompt.size());
  if (prompt == 0) return error(ErrorCode::kInvalidArgument, "the prompt has no tokens");
  if (prompt >= info.max_model_len) {
    const int64_t pool = int64_t{info.pages_per_group} * info.page_tokens;
    if (info.max_model_len >= pool) {
      return error(
          ErrorCode::kInvalidArgument,
          "the prompt needs KV for {} tokens and one more; {} are available in a DP group: raise --max-total-tokens or "
          "--mem-fraction-static",
          prompt, pool);
    }
    return error(
        ErrorCode::kInvalidArgument,
        "the prompt has {} tokens; the context holds {}, one of them new: shorten it, or raise --context-length",
        prompt, info.max_model_len);
  }
  for (const int32_t token : request->prompt) {
    if (token < 0 || token >= info.vocab) {
      return error(ErrorCode::kInvalidArgument, "the prompt has token {}; the vocabulary has {} tokens", token,
                   info.vocab);
    }
  }
  BATON_TRY(validate(request->sampling, info.vocab));
  if (request->priority && options_.queue.refuse_priorities && !options_.queue.priorities) {
    return error(ErrorCode::kUnavailable,
                 "Using priority is disabled for this server. Please send a new request without a priority.");
  }
  if (request->dp_rank && (*request->dp_rank < 0 || *request->dp_rank >= info.layout.dp)) {
    return error(ErrorCode::kInvalidArgument, "routed_dp_rank: {} is not in [0, {}], the DP ranks of this instance",
                 *request->dp_rank, info.layout.dp - 1);
  }
  if (request->logprobs > info.vocab) {
    return error(ErrorCode::kInvalidArgument, "logprobs: {} is not in [0, {}], the tokens of the vocabulary",
                 request->logprobs, info.vocab);
  }
  for (const int32_t token : request->token_ids_logprob) {
    if (token < 0 || token >= info.vocab) {
      return error(ErrorCode::kInvalidArgument, "token_ids_logprob: {} is not in [0, {}], the tokens of the vocabulary",
                   token, info.vocab - 1);
    }
  }
  if (request->prompt_logprob_start >= prompt) {
    return error(ErrorCode::kInvalidArgument,
                 "logprob_start_len: {} is higher than the number of input tokens, {}: give one in [-1, {}]",
                 request->prompt_logprob_start, prompt, prompt - 1);
  }
  const auto& peer = request->disaggregation;
  if (info.role != Role::kUnified && (!peer || (!peer->fake && peer->room.value() == 0))) {
    return error(
        ErrorCode::kInvalidArgument,
        "Disaggregated request received without bootstrap room id: this is a {} instance, send it through a router",
        role_name(info.role));
  }
  const int64_t room = info.max_model_len - prompt;
  request->sampling.max_new_tokens = static_cast<int>(std::min<int64_t>(request->sampling.max_new_tokens, room));
  return {};
}

Result<SequenceId> EngineLoop::submit(Request request, OutputSink sink) {
  BATON_TRY(check(&request));
  if (stopping_ || shut_down_) return shutting_down();
  if (failed_) return rank_failed();
  if (request.arrival == TimePoint{}) request.arrival = options_.clock->now();  // the engine may be in a long step
  // One lock over the id and its place in the queue: the scheduler takes ids in rising order.
  std::lock_guard lock(mutex_);
  if (open_ >= options_.requests_max) {
    return error(ErrorCode::kResourceExhausted,
                 "{} requests are waiting or running, the most this instance takes; retry later", open_);
  }
  const SequenceId id(submitted_ + 1);
  if (!inbound_.try_push(Submit{id, std::move(request), std::move(sink)})) {
    if (stopping_) return shutting_down();
    return error(ErrorCode::kResourceExhausted, "the instance's queue is full; retry later");
  }
  if (open_ == 0) note_progress();  // the wait begins now, however long nothing was asked for
  ++submitted_;
  ++open_;
  busy_ = true;
  return id;
}

void EngineLoop::abort(SequenceId request) { inbound_.push_always(Abort{request}); }
void EngineLoop::abort(const std::string& name, std::function<void(size_t ended)> done) {
  if (!inbound_.push_always(AbortNamed{name, done})) done(0);
}
void EngineLoop::stop(SequenceId request) { inbound_.push_always(Stop{request}); }
void EngineLoop::abort_all() { inbound_.push_always(AbortAll{}); }
void EngineLoop::shut_down() {
  shut_down_ = true;
  inbound_.push_always(ShutDown{});
}

Status EngineLoop::flush_cache() {
  {
    std::lock_guard lock(mutex_);
    if (open_ > 0 && !pages_given_up_)
      return error(ErrorCode::kUnavailable, "{} requests are waiting or running; flush when there are none", open_);
  }
  if (!inbound_.push_always(Flush{})) return shutting_down();
  return {};
}

void EngineLoop::pause(PauseMode mode, std::function<void(Status)> done) {
  if (!inbound_.push_always(Pause{mode, done})) done(shutting_down());
}
void EngineLoop::resume(std::function<void(Status)> done) {
  if (!inbound_.push_always(Resume{done})) done(shutting_down());
}

void EngineLoop::pair(const std::string& host, int port, bool told, std::function<void(Status)> done) {
  if (inbound_.push_always(Pair{host, port, told, done})) return;
  done(shutting_down());
}

EngineStats EngineLoop::stats() const {
  asked_ = true;
  std::lock_guard lock(mutex_);
  return stats_;
}

std::string EngineLoop::describe_pairs() const {
  asked_ = true;
  std::lock_guard lock(mutex_);
  return pairs_;
}

bool EngineLoop::healthy() const {
  if (failed_) return false;
  const int64_t now = options_.clock->now().time_since_epoch().count();
  return !busy_ || now - progress_ns_ < options_.watchdog_timeout.count();
}

// ---- the engine's thread ----

void EngineLoop::run() {
  name_thread("baton-engine");
  bool worked = false;
  while (!stopping_) {
    auto commands = worked || !under_way_.empty() ? inbound_.drain() : inbound_.wait_drain(kIdleWait);
    came_or_went_ |= !commands.empty();
    for (Command& command : commands) handle(std::move(command));
    role_->poll(core_->now());
    worked = !failed_ && !paused_ && step();
    if (wait_ended_) {
      const scheduler::SchedulerCounts counts = core_->scheduler().counts();
      if (counts.computing + counts.running == 0) {
        end_steps(PauseMode::kWait);
        end_wait({});
      }
    }
    if (worked || paused_) note_progress();  // more requests are no progress: none of them may ever end
    if (publishing_is_due(worked)) publish();
  }
  for (Command& command : inbound_.drain()) handle(std::move(command));
  end_wait(shutting_down());
  fail_all(shutting_down());
}

void EngineLoop::handle(Command command) {
  if (auto* submit = std::get_if<Submit>(&command)) {
    const SequenceId id = submit->id;
    core_->open(id, std::move(submit->request), std::move(submit->sink));
    // It was queued while the step ran that failed, or beside the end of all: no other will end it.
    if (LiveRequest* live = failed_ || shut_down_ ? core_->find(id) : nullptr)
      core_->fail(*live, failed_ ? rank_failed() : shutting_down());
    core_->bound_queue();
  } else if (auto* abort = std::get_if<Abort>(&command)) {
    if (LiveRequest* live = core_->find(abort->id)) this->abort(*live);
  } else if (auto* named = std::get_if<AbortNamed>(&command)) {
    size_t ended = 0;
    for (const SequenceId id : core_->live()) {
      LiveRequest* live = core_->find(id);
      if (live == nullptr || (live->request.rid != named->name && live->request.call != named->name)) continue;
      this->abort(*live);
      ++ended;
    }
    named->done(ended);
  } else if (auto* stop = std::get_if<Stop>(&command)) {
    if (LiveRequest* live = core_->find(stop->id)) finish(*live, FinishReason::kStop);
  } else if (std::holds_alternative<AbortAll>(command)) {
    fail_all(error(ErrorCode::kCancelled, "all requests were aborted"));
  } else if (std::holds_alternative<ShutDown>(command)) {
    fail_all(shutting_down());
  } else if (std::holds_alternative<Flush>(command)) {
    core_->scheduler().flush_cache();
  } else if (auto* pause = std::get_if<Pause>(&command)) {
    this->pause(std::move(*pause));
  } else if (auto* resume = std::get_if<Resume>(&command)) {
    end_wait(error(ErrorCode::kUnavailable, "generation went on before what ran had ended"));
    paused_ = pausing_ = pages_given_up_ = false;
    resume->done({});
  } else if (auto* pair = std::get_if<Pair>(&command)) {
    role_->pair(pair->host, pair->port, pair->told, std::move(pair->done));
  }
}

void EngineLoop::pause(Pause command) {
  pausing_ = true;
  end_wait(error(ErrorCode::kUnavailable, "another pause came before what ran had ended"));
  if (command.mode == PauseMode::kWait) {
    core_->scheduler().hold_admissions(true);
    wait_ended_ = std::move(command.done);
    return;
  }
  end_steps(command.mode);
  command.done({});
}

// Of a pause that waits for what computes, if there is one.
void EngineLoop::end_wait(const Status& result) {
  core_->scheduler().hold_admissions(false);
  if (const auto done = std::exchange(wait_ended_, nullptr)) done(result);
}

void EngineLoop::end_steps(PauseMode mode) {
  paused_ = true;
  drain_steps();
  if (mode == PauseMode::kAbort)
    fail_all(error(ErrorCode::kCancelled, "generation is paused, all requests were aborted"));
  if (mode == PauseMode::kInPlace) return;
  core_->scheduler().retract_all();
  pages_given_up_ = true;
}

void EngineLoop::abort(LiveRequest& live) {
  core_->fail(live, error(ErrorCode::kCancelled, "request {} was aborted", live.request.rid));
}

void EngineLoop::finish(LiveRequest& live, FinishReason reason) {
  role_->release(live, "");
  core_->close(live, {reason, std::nullopt, std::nullopt});
}

void EngineLoop::fail_all(const Error& failure) {
  for (const SequenceId id : core_->live()) {
    if (LiveRequest* live = core_->find(id)) core_->fail(*live, failure);
  }
}

void EngineLoop::note_progress() { progress_ns_ = options_.clock->now().time_since_epoch().count(); }

EngineStats EngineLoop::make_stats() {
  EngineStats stats;
  core_->fill(&stats);
  stats.steps_total = steps_;
  stats.steps = totals_;
  const TimePoint now = core_->now();
  rate_.note(now, stats.generation_tokens_total);
  stats.generation_tokens_per_s = rate_.per_second(now, stats.generation_tokens_total);
  role_->fill(&stats);
  return stats;
}

// Not in every step: it looks at all requests. What is published is a step old at the most wherever nothing is computed
// and after a request came or ended, else 10 ms; and who asks twice gets what is newer than the first time.
bool EngineLoop::publishing_is_due(bool worked) {
  return !worked || came_or_went_ || asked_ || core_->now() - published_ >= kPublishInterval;
}

void EngineLoop::publish() {
  asked_ = came_or_went_ = false;
  published_ = core_->now();
  EngineStats stats = make_stats();
  std::string pairs = role_->describe_pairs();
  std::lock_guard lock(mutex_);
  busy_ = open_ > 0;
  stats_ = std::move(stats);
  pairs_ = std::move(pairs);
}

}  // namespace baton::engine
