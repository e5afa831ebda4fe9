#include "engine/decode_role.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/random.h"
#include "engine/handoff_logprobs.h"
#include "engine/handoff_stats.h"
#include "handoff/control_connection.h"

namespace baton::engine {
namespace {

// Rank pairs shown in metrics: their number is bounded, whatever the layouts.
constexpr size_t kLinksMax = 4096;
// The prompt that describe_pairs() shows bytes and copies for.
constexpr int64_t kDescribedTokens = 4096;
constexpr Duration kExpiryInterval = std::chrono::milliseconds(100);

Status check_address(const std::string& host, int port) {
  if (!host.empty() && host.size() <= 255 && port >= 1 && port <= 65535) return {};
  return error(ErrorCode::kInvalidArgument,
               "bootstrap_host \"{}\" or bootstrap_port {} does not name a prefill instance", host.substr(0, 255),
               port);
}

// What a warm-up says instead of what the model would.
GeneratedToken fake_token(const Request& request) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  return {request.prompt.back(), kNone, {}, std::vector<float>(request.token_ids_logprob.size(), kNone)};
}

}  // namespace

DecodeRole::DecodeRole(EngineCore& core, std::function<void()> wake, wire::Manifest self, Duration attempt_timeout)
    : core_(core),
      self_(std::move(self)),
      attempt_timeout_(attempt_timeout),
      inbox_(std::make_shared<EventInbox<handoff::DecodeEvent>>(std::move(wake))) {}

Result<std::unique_ptr<RolePart>> DecodeRole::start(EngineCore& core, std::function<void()> wake,
                                                    handoff::DecodeHandoffOptions options, wire::Manifest self,
                                                    transport::Transport& transport, std::vector<handoff::Pool> pools,
                                                    Duration attempt_timeout) {
  std::unique_ptr<DecodeRole> role(new DecodeRole(core, std::move(wake), self, attempt_timeout));
  BATON_ASSIGN(role->handoff_,
               handoff::DecodeHandoff::start(
                   std::move(options), std::move(self), transport, std::move(pools),
                   [inbox = role->inbox_](handoff::DecodeEvent event) { inbox->put(std::move(event)); }));
  return std::unique_ptr<RolePart>(std::move(role));
}

// The service first: until it has gone, peers may write the pages that attempts_ holds.
DecodeRole::~DecodeRole() {
  handoff_.reset();
  for (auto& [address, waiters] : awaited_) {
    for (const auto& done : waiters) done(error(ErrorCode::kUnavailable, "the instance is shutting down"));
  }
}

DecodeRole::Attempt* DecodeRole::find(AttemptId room) {
  const auto found = attempts_.find(room);
  return found == attempts_.end() ? nullptr : &found->second;
}

Status DecodeRole::accept(LiveRequest& live) {
  const Disaggregation& peer = *live.request.disaggregation;
  if (peer.fake) {
    accept_fake(live);
    return {};
  }
  BATON_TRY(check_address(peer.bootstrap_host, peer.bootstrap_port));
  if (attempts_.contains(peer.room))
    return error(ErrorCode::kInvalidArgument, "bootstrap_room {} is in use by a live request", peer.room);
  core_.add_sequence(live, scheduler::EntryMode::kPrebuilt, live.sampling().max_new_tokens);
  Attempt& attempt = attempts_[peer.room];
  attempt.sequence = live.sequence;
  attempt.address = address_text(peer.bootstrap_host, static_cast<uint16_t>(peer.bootstrap_port));
  attempt.accepted = core_.now();
  // Pairing overlaps with the wait for pages.
  handoff_->pair(peer.bootstrap_host, static_cast<uint16_t>(peer.bootstrap_port), false);
  return {};
}

// Its pages are cached under a name that nobody else can give.
void DecodeRole::accept_fake(LiveRequest& live) {
  live.request.cache_salt = fmt::format("fake transfer {:016x}{:016x}", entropy(), entropy());
  core_.add_sequence(live, scheduler::EntryMode::kPrebuilt, live.sampling().max_new_tokens);
}

void DecodeRole::begin_fake(LiveRequest& live) {
  GeneratedToken token = fake_token(live.request);
  core_.scheduler().join(live.sequence, token.id);
  std::optional<Output::Finish> finish = Output::Finish{FinishReason::kLength, std::nullopt, std::nullopt};
  if (live.sampling().max_new_tokens > 0) finish = core_.show(live, std::move(token), false);
  if (!finish) return;
  core_.scheduler().finish(live.sequence);
  core_.close(live, *finish);
}

