// The part of the prefill service that concerns one attempt: commands, grants and what the machine wants done.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "handoff/pairing.h"
#include "handoff/prefill_service.h"

namespace baton::handoff {
namespace {
// What a grant that waits for its request takes besides its pages.
constexpr size_t kEarlyGrantBytes = 1024;

bool in_range(AttemptId attempt) { return attempt.value() != 0 && attempt.value() <= INT64_MAX; }
}  // namespace

// ---- the engine's calls ----

Status PrefillHandoff::Service::begin(AttemptId attempt, int dp_rank, int64_t prompt_tokens, TimePoint deadline) {
  if (!in_range(attempt)) return error(ErrorCode::kInvalidArgument, "attempt {} is not between 1 and 2^63-1", attempt);
  if (dp_rank < 0 || dp_rank >= self_.layout.dp)
    return error(ErrorCode::kInvalidArgument, "DP rank {} of {}", dp_rank, self_.layout.dp);
  if (prompt_tokens < 1 || prompt_tokens > layout::kPlanTokensMax)
    return error(ErrorCode::kInvalidArgument, "a prompt of {} tokens, between 1 and {} expected", prompt_tokens,
                 layout::kPlanTokensMax);
  {
    std::lock_guard lock(mutex_);
    if (!live_.insert(attempt).second)
      return error(ErrorCode::kInvalidArgument, "bootstrap_room {} is in use by another request: draw a new one",
                   attempt);
    ++stats_.attempts_live;
  }
  commands_.push_always({attempt, BeginCommand{dp_rank, prompt_tokens, deadline}});
  wake_.wake();
  return {};
}

void PrefillHandoff::Service::computed(AttemptId attempt, int64_t end, std::vector<PageId> new_pages) {
  for (const PageId page : new_pages)
    BATON_CHECK(page.value() < static_cast<uint32_t>(self_.pages_per_group), "page {} of {}", page,
                self_.pages_per_group);
  commands_.push_always({attempt, ComputedCommand{end, std::move(new_pages)}});
  wake_.wake();
}

void PrefillHandoff::Service::finish(AttemptId attempt, PrefillResult result) {
  commands_.push_always({attempt, FinishCommand{std::move(result)}});
  wake_.wake();
}

void PrefillHandoff::Service::cancel(AttemptId attempt, std::string reason, bool fault) {
  commands_.push_always({attempt, CancelCommand{std::move(reason), fault}});
  wake_.wake();
}

HandoffStats PrefillHandoff::Service::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

// ---- commands on the thread ----

// The clock is read after them, so that nothing that is done with them lies before they came.
void PrefillHandoff::Service::take_commands() {
  std::vector<Command> commands = commands_.drain();
  now_ = clock_.now();
  for (Command& queued : commands) {
    std::visit([&](auto& what) { command(queued.attempt, what); }, queued.what);
  }
}

void PrefillHandoff::Service::command(AttemptId attempt, BeginCommand& begin) {
  if (const std::optional<EndCause> cause = tombstones_.dig_up(attempt, true)) {
    emit_ended({.attempt = attempt, .outcome = cause->outcome, .message = cause->message}, cause->reason);
    return;
  }
  const PrefillAttempt::Begin input{begin.prompt_tokens, begin.deadline};
  auto found = attempts_.find(attempt);
  const bool early = found != attempts_.end();
  if (!early)
    found = attempts_.emplace(attempt, std::make_unique<AttemptRecord>(PrefillAttempt(self_.incarnation, input))).first;
  found->second->dp_rank = begin.dp_rank;
  found->second->begun = now_;
  if (early) step(attempt, input);
}

void PrefillHandoff::Service::command(AttemptId attempt, ComputedCommand& computed) {
  const auto found = attempts_.find(attempt);
  if (found == attempts_.end()) return;
  AttemptRecord& entry = *found->second;
  entry.pages.insert(entry.pages.end(), computed.new_pages.begin(), computed.new_pages.end());
  const int64_t reach = static_cast<int64_t>(entry.pages.size()) * self_.page_tokens;
  BATON_CHECK(computed.end <= reach, "computed {} tokens in pages for {}", computed.end, reach);
  step(attempt, PrefillAttempt::Computed{computed.end});
}

void PrefillHandoff::Service::command(AttemptId attempt, FinishCommand& finish) {
  const auto found = attempts_.find(attempt);
  if (found == attempts_.end()) return;
  found->second->result = std::move(finish.result);
  found->second->finished = now_;
  step(attempt, PrefillAttempt::Finish{});
}

void PrefillHandoff::Service::command(AttemptId attempt, CancelCommand& cancel) {
  step(attempt, PrefillAttempt::CancelHere{cancel.reason, cancel.fault});
}

// ---- frames ----

Status PrefillHandoff::Service::check_grant(const Peer& peer, const wire::Grant& grant) const {
  const wire::Manifest& m = peer.manifest;
  const auto pages = static_cast<int64_t>(grant.pages.size());
  const int64_t needed = (grant.prompt_tokens + m.page_tokens - 1) / m.page_tokens;
  if (grant.dp_rank >= m.layout.dp)
    return error(ErrorCode::kInvalidArgument, "grant for DP rank {} of {}", grant.dp_rank, m.layout.dp);
  if (grant.prompt_tokens > layout::kPlanTokensMax || pages != needed || grant.cached_tokens % m.page_tokens != 0)
    return error(ErrorCode::kInvalidArgument, "grant of {} pages of {} tokens for {} tokens, {} cached", pages,
                 m.page_tokens, grant.prompt_tokens, grant.cached_tokens);
  // The commit that answers it has a checksum for each page and rank.
  const int64_t ranks = peer.planner->destination_ranks();
  if (pages * ranks > wire::kChecksumsMax)
    return error(
        ErrorCode::kInvalidArgument,
        "grant of {} pages on {} ranks, one commit accounts for {} at most: use a larger --page-size on decode", pages,
        ranks, wire::kChecksumsMax);
  for (const wire::GrantedPage& page : grant.pages) {
    if (page.page.value() >= static_cast<uint32_t>(m.pages_per_group))
      return error(ErrorCode::kInvalidArgument, "grant of page {}, decode has {}", page.page, m.pages_per_group);
  }
  return {};
}

void PrefillHandoff::Service::turn_down(Peer& peer, const wire::Grant& grant, const std::string& reason, bool fault) {
  const uint64_t digest = wire::grant_digest(grant);
  peer.connection.send(wire::Cancel{grant.attempt, digest, fault, reason});
  peer.connection.send(wire::Drained{grant.attempt, digest});  // nothing was posted for it
}

void PrefillHandoff::Service::on_grant(uint64_t id, Peer& peer, wire::Grant& grant) {
  if (grant.prefill != self_.incarnation || grant.decode != peer.manifest.incarnation)
    return count([](HandoffStats& s) { ++s.stale_frames; });
  if (const Status checked = check_grant(peer, grant); !checked)
    return turn_down(peer, grant, checked.error().message, true);
  if (const std::optional<EndCause> cause = tombstones_.dig_up(grant.attempt, false)) {
    turn_down(peer, grant, cause->message, cause->outcome == AttemptOutcome::kFailed);
    return;
  }
  const auto found = attempts_.find(grant.attempt);
  PrefillAttempt::Granted input{.digest = wire::grant_digest(grant),
                                .decode = grant.decode,
                                .prefill = grant.prefill,
                                .prompt_tokens = grant.prompt_tokens,
                                .cached_tokens = grant.cached_tokens,
                                .grain = send_grain(*peer.planner),
                                .deadline = now_ + std::chrono::milliseconds(grant.budget_ms),
                                .early_deadline = now_ + options_.early_grant_timeout};
  if (found != attempts_.end() && found->second->machine.granted()) {
    // An id that is used again while it lives here: whoever waits on the new grant hears it now, not at its deadline.
    if (found->second->peer != id || found->second->digest != input.digest)
      turn_down(peer, grant, "the attempt is in use by another grant: draw a new bootstrap_room", true);
    return step(grant.attempt, input);  // a repeat, or stale
  }
  if (found == attempts_.end() && !room_for_early(peer)) {
    turn_down(peer, grant, fmt::format("{} grants already wait for their requests on prefill", early_), true);
    return;
  }
  const AttemptId attempt = grant.attempt;
  const bool early = found == attempts_.end();
  AttemptRecord& entry =
      early ? *attempts_.emplace(attempt, std::make_unique<AttemptRecord>(PrefillAttempt(self_.incarnation, input)))
                   .first->second
            : *found->second;
  entry.peer = id;
  entry.granted = now_;
  entry.transport_peer = peer.transport_peer;
  entry.digest = input.digest;
  entry.grant = std::move(grant);
  if (!early) return step(attempt, input);
  ++early_;
  ++peer.early;
  peer.early_bytes += kEarlyGrantBytes + entry.grant.pages.size() * sizeof(wire::GrantedPage);
}

// Full, the table makes room for a peer that fills less of it than one that has proved nothing.
bool PrefillHandoff::Service::room_for_early(const Peer& peer) {
  if (early_ < options_.early_grants_max) return true;
  uint64_t most = 0;
  size_t early = peer.early;
  for (const auto& [id, other] : peers_) {
    if (other->proved || other->early <= early) continue;
    most = id;
    early = other->early;
  }
  if (most == 0) return false;
  peers_.at(most)->connection.abandon(
      fmt::format("{} of its grants wait for requests, no other peer has as many", early));
  drop_peer(most);
  return early_ < options_.early_grants_max;
}

void PrefillHandoff::Service::leave_early(AttemptRecord& entry) {
  --early_;
  const auto peer = peers_.find(entry.peer);
  if (peer == peers_.end()) return;
  --peer->second->early;
  peer->second->early_bytes -= kEarlyGrantBytes + entry.grant.pages.size() * sizeof(wire::GrantedPage);
}

void PrefillHandoff::Service::on_cancel(Peer& peer, const wire::Cancel& cancel) {
  const auto found = attempts_.find(cancel.attempt);
  if (found != attempts_.end() && (!found->second->machine.granted() || found->second->digest == cancel.grant_digest)) {
    const bool unseen = !found->second->machine.granted();
    step(cancel.attempt, PrefillAttempt::CancelThere{cancel.reason, cancel.fault});
    if (!unseen) return;  // the machine answers when its posts are quiet
  } else if (found == attempts_.end()) {
    tombstones_.bury(cancel.attempt,
                     {cancel.fault ? AttemptOutcome::kFailed : AttemptOutcome::kCancelled, cancel.fault ? "peer" : "",
                      "decode: " + cancel.reason},
                     true, now_);
  }
  // A grant that is not in the table has no post out, unless the transport could not say so.
  if (!never_drained_.contains(cancel.grant_digest))
    peer.connection.send(wire::Drained{cancel.attempt, cancel.grant_digest});
}

// ---- the machine ----

void PrefillHandoff::Service::tick() {
  std::vector<AttemptId> due;
  for (const auto& [attempt, entry] : attempts_) {
    const bool early = entry->machine.state() == PrefillAttempt::State::kEarly;
    if (early || now_ >= entry->machine.deadline()) due.push_back(attempt);
  }
  for (const AttemptId attempt : due) step(attempt, PrefillAttempt::Tick{});
  tombstones_.expire(now_);
}

void PrefillHandoff::Service::step(AttemptId attempt, const PrefillAttempt::Input& input) {
  const auto found = attempts_.find(attempt);
  if (found == attempts_.end()) return;
  AttemptRecord& entry = *found->second;
  const bool was_early = entry.machine.state() == PrefillAttempt::State::kEarly;
  PrefillAttempt::Actions actions = entry.machine.step(input, now_);
  if (was_early && entry.machine.state() != PrefillAttempt::State::kEarly) leave_early(entry);
  apply(attempt, entry, std::move(actions));
}

void PrefillHandoff::Service::apply(AttemptId attempt, AttemptRecord& entry, PrefillAttempt::Actions actions) {
  if (actions.stale) count([](HandoffStats& s) { ++s.stale_frames; });
  const auto peer = peers_.find(entry.peer);
  const auto tell = [&](const wire::Frame& frame) {
    if (peer != peers_.end()) peer->second->connection.send(frame);
  };
  if (actions.emit_granted) {
    peer->second->proved = true;
    recount(*peer->second);
    entry.job = std::make_unique<SendJob>(peer->second->planner, self_, entry.dp_rank, peer->second->manifest,
                                          entry.grant, pools_, peer->second->converted_kv, streams_,
                                          options_.stripe_bytes, options_.post_bytes_max, options_.post_blocks_max);
    sink_(PrefillGranted{attempt, entry.grant.cached_tokens, entry.granted, now_ - entry.begun});
  }
  if (actions.send) send_range(entry, *actions.send, attempt);
  if (actions.send_commit && !say(attempt, entry)) speaking_.push_back(attempt);
  if (actions.send_cancel)
    tell(wire::Cancel{attempt, entry.digest, actions.send_cancel->outcome == AttemptOutcome::kFailed,
                      actions.send_cancel->message});
  if (actions.cancel_posts) return cancel_posts(attempt);  // `entry` may be gone after it
  if (actions.send_drained) tell(wire::Drained{attempt, entry.digest});
  if (actions.end) end(attempt, *actions.end);
}

// ---- what is said of a prompt that is all there ----

// Those that wait for room in their connections.
void PrefillHandoff::Service::speak() {
  std::erase_if(speaking_, [this](AttemptId attempt) {
    const auto found = attempts_.find(attempt);
    // It may have ended meanwhile, and its id may be used again.
    return found == attempts_.end() || found->second->machine.state() != PrefillAttempt::State::kUnconfirmed ||
           say(attempt, *found->second);
  });
}

// The prompt's logprobs, and Commit behind them. A part is said when the connection has written what was said before:
// all of them may be many times what a connection holds. Returns whether nothing is left to say.
bool PrefillHandoff::Service::say(AttemptId attempt, AttemptRecord& entry) {
  const auto peer = peers_.find(entry.peer);
  if (peer == peers_.end()) return true;  // the machine hears of it
  ControlConnection& connection = peer->second->connection;
  while (entry.rows_sent < entry.result.prompt.size()) {
    if (connection.wants_write()) return false;
    connection.send(next_rows(attempt, entry));
    if (connection.broken()) return true;
  }
  connection.send(commit_of(attempt, entry));
  return true;
}

wire::PromptLogprobs PrefillHandoff::Service::next_rows(AttemptId attempt, AttemptRecord& entry) {
  wire::PromptLogprobs part{attempt, entry.digest, static_cast<uint32_t>(entry.rows_sent), {}};
  for (size_t bytes = 0; entry.rows_sent < entry.result.prompt.size() && bytes < wire::kPromptRowsBytesMax;) {
    wire::PromptRow& row = entry.result.prompt[entry.rows_sent++];
    bytes += wire::row_bytes(row);
    part.rows.push_back(std::move(row));
  }
  return part;
}

wire::Commit PrefillHandoff::Service::commit_of(AttemptId attempt, const AttemptRecord& entry) const {
  wire::Commit commit;
  commit.attempt = attempt;
  commit.decode = entry.grant.decode;
  commit.prefill = self_.incarnation;
  commit.grant_digest = entry.digest;
  commit.first = entry.result.first;
  commit.cached_tokens = entry.result.cached_tokens;
  commit.bytes = entry.bytes;
  commit.copies = entry.copies;
  commit.durations = entry.result.durations;
  commit.durations.transfer_tail = std::max(Duration{}, entry.last_done - entry.finished);
  commit.checksum_pages = entry.job->checksum_pages();
  commit.checksums = entry.job->checksums();
  return commit;
}

void PrefillHandoff::Service::end(AttemptId attempt, const EndCause& cause) {
  const auto found = attempts_.find(attempt);
  const std::unique_ptr<AttemptRecord> entry = std::move(found->second);
  attempts_.erase(found);
  if (entry->machine.granted() && !entry->machine.writers_quiet()) never_drained_.insert(entry->digest);
  const bool met = entry->machine.begun() && entry->machine.granted();
  if (!met) tombstones_.bury(attempt, cause, !entry->machine.begun(), now_);
  if (!entry->machine.begun()) return;
  const bool sent = entry->first_post != TimePoint{} && entry->last_done > entry->first_post;
  emit_ended({.attempt = attempt,
              .outcome = cause.outcome,
              .message = cause.message,
              .quiet = entry->machine.sources_quiet(),
              .bytes = entry->bytes,
              .copies = entry->copies,
              .seconds = sent ? to_seconds(entry->last_done - entry->first_post) : 0},
             cause.reason);
}

void PrefillHandoff::Service::emit_ended(PrefillEnded ended, const char* reason) {
  {
    std::lock_guard lock(mutex_);
    live_.erase(ended.attempt);
    --stats_.attempts_live;
    if (!ended.quiet) ++stats_.attempts_quarantined;
    switch (ended.outcome) {
      case AttemptOutcome::kCommitted:
        ++stats_.committed;
        break;
      case AttemptOutcome::kCancelled:
        ++stats_.cancelled;
        break;
      case AttemptOutcome::kFailed:
        ++stats_.failed;
        ++stats_.failures[reason];
        break;
    }
  }
  sink_(std::move(ended));
}

}  // namespace baton::handoff
