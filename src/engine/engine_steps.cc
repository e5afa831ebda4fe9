// The steps of the loop: begun, up to as many as may be under way, and ended.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "engine/engine_loop.h"

namespace baton::engine {

bool EngineLoop::step() {
  timer_.end(&StepTimes::between);
  const int most = options_.overlap ? std::min(core_->scheduler().steps_max(), executor_->steps_max()) : 1;
  const auto steps_max = static_cast<size_t>(most);
  const size_t before = under_way_.size();
  bool moved = false;
  if (before == 0 || (before < steps_max && !waits_for_steps_)) moved = begin_step();
  const bool begun = under_way_.size() > before;
  // What is begun is waited for when no more can be begun.
  if (under_way_.size() == steps_max || (!begun && !under_way_.empty())) return end_step();
  return moved;
}

// False: no sequence got anywhere.
bool EngineLoop::begin_step() {
  const scheduler::Turn& turn = core_->scheduler().next_turn();
  waits_for_steps_ = turn.waits_for_steps;
  begin_sequences(turn);
  if (turn.plan.segments.empty()) return !turn.admitted.empty();
  StepUnderWay& step = under_way_.emplace_back();
  step.begun = core_->now();
  want_rows(turn.plan, &step);
  timer_.end(&StepTimes::plan);
  step.ticket = executor_->submit(turn.plan, wanted_);
  timer_.end(&StepTimes::execute);
  step.plan = &turn.plan;
  return true;
}

bool EngineLoop::end_step() {
  const StepUnderWay step = std::move(under_way_.front());
  under_way_.pop_front();
  Result<model::StepOutput*> output = executor_->collect(step.ticket);
  timer_.end(&StepTimes::execute);
  if (!output) {
    log_error("a step failed, the instance ends its requests: {}", output.error().message);
    failed_ = true;
    under_way_.clear();
    core_->scheduler().abandon_steps();
    role_->machine_failed(output.error().message);
    fail_all(error(ErrorCode::kUnavailable, "the model could not be run: {}", output.error().message));
    return false;
  }
  ++steps_;
  count_step(step);
  log_decode(*step.plan);
  core_->scheduler().complete(*step.plan);
  take_result(step, **output);
  timer_.end(&StepTimes::take);
  timer_.end_step();
  return true;
}

void EngineLoop::drain_steps() {
  while (!under_way_.empty() && end_step()) {
  }
}

void EngineLoop::log_decode(const kv::StepPlan& plan) {
  if (options_.decode_log_interval == 0 || plan.segments.empty()) return;
  const LiveRequest* first = core_->find(plan.segments.front().sequence);
  if (first == nullptr || first->completion_tokens == 0) return;  // a prompt; mixed steps end with them
  if (++decode_steps_ % static_cast<uint64_t>(options_.decode_log_interval) != 0) return;
  const EngineStats now = make_stats();
  int64_t used = 0;
  for (const EngineStats::Pages& pages : now.pages) used += pages.used();
  used *= options_.info.page_tokens;
  log_info(
      "Decode batch. #running-req: {}, #token: {}, token usage: {:.2f}, gen throughput (token/s): {:.2f}, "
      "#queue-req: {}",
      now.running, used,
      static_cast<double>(used) / static_cast<double>(std::max<int64_t>(1, options_.info.max_total_tokens)),
      now.generation_tokens_per_s, now.waiting);
}

// The time of a step is that from its beginning, or from the end of the one before it, to its own end.
void EngineLoop::count_step(const StepUnderWay& step) {
  const TimePoint now = core_->now(), begun = std::max(step.begun, last_end_);
  last_end_ = now;
  totals_.prompt_tokens += step.prompt_tokens;
  totals_.decode_tokens += step.decode_tokens;
  double& seconds = step.prompt_tokens == 0   ? totals_.decode_s
                    : step.decode_tokens == 0 ? totals_.prompt_s
                                              : totals_.mixed_s;
  seconds += to_seconds(now - begun);
}

void EngineLoop::begin_sequences(const scheduler::Turn& turn) {
  const TimePoint now = core_->now();
  for (const SequenceId id : turn.admitted) {
    LiveRequest& live = *core_->find(id);
    const scheduler::Sequence& sequence = core_->scheduler().sequence(id);
    live.dp_rank = sequence.group;
    if (sequence.state == scheduler::SequenceState::kComputing)
      totals_.cached_tokens += static_cast<uint64_t>(sequence.cached);
    if (!live.admitted) live.cached_tokens = static_cast<int>(sequence.first_cached);
    if (!live.admitted && options_.observer != nullptr)
      options_.observer->on_queue_time(to_seconds(now - live.computable));
    live.admitted = true;
    live.retracted = false;
    role_->admitted(live);
  }
  for (const SequenceId id : turn.retracted) {
    LiveRequest& live = *core_->find(id);
    live.retracted = true;
    ++live.preemptions;
  }
}

// A step under way has a segment of it.
void EngineLoop::note_begun(LiveRequest& live, TimePoint now) {
  if (live.stepped) return;
  live.stepped = true;
  live.first_step = now;
  if (live.ttft.prefill_queue_ms < 0 && live.completion_tokens == 0)
    live.ttft.prefill_queue_ms = to_ms(now - live.computable);
}

// What each segment's rows of logits are to be made into.
void EngineLoop::want_rows(const kv::StepPlan& plan, StepUnderWay* step) {
  wanted_.clear();
  for (const kv::Segment& segment : plan.segments) {
    sampling::RowsWanted& rows = wanted_.emplace_back();
    LiveRequest& live = *core_->find(segment.sequence);
    note_begun(live, step->begun);
    const auto end = segment.begin + static_cast<int64_t>(segment.tokens.size());
    if (rates_prompt(live, segment)) {
      // The last row of the prompt's end rates none of it.
      const int64_t first = end - segment.logits_rows + 1, prompt = live.prompt_tokens();
      rows.rated = std::span(live.request.prompt).subspan(static_cast<size_t>(first));
      rows.rated = rows.rated.first(static_cast<size_t>(std::min<int64_t>(segment.logits_rows, prompt - first)));
      rows.recipe = live.recipe;
    }
    const scheduler::Sequence& sequence = core_->scheduler().sequence(segment.sequence);
    const bool decodes = segment.drawn_by >= 0 || sequence.state == scheduler::SequenceState::kRunning;
    (decodes ? step->decode_tokens : step->prompt_tokens) += segment.tokens.size();
    step->ends.push_back(end == sequence.size());
    if (!step->ends.back() || !draws(live)) continue;
    rows.draw = true;
    rows.index = live.completion_tokens + (segment.drawn_by >= 0 ? 1 : 0);
    rows.recipe = live.recipe;
  }
}

// Whether the segment's rows say how probable tokens of the prompt were. Those of what is computed again do not.
bool EngineLoop::rates_prompt(const LiveRequest& live, const kv::Segment& segment) const {
  const auto end = segment.begin + static_cast<int64_t>(segment.tokens.size());
  return live.request.prompt_logprob_start >= 0 && live.completion_tokens == 0 && segment.logits_rows > 0 &&
         options_.info.role != Role::kDecode && end - segment.logits_rows < live.prompt_tokens();
}

bool EngineLoop::wants_no_token(const LiveRequest& live) const {
  return live.sampling().max_new_tokens == 0 && options_.info.role == Role::kUnified;
}

// Whether a token is drawn when all that it has is computed.
bool EngineLoop::draws(const LiveRequest& live) const {
  // What stands for KV there is nobody's; see DecodeRole.
  if (options_.info.role == Role::kDecode && live.request.disaggregation->fake) return false;
  return !wants_no_token(live) || live.request.logprobs >= 0;
}

void EngineLoop::take_result(const StepUnderWay& step, model::StepOutput& output) {
  for (size_t i = 0; i < step.plan->segments.size(); ++i) {
    const kv::Segment& segment = step.plan->segments[i];
    LiveRequest* live = core_->find(segment.sequence);
    if (live == nullptr) continue;  // it has ended since the step began
    const auto end = segment.begin + static_cast<int64_t>(segment.tokens.size());
    const auto rows = std::span(output.answers).subspan(output.first_row[i], static_cast<size_t>(segment.logits_rows));
    role_->computed(*live, end);
    if (!take_prompt_logprobs(*live, segment, rows)) continue;
    if (step.ends[i]) take_token(*live, &rows.back());
  }
  const int64_t fresh = std::exchange(step_tokens_, 0);
  if (fresh > 0 && options_.observer != nullptr) options_.observer->on_step(fresh);
}

// False: the logits were unsound and the request has ended.
bool EngineLoop::take_prompt_logprobs(LiveRequest& live, const kv::Segment& segment,
                                      std::span<sampling::RowAnswer> rows) {
  if (!rates_prompt(live, segment)) return true;
  const int64_t start = live.request.prompt_logprob_start, prompt = live.prompt_tokens();
  live.prompt_logprobs.resize(static_cast<size_t>(prompt - start));
  if (start == 0) live.prompt_logprobs[0].token = live.request.prompt[0];
  const int64_t end = segment.begin + static_cast<int64_t>(segment.tokens.size());
  for (int r = 0; r < segment.logits_rows; ++r) {
    const int64_t position = end - segment.logits_rows + r + 1;
    if (position < start || position >= prompt) continue;
    sampling::RowAnswer& row = rows[static_cast<size_t>(r)];
    if (row.error) {
      core_->fail(live, *row.error);
      return false;
    }
    live.prompt_logprobs[static_cast<size_t>(position - start)] = {
        row.token.id, row.token.logprob, std::move(row.token.top), std::move(row.token.listed)};
  }
  return true;
}

// All that the request has is computed, and `drawn` comes next.
void EngineLoop::take_token(LiveRequest& live, sampling::RowAnswer* drawn) {
  if (options_.info.role == Role::kDecode && live.request.disaggregation->fake) return role_->sampled(live, {});
  if (!draws(live)) {
    finish(live, FinishReason::kLength);
    return;
  }
  if (drawn->error) {
    core_->fail(live, *drawn->error);
    return;
  }
  if (wants_no_token(live)) {
    live.next = std::move(drawn->token);
    finish(live, FinishReason::kLength);
    return;
  }
  step_tokens_ += 1 + (live.completion_tokens == 0 ? live.prompt_tokens() : 0);
  if (live.completion_tokens == 0) live.ttft.prefill_ms = to_ms(core_->now() - live.first_step);
  role_->sampled(live, std::move(drawn->token));
}

}  // namespace baton::engine