void DecodeRole::admitted(LiveRequest& live) {
  const Disaggregation& peer = *live.request.disaggregation;
  if (peer.fake) {
    if (live.completion_tokens == 0) fakes_.push_back(live.sequence);  // else back after a retraction
    return;
  }
  Attempt* attempt = find(peer.room);
  if (attempt == nullptr || attempt->sequence != live.sequence) return;  // back after a retraction
  const scheduler::Sequence& sequence = core_.scheduler().sequence(live.sequence);
  kv::PageLedger& ledger = core_.scheduler().ledger(sequence.group);
  attempt->group = sequence.group;
  attempt->cached_pages = static_cast<size_t>(sequence.cached / core_.info().page_tokens);
  attempt->granted = core_.now();
  handoff::DecodeRequest request{peer.room,
                                 peer.bootstrap_host,
                                 static_cast<uint16_t>(peer.bootstrap_port),
                                 sequence.group,
                                 live.prompt_tokens(),
                                 sequence.cached,
                                 {},
                                 attempt->granted + attempt_timeout_,
                                 rows_wanted(live.request),
                                 beside_wanted(live.request)};
  for (size_t i = 0; i < sequence.pages.size(); ++i) {
    const PageId page = sequence.pages[i].page();
    if (i >= attempt->cached_pages) ledger.grant(sequence.pages[i]);
    request.pages.push_back({page, ledger.generation(page)});
  }
  attempt->state = State::kGranted;
  if (Status received = handoff_->receive(std::move(request)); !received) {
    settle(*attempt, sequence.pages);
    attempt->state = State::kQueued;  // nobody was told of the pages
    core_.fail(live, received.error());
  }
}

void DecodeRole::settle(const Attempt& attempt, const std::vector<kv::PageLease>& pages) {
  kv::PageLedger& ledger = core_.scheduler().ledger(attempt.group);
  for (size_t i = attempt.cached_pages; i < pages.size(); ++i) ledger.settle(pages[i]);
}

void DecodeRole::sampled(LiveRequest& live, GeneratedToken token) {
  core_.emit(live, live.request.disaggregation->fake ? fake_token(live.request) : std::move(token));
}

void DecodeRole::release(LiveRequest& live, const std::string& why) {
  const AttemptId room = live.request.disaggregation->room;
  Attempt* attempt = find(room);
  std::vector<kv::PageLease> pages = core_.scheduler().finish(live.sequence);
  if (attempt == nullptr || attempt->sequence != live.sequence) return;
  if (attempt->state == State::kQueued) {
    attempts_.erase(room);
    return;
  }
  attempt->in_scheduler = false;
  attempt->pages = std::move(pages);
  // A client that has all it wants from the first token: its KV is here and being verified, and the prefill leg has
  // done its work.
  if (attempt->first_token && why.empty()) return;
  handoff_->cancel(room, why);
}

void DecodeRole::poll(TimePoint now) {
  for (const handoff::DecodeEvent& event : inbox_->take()) {
    std::visit([this](const auto& e) { on(e); }, event);
  }
  for (const SequenceId sequence : std::exchange(fakes_, {})) {
    if (LiveRequest* live = core_.find(sequence)) begin_fake(*live);
  }
  if (now >= next_expiry_) {
    next_expiry_ = now + kExpiryInterval;
    expire(now);
  }
}

// Attempts that waited too long for pages. Those that have them are the handoff's to end.
void DecodeRole::expire(TimePoint now) {
  std::vector<SequenceId> late;
  for (const auto& [room, attempt] : attempts_) {
    if (attempt.state == State::kQueued && now - attempt.accepted > attempt_timeout_) late.push_back(attempt.sequence);
  }
  for (const SequenceId sequence : late) {
    core_.fail(
        *core_.find(sequence),
        error(
            ErrorCode::kDeadlineExceeded,
            "no KV pages became free within {:.1f} s: raise --max-total-tokens or --mem-fraction-static, or send less",
            to_seconds(attempt_timeout_)));
  }
}

