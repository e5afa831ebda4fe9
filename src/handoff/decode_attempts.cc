// The part of the decode service that concerns one attempt: commands, grants, verification and what the machine wants
// done.
#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/random.h"
#include "handoff/decode_service.h"

namespace baton::handoff {
namespace {

// No more is kept than was asked for.
Status check_rows(const DecodeRequest& request, size_t before, const wire::PromptLogprobs& part) {
  const size_t after = before + part.rows.size();
  if (part.begin != before || after > static_cast<size_t>(request.prompt_rows))
    return error(ErrorCode::kCorrupt,
                 "prefill sends the logprobs of {} prompt tokens after {}, {} are expected: send both legs the same "
                 "request",
                 part.rows.size(), part.begin, request.prompt_rows);
  for (const wire::PromptRow& row : part.rows) {
    if (row.top_logprobs.size() + row.listed.size() > request.beside_max)
      return error(ErrorCode::kCorrupt,
                   "prefill sends {} and {} logprobs beside a prompt token's, {} are expected: send both legs the same "
                   "request",
                   row.top_logprobs.size(), row.listed.size(), request.beside_max);
  }
  return {};
}

}  // namespace

// ---- the engine's calls ----

void DecodeHandoff::Service::pair(const std::string& host, uint16_t port, bool told) {
  commands_.push_always(PairCommand{host, port, told});
  wake_.wake();
}

Status DecodeHandoff::Service::receive(DecodeRequest request) {
  const AttemptId attempt = request.attempt;
  if (attempt.value() == 0 || attempt.value() > INT64_MAX)
    return error(ErrorCode::kInvalidArgument, "attempt {} is not between 1 and 2^63-1", attempt);
  if (request.host.empty() || request.host.size() > 255 || request.port == 0)
    return error(ErrorCode::kInvalidArgument, "no prefill at {}:{}", request.host.substr(0, 255), request.port);
  if (request.dp_rank < 0 || request.dp_rank >= self_.layout.dp)
    return error(ErrorCode::kInvalidArgument, "DP rank {} of {}", request.dp_rank, self_.layout.dp);
  if (request.prompt_tokens < 1 || request.prompt_tokens > layout::kPlanTokensMax)
    return error(ErrorCode::kInvalidArgument, "a prompt of {} tokens, between 1 and {} expected", request.prompt_tokens,
                 layout::kPlanTokensMax);
  const int64_t pages = (request.prompt_tokens + self_.page_tokens - 1) / self_.page_tokens;
  const int64_t cached = request.cached_tokens;
  if (static_cast<int64_t>(request.pages.size()) != pages || cached < 0 || cached >= request.prompt_tokens ||
      cached % self_.page_tokens != 0)
    return error(ErrorCode::kInvalidArgument, "{} pages of {} tokens for {} tokens, {} cached", request.pages.size(),
                 self_.page_tokens, request.prompt_tokens, cached);
  if (pages > wire::kGrantPagesMax)
    return error(ErrorCode::kInvalidArgument,
                 "a prompt on {} pages, one grant names {} at most: use a larger --page-size", pages,
                 wire::kGrantPagesMax);
  if (pages * self_.layout.attn_tp() * self_.layout.pp > wire::kChecksumsMax)
    return error(ErrorCode::kInvalidArgument, "{} pages on {} ranks are more than one commit can account for ({})",
                 pages, self_.layout.attn_tp() * self_.layout.pp, wire::kChecksumsMax);
  for (const wire::GrantedPage& page : request.pages) {
    if (page.page.value() >= static_cast<uint32_t>(self_.pages_per_group))
      return error(ErrorCode::kInvalidArgument, "page {} of {}", page.page, self_.pages_per_group);
  }
  {
    std::lock_guard lock(mutex_);
    if (!live_.insert(attempt).second)
      return error(ErrorCode::kInvalidArgument, "bootstrap_room {} is in use by another request: draw a new one",
                   attempt);
    ++stats_.attempts_live;
  }
  commands_.push_always(std::move(request));
  wake_.wake();
  return {};
}

void DecodeHandoff::Service::cancel(AttemptId attempt, std::string reason) {
  commands_.push_always(CancelCommand{attempt, std::move(reason)});
  wake_.wake();
}

HandoffStats DecodeHandoff::Service::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

// ---- commands on the thread ----

// The clock is read after them, so that nothing that is done with them lies before they came.
void DecodeHandoff::Service::take_commands() {
  std::vector<Command> commands = commands_.drain();
  now_ = clock_.now();
  for (Command& queued : commands) {
    std::visit([&](auto& what) { command(what); }, queued);
  }
}

void DecodeHandoff::Service::command(PairCommand& command) {
  if (command.told && !trusted_.tell(command.host, command.port))
    log_warning("handoff: told of more prefill instances than are kept; {} is not remembered",
                address_text(command.host, command.port));
  if (const Status trusted = check_trust(command.host, command.port); !trusted)
    return sink_(DecodePaired{address_text(command.host, command.port), trusted, {}, 0});
  try_soon(pair_with(command.host, command.port));
}

// Someone waits: try sooner, but no sooner than the shortest pause after the last try.
void DecodeHandoff::Service::try_soon(Pair& pair) {
  if (pair.state != Pair::State::kBackoff) return;
  pair.next_try = std::min(pair.next_try, std::max(now_, pair.since + options_.reconnect_min));
}

void DecodeHandoff::Service::command(DecodeRequest& request) {
  const AttemptId attempt = request.attempt;
  const Status trusted = check_trust(request.host, request.port);
  AttemptRecord& entry =
      *attempts_.emplace(attempt, std::make_unique<AttemptRecord>(std::move(request), self_.incarnation)).first->second;
  entry.received = now_;
  if (!trusted) return step(attempt, DecodeAttempt::PairFailed{true, trusted.error().message, true});
  Pair& pair = pair_with(entry.request.host, entry.request.port);
  entry.pair = &pair;
  if (pair.state == Pair::State::kPaired) {
    offer(attempt, entry);
  } else {
    try_soon(pair);
  }
}

void DecodeHandoff::Service::command(CancelCommand& cancel) {
  step(cancel.attempt, DecodeAttempt::CancelHere{cancel.reason, false});
}

// ---- grant and commit ----

void DecodeHandoff::Service::offer(AttemptId attempt, AttemptRecord& entry) {
  if (now_ >= entry.request.deadline) return;  // the next tick ends it
  entry.window_secret = entropy();
  wire::Grant grant;
  grant.attempt = attempt;
  grant.window_secret = entry.window_secret;
  grant.pages = entry.request.pages;
  entry.digest = wire::grant_digest(grant);
  step(attempt, DecodeAttempt::PairReady{entry.pair->peer.incarnation, entry.digest});
}

void DecodeHandoff::Service::send_grant(AttemptId attempt, AttemptRecord& entry) {
  wire::Grant grant;
  grant.attempt = attempt;
  grant.decode = self_.incarnation;
  grant.prefill = entry.pair->peer.incarnation;
  grant.dp_rank = entry.request.dp_rank;
  grant.prompt_tokens = entry.request.prompt_tokens;
  grant.cached_tokens = entry.request.cached_tokens;
  grant.window_secret = entry.window_secret;
  // Rounded up: the deadline is ours to declare, and prefill must not give up a moment earlier with a reason of its
  // own.
  const int64_t budget_ms = std::chrono::ceil<std::chrono::milliseconds>(entry.request.deadline - now_).count();
  grant.budget_ms = static_cast<uint32_t>(std::clamp<int64_t>(budget_ms, 1, UINT32_MAX));
  grant.pages = entry.request.pages;
  entry.plan = std::make_unique<ReceivePlan>(entry.pair->planner, self_, grant, pools_);
  entry.granted = now_;
  if (const Status opened = transport_.open_window({attempt, entry.window_secret}, entry.plan->window(), grant.prefill);
      !opened) {
    step(attempt, DecodeAttempt::CancelHere{"no window for the grant: " + opened.error().message, true});
    return;
  }
  entry.pair->connection->send(grant);
}

void DecodeHandoff::Service::on_prompt_logprobs(const Pair& pair, wire::PromptLogprobs& part) {
  const auto found = attempts_.find(part.attempt);
  if (found == attempts_.end() || found->second->machine.state() != DecodeAttempt::State::kGranted ||
      found->second->digest != part.grant_digest || found->second->machine.writer() != pair.peer.incarnation)
    return count([](HandoffStats& s) { ++s.stale_frames; });
  AttemptRecord& entry = *found->second;
  if (const Status fits = check_rows(entry.request, entry.rows.size(), part); !fits)
    return step(part.attempt, DecodeAttempt::CancelHere{fits.error().message, true});
  std::move(part.rows.begin(), part.rows.end(), std::back_inserter(entry.rows));
}

void DecodeHandoff::Service::on_commit(const Pair& pair, wire::Commit& commit) {
  const auto found = attempts_.find(commit.attempt);
  if (found == attempts_.end() || found->second->machine.state() != DecodeAttempt::State::kGranted ||
      commit.prefill != pair.peer.incarnation)
    return count([](HandoffStats& s) { ++s.stale_frames; });
  AttemptRecord& entry = *found->second;
  const AttemptId attempt = commit.attempt;
  Status counts = entry.plan->check_counts(commit);
  if (counts && entry.rows.size() != static_cast<size_t>(entry.request.prompt_rows))
    counts = error(ErrorCode::kCorrupt,
                   "prefill sent the logprobs of {} prompt tokens, {} are expected: send both legs the same request",
                   entry.rows.size(), entry.request.prompt_rows);
  const DecodeAttempt::CommitCame input{commit.decode, commit.prefill, commit.grant_digest, std::move(counts)};
  entry.commit = std::move(commit);
  entry.committed = now_;
  step(attempt, input);
}

void DecodeHandoff::Service::verify_slices() {
  std::vector<AttemptId> busy;
  for (const auto& [attempt, entry] : attempts_) {
    if (entry->verify) busy.push_back(attempt);
  }
  for (const AttemptId attempt : busy) {
    VerifyJob& job = *attempts_.at(attempt)->verify;
    if (!job.step(options_.verify_slice_bytes / busy.size() + 1)) continue;
    now_ = clock_.now();
    count([&](HandoffStats& s) {
      s.checksums += job.checksums();
      s.checksum_mismatches += job.status() ? 0 : 1;
      s.local_bytes += job.local_bytes();
      s.local_copies += job.local_copies();
    });
    step(attempt, DecodeAttempt::Verified{job.status()});
  }
}

// ---- the machine ----

void DecodeHandoff::Service::tick() {
  std::vector<AttemptId> due, fencing;
  for (const auto& [attempt, entry] : attempts_) {
    if (now_ >= entry->machine.deadline()) due.push_back(attempt);
    if (entry->machine.fencing()) fencing.push_back(attempt);
  }
  for (const AttemptId attempt : fencing) {
    const transport::WindowToken token{attempt, attempts_.at(attempt)->window_secret};
    if (!transport_.window_quiet(token)) continue;
    step(attempt, DecodeAttempt::Fence{true});
  }
  for (const AttemptId attempt : due) step(attempt, DecodeAttempt::Tick{});
}

void DecodeHandoff::Service::step(AttemptId attempt, const DecodeAttempt::Input& input) {
  const auto found = attempts_.find(attempt);
  if (found == attempts_.end()) return;
  DecodeAttempt::Actions actions = found->second->machine.step(input, now_);
  apply(attempt, *found->second, actions);
}

void DecodeHandoff::Service::apply(AttemptId attempt, AttemptRecord& entry, DecodeAttempt::Actions& actions) {
  const auto tell = [&](const wire::Frame& frame) {
    if (entry.pair->state == Pair::State::kPaired && entry.machine.writer() == entry.pair->peer.incarnation)
      entry.pair->connection->send(frame);
  };
  if (actions.stale) count([](HandoffStats& s) { ++s.stale_frames; });
  if (actions.send_grant) return send_grant(attempt, entry);
  if (actions.emit_first_token)
    sink_(DecodeFirstToken{
        attempt,
        {entry.commit.first, std::move(entry.rows), entry.commit.cached_tokens, entry.commit.durations},
        entry.committed});
  if (actions.stop_verify) entry.verify.reset();
  const bool quiet = actions.close_window && transport_.close_window({attempt, entry.window_secret});
  if (actions.start_verify) {
    if (options_.before_verify) options_.before_verify(attempt);
    entry.verify = std::make_unique<VerifyJob>(*entry.plan, std::move(entry.commit), streams_);
  }
  if (actions.send_release) tell(wire::Release{attempt, entry.digest});
  if (actions.send_cancel)
    tell(wire::Cancel{attempt, entry.digest, actions.send_cancel->outcome == AttemptOutcome::kFailed,
                      actions.send_cancel->message});
  if (actions.send_drained) tell(wire::Drained{attempt, entry.digest});
  if (actions.emit_committed) committed(attempt, entry);
  if (actions.end) ended(attempt, actions);
  if (actions.emit_quiet) {
    forget(attempt);
    count([](HandoffStats& s) { --s.attempts_quarantined; });
    sink_(DecodeQuiet{attempt});
  }
  if (actions.close_window) step(attempt, DecodeAttempt::Fence{quiet});
}

void DecodeHandoff::Service::committed(AttemptId attempt, const AttemptRecord& entry) {
  const VerifyJob& job = *entry.verify;
  const DecodeCommitted event{.attempt = attempt,
                              .bytes = job.commit().bytes,
                              .copies = job.commit().copies,
                              .local_bytes = job.local_bytes(),
                              .checksums = job.checksums(),
                              .durations = job.commit().durations,
                              .pairing = entry.granted - entry.received,
                              .waited = entry.committed - entry.granted,
                              .verify = now_ - entry.committed};
  count([&](HandoffStats& s) {
    ++s.committed;
    s.bytes += event.bytes;
    s.copies += event.copies;
  });
  forget(attempt);  // `entry` is gone
  sink_(event);
}

void DecodeHandoff::Service::ended(AttemptId attempt, const DecodeAttempt::Actions& actions) {
  const EndCause& cause = *actions.end;
  count([&](HandoffStats& s) {
    if (cause.outcome == AttemptOutcome::kFailed) {
      ++s.failed;
      ++s.failures[cause.reason];
    } else {
      ++s.cancelled;
    }
    s.attempts_quarantined += actions.end_quiet ? 0 : 1;
  });
  DecodeEnded event{attempt,           cause.outcome,       cause.message,
                    actions.end_quiet, actions.end_corrupt, cause.reason == std::string_view(kForbiddenReason)};
  if (actions.end_quiet) forget(attempt);
  sink_(std::move(event));
}

void DecodeHandoff::Service::forget(AttemptId attempt) {
  attempts_.erase(attempt);
  std::lock_guard lock(mutex_);
  live_.erase(attempt);
  --stats_.attempts_live;
}

}  // namespace baton::handoff
