#include "engine/prefill_role.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "engine/handoff_logprobs.h"
#include "engine/handoff_stats.h"

namespace baton::engine {

PrefillRole::PrefillRole(EngineCore& core, std::function<void()> wake, Duration attempt_timeout)
    : core_(core),
      attempt_timeout_(attempt_timeout),
      inbox_(std::make_shared<EventInbox<handoff::PrefillEvent>>(std::move(wake))) {}

Result<std::unique_ptr<RolePart>> PrefillRole::start(EngineCore& core, std::function<void()> wake,
                                                     handoff::PrefillHandoffOptions options, wire::Manifest self,
                                                     transport::Transport& transport, std::vector<handoff::Pool> pools,
                                                     Duration attempt_timeout) {
  std::unique_ptr<PrefillRole> role(new PrefillRole(core, std::move(wake), attempt_timeout));
  BATON_ASSIGN(role->handoff_,
               handoff::PrefillHandoff::start(
                   std::move(options), std::move(self), transport, std::move(pools),
                   [inbox = role->inbox_](handoff::PrefillEvent event) { inbox->put(std::move(event)); }));
  return std::unique_ptr<RolePart>(std::move(role));
}

// The service first: it reads the pages that attempts_ pins.
PrefillRole::~PrefillRole() { handoff_.reset(); }

Status PrefillRole::accept(LiveRequest& live) {
  // One token is sampled here; the KV of the rest is decode's.
  if (live.request.disaggregation->fake) {
    core_.add_sequence(live, scheduler::EntryMode::kCompute, 1);
    return {};
  }
  const AttemptId room = live.request.disaggregation->room;
  if (attempts_.contains(room))
    return error(ErrorCode::kInvalidArgument, "bootstrap_room {} is in use by a live request", room);
  core_.add_sequence(live, scheduler::EntryMode::kHeld, 1);
  const int group = core_.scheduler().sequence(live.sequence).group;
  live.dp_rank = group;
  if (Status begun = handoff_->begin(room, group, live.prompt_tokens(), core_.now() + attempt_timeout_); !begun) {
    core_.scheduler().finish(live.sequence);
    return begun;
  }
  attempts_[room].sequence = live.sequence;
  return {};
}

void PrefillRole::poll(TimePoint) {
  for (handoff::PrefillEvent& event : inbox_->take()) {
    if (const auto* granted = std::get_if<handoff::PrefillGranted>(&event)) on_granted(*granted);
    if (const auto* ended = std::get_if<handoff::PrefillEnded>(&event)) on_ended(*ended);
  }
}

void PrefillRole::on_granted(const handoff::PrefillGranted& event) {
  const auto found = attempts_.find(event.attempt);
  if (found == attempts_.end() || !found->second.in_scheduler) return;  // the client left meanwhile; Ended follows
  found->second.granted = true;
  core_.scheduler().release(found->second.sequence);
  LiveRequest& live = *core_.find(found->second.sequence);
  live.computable = std::max(live.submitted, event.came);
  live.ttft.grant_ms = to_ms(event.waited);
}

void PrefillRole::computed(LiveRequest& live, int64_t end) {
  if (live.request.disaggregation->fake) return;
  const AttemptId room = live.request.disaggregation->room;
  Attempt& attempt = attempts_.at(room);
  const scheduler::Sequence& sequence = core_.scheduler().sequence(live.sequence);
  const int64_t page_tokens = core_.info().page_tokens;
  const auto pages = static_cast<size_t>((end + page_tokens - 1) / page_tokens);
  std::vector<PageId> fresh;
  for (; attempt.pages_told < pages; ++attempt.pages_told) fresh.push_back(sequence.pages[attempt.pages_told].page());
  handoff_->computed(room, end, std::move(fresh));
}

void PrefillRole::sampled(LiveRequest& live, GeneratedToken token) {
  const bool ends = core_.finish_after(live, token.id, 1).has_value();
  if (live.request.disaggregation->fake) {
    core_.scheduler().finish(live.sequence);
    core_.close(live, {FinishReason::kLength, std::nullopt, std::nullopt}, true);
    return;
  }
  handoff::PrefillResult result;
  result.first = first_token_of(std::move(token), ends);
  // They go to decode, whose answer is the client's; this leg's has none, so that nobody counts them twice.
  result.prompt = rows_of(std::exchange(live.prompt_logprobs, {}));
  result.cached_tokens = live.cached_tokens;
  result.durations.prefill_queue = live.first_step - live.computable;
  result.durations.prefill = core_.now() - live.first_step;
  const AttemptId room = live.request.disaggregation->room;
  take_pages(&attempts_.at(room));
  handoff_->finish(room, std::move(result));
}

// Out of the scheduler, and pinned until Ended.
void PrefillRole::take_pages(Attempt* attempt) {
  if (!attempt->in_scheduler) return;
  attempt->in_scheduler = false;
  attempt->pinned = core_.scheduler().finish(attempt->sequence);
}

void PrefillRole::release(LiveRequest& live, const std::string& why) {
  if (live.request.disaggregation->fake) {
    core_.scheduler().finish(live.sequence);
    return;
  }
  const AttemptId room = live.request.disaggregation->room;
  const auto found = attempts_.find(room);
  if (found == attempts_.end()) return;  // it ended; on_ended() closes the request
  take_pages(&found->second);
  handoff_->cancel(room, why);
}

void PrefillRole::on_ended(const handoff::PrefillEnded& event) {
  const auto found = attempts_.find(event.attempt);
  if (found == attempts_.end()) return;
  Attempt attempt = std::move(found->second);
  take_pages(&attempt);
  attempts_.erase(found);
  const bool committed = event.outcome == handoff::AttemptOutcome::kCommitted;
  if (event.outcome == handoff::AttemptOutcome::kFailed) ++(attempt.granted ? transfer_failed_ : bootstrap_failed_);
  if (!event.quiet) {
    log_warning("attempt {} ended with transfers that may still read: {} pages stay pinned", event.attempt,
                attempt.pinned.size());
    std::move(attempt.pinned.begin(), attempt.pinned.end(), std::back_inserter(pinned_for_good_));
  }
  if (committed && core_.observer() != nullptr) core_.observer()->on_transfer(event.seconds, event.bytes, event.copies);
  LiveRequest* live = core_.find(attempt.sequence);
  if (live == nullptr) return;
  if (committed) {
    live->ttft.transfer_ms = event.seconds * 1e3;
    core_.close(*live, {FinishReason::kLength, std::nullopt, std::nullopt}, true);
    return;
  }
  const ErrorCode code =
      event.outcome == handoff::AttemptOutcome::kCancelled ? ErrorCode::kCancelled : ErrorCode::kUnavailable;
  core_.close(*live,
              {FinishReason::kAbort, std::nullopt, error(code, "the KV was not handed over: {}", event.message)});
}

void PrefillRole::machine_failed(const std::string& why) {
  for (const auto& [room, attempt] : attempts_) handoff_->cancel(room, why, true);
}

void PrefillRole::pair(const std::string& host, int port, bool, std::function<void(Status)> done) {
  done(error(ErrorCode::kInvalidArgument,
             "a prefill instance is met by decode instances and meets no one itself; {}:{} was asked for", host, port));
}

void PrefillRole::fill(EngineStats* stats) const {
  stats->waiting_grant = 0;
  stats->transferring = 0;
  for (const auto& [room, attempt] : attempts_) {
    stats->waiting_grant += attempt.in_scheduler && !attempt.granted;
    stats->transferring += !attempt.in_scheduler;
  }
  stats->waiting -= stats->waiting_grant;  // counted by the scheduler as held
  stats->bootstrap_failed_total = bootstrap_failed_;
  stats->transfer_failed_total = transfer_failed_;
  fill_from_handoff(handoff_->stats(), stats);
}

std::string PrefillRole::describe_pairs() const {
  const handoff::HandoffStats stats = handoff_->stats();
  return fmt::format("{} decode instances are paired; {} refused so far\n", stats.peers, stats.refusals);
}

}  // namespace baton::engine