void DecodeRole::on(const handoff::DecodePaired& event) {
  if (event.status) {
    auto planner = layout::Planner::make(self_.geometry, {event.peer.layout, event.peer.page_tokens},
                                         {self_.layout, self_.page_tokens}, event.peer.writer_policy, self_.fanout);
    BATON_CHECK(planner.ok(), "a pair was accepted whose plan cannot be made: {}",
                planner.ok() ? "" : planner.error().message);
    pairs_[event.address] =
        fmt::format("prefill {}\n{}", event.address, layout::describe_plan(*planner, kDescribedTokens, AttemptId(1)));
    add_links(*planner);
  } else {
    pairs_.erase(event.address);
    if (event.status.error().code == ErrorCode::kForbidden) forbid(event.address, event.status.error());
  }
  for (const auto& done : std::exchange(awaited_[event.address], {})) done(event.status);
  awaited_.erase(event.address);
}

// Requests that name a prefill instance that we may not meet need not wait for pages to hear it.
void DecodeRole::forbid(const std::string& address, const Error& why) {
  std::vector<SequenceId> theirs;
  for (const auto& [room, attempt] : attempts_) {
    if (attempt.state == State::kQueued && attempt.address == address) theirs.push_back(attempt.sequence);
  }
  for (const SequenceId sequence : theirs) core_.fail(*core_.find(sequence), why);
}

// Every pair of world ranks that hold common bytes, in whichever two DP groups a request lives.
void DecodeRole::add_links(const layout::Planner& planner) {
  const layout::Layout& from = planner.prefill().layout;
  const layout::Layout& to = planner.decode().layout;
  const auto world_rank = [](const layout::Layout& layout, int group_rank, int dp_rank) {
    return layout.rank_of({group_rank / layout.attn_tp(), dp_rank, group_rank % layout.attn_tp()});
  };
  for (const layout::Plan::Link& link : planner.plan_for(AttemptId(1)).links) {
    for (int source_dp = 0; source_dp < from.dp; ++source_dp) {
      for (int destination_dp = 0; destination_dp < to.dp && links_.size() < kLinksMax; ++destination_dp) {
        links_.emplace(world_rank(from, link.source, source_dp), world_rank(to, link.destination, destination_dp));
      }
    }
  }
}

void DecodeRole::on(const handoff::DecodePairLost& event) { pairs_.erase(event.address); }

void DecodeRole::on(const handoff::DecodeFirstToken& event) {
  Attempt* attempt = find(event.attempt);
  if (attempt == nullptr || !attempt->in_scheduler) return;  // the client left
  LiveRequest& live = *core_.find(attempt->sequence);
  const handoff::PrefillResult& result = event.result;
  Result<GeneratedToken> token = token_from(result.first, live.request, core_.info().vocab);
  Result<std::vector<PromptLogprob>> prompt = logprobs_from(result.prompt, live.request, core_.info().vocab);
  if (!token || !prompt) {
    core_.fail(live, !token ? token.error() : prompt.error());
    return;
  }
  live.prompt_logprobs = std::move(prompt).value();
  // The part of the prompt that nobody computed for this request is what clients count as cached.
  live.cached_tokens = static_cast<int>(std::min<int64_t>(result.cached_tokens, live.prompt_tokens()));
  attempt->first_token = token->id;
  if (live.recipe->reads_history()) live.recipe->history.add(token->id);
  if (live.sampling().max_new_tokens == 0) {
    if (live.request.logprobs >= 0) live.next = std::move(token).value();
    attempt->finish = Output::Finish{FinishReason::kLength, std::nullopt, std::nullopt};
    return;
  }
  live.ttft.grant_ms = to_ms(attempt->granted - live.submitted);
  live.ttft.prefill_queue_ms = to_ms(result.durations.prefill_queue);
  live.ttft.prefill_ms = to_ms(result.durations.prefill);
  // The rest of the wait for Commit, so that the parts add up; every term is a duration on one process's clock. Then
  // the step that was running here when Commit came.
  live.ttft.transfer_ms =
      std::max(0.0, to_ms(event.at - attempt->granted) - live.ttft.prefill_queue_ms - live.ttft.prefill_ms);
  live.ttft.first_step_ms = to_ms(core_.now() - event.at);
  // A token that ends the request comes with the end, as everywhere: whoever makes text of it must know whether it is a
  // stop token. And that is not said before its KV is known to be good (S7).
  if (core_.finish_after(live, token->id, 1)) {
    attempt->last = std::move(token).value();
  } else {
    core_.show(live, std::move(token).value(), false);
  }
}

void DecodeRole::on(const handoff::DecodeCommitted& event) {
  const auto found = attempts_.find(event.attempt);
  if (found == attempts_.end()) return;
  const Attempt attempt = std::move(found->second);
  attempts_.erase(found);
  if (core_.observer() != nullptr)
    core_.observer()->on_transfer(to_seconds(event.waited + event.verify), event.bytes, event.copies);
  if (!attempt.in_scheduler) {
    settle(attempt, attempt.pages);
    return;
  }
  BATON_CHECK(attempt.first_token.has_value(), "attempt {} was committed without a first token", event.attempt);
  settle(attempt, core_.scheduler().sequence(attempt.sequence).pages);
  core_.scheduler().join(attempt.sequence, *attempt.first_token);
  if (attempt.last) core_.emit(*core_.find(attempt.sequence), GeneratedToken(*attempt.last));
  if (!attempt.finish) return;
  core_.scheduler().finish(attempt.sequence);
  core_.close(*core_.find(attempt.sequence), *attempt.finish);
}

void DecodeRole::on(const handoff::DecodeEnded& event) {
  Attempt* attempt = find(event.attempt);
  if (attempt == nullptr || attempt->state != State::kGranted) return;
  if (event.outcome == handoff::AttemptOutcome::kFailed)
    ++(pairs_.contains(attempt->address) ? transfer_failed_ : bootstrap_failed_);
  if (attempt->in_scheduler) attempt->pages = core_.scheduler().finish(attempt->sequence);
  attempt->in_scheduler = false;
  LiveRequest* live = core_.find(attempt->sequence);
  const ErrorCode code = code_of(event, *attempt);
  if (event.quiet) {
    settle(*attempt, attempt->pages);
    attempts_.erase(event.attempt);
  } else {
    for (size_t i = attempt->cached_pages; i < attempt->pages.size(); ++i)
      attempt->quarantined.push_back(attempt->pages[i].page());
    attempt->pages.clear();  // granted pages without a lease are quarantined
    attempt->state = State::kQuarantined;
  }
  if (live != nullptr) {
    core_.close(*live, {FinishReason::kAbort, std::nullopt, error(code, "the KV did not arrive: {}", event.message)});
  }
}

ErrorCode DecodeRole::code_of(const handoff::DecodeEnded& event, const Attempt& attempt) const {
  if (event.corrupt) return ErrorCode::kCorrupt;
  if (event.forbidden) return ErrorCode::kForbidden;
  if (event.outcome == handoff::AttemptOutcome::kCancelled) return ErrorCode::kCancelled;
  return core_.now() - attempt.granted >= attempt_timeout_ ? ErrorCode::kDeadlineExceeded : ErrorCode::kUnavailable;
}

void DecodeRole::on(const handoff::DecodeQuiet& event) {
  Attempt* attempt = find(event.attempt);
  if (attempt == nullptr || attempt->state != State::kQuarantined) return;
  kv::PageLedger& ledger = core_.scheduler().ledger(attempt->group);
  for (const PageId page : attempt->quarantined) ledger.release_quarantined(page);
  attempts_.erase(event.attempt);
}

void DecodeRole::pair(const std::string& host, int port, bool told, std::function<void(Status)> done) {
  if (Status valid = check_address(host, port); !valid) {
    done(valid);
    return;
  }
  const std::string address = address_text(host, static_cast<uint16_t>(port));
  if (pairs_.contains(address)) {
    done({});
    return;
  }
  awaited_[address].push_back(std::move(done));
  handoff_->pair(host, static_cast<uint16_t>(port), told);
}

void DecodeRole::fill(EngineStats* stats) const {
  stats->waiting_grant = 0;
  stats->transferring = 0;
  for (const auto& [room, attempt] : attempts_) {
    stats->waiting_grant += attempt.state == State::kQueued;
    stats->transferring += attempt.state == State::kGranted && attempt.in_scheduler;
  }
  stats->waiting -= stats->waiting_grant + stats->transferring;  // counted by the scheduler as waiting and reserved
  stats->bootstrap_failed_total = bootstrap_failed_;
  stats->transfer_failed_total = transfer_failed_;
  fill_from_handoff(handoff_->stats(), stats);
  // What the plans name and nothing has gone over yet is a dummy so far.
  std::set<std::pair<int, int>> silent = links_;
  for (const EngineStats::Link& link : stats->links) silent.erase({link.source, link.destination});
  for (const auto& [source, destination] : silent) stats->links.push_back({source, destination, 0, 0, false});
}

std::string DecodeRole::describe_pairs() const {
  std::string text;
  for (const auto& [address, plan] : pairs_) text += plan;
  return text;
}

}  // namespace baton::engine
