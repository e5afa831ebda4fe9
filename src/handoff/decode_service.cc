// The thread, its pairs and their frames; decode_attempts.cc holds what concerns one attempt.
#include "handoff/decode_service.h"

#include <poll.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/thread.h"
#include "handoff/pairing.h"

namespace baton {
namespace {
constexpr Duration kStopTimeout = std::chrono::milliseconds(500);
constexpr Duration kFencePoll = std::chrono::milliseconds(10);
}  // namespace

DecodeHandoff::Service::Service(DecodeHandoffOptions options, Manifest self, Transport& transport,
                                std::vector<Pool> pools, DecodeSink sink)
    : options_(std::move(options)),
      self_(std::move(self)),
      transport_(transport),
      pools_(std::move(pools)),
      sink_(std::move(sink)),
      now_(clock_.now()),
      attention_(now_, options_.heartbeat / 2),
      resolver_([this] { wake_.wake(); }) {
  thread_ = std::thread([this] { run(); });
}

DecodeHandoff::Service::~Service() {
  stopping_ = true;
  wake_.wake();
  thread_.join();
}

void DecodeHandoff::Service::run() {
  name_thread("baton-handoff");
  while (!stopping_) {
    wait_for_work();
    take_commands();
    attention_.turn(now_);
    take_addresses();
    serve_pairs();
    forget_pairs();
    verify_slices();
    tick();
  }
  shut_down();
}

void DecodeHandoff::Service::wait_for_work() {
  Duration wait = options_.heartbeat / 4;
  bool verifying = false;
  std::vector<pollfd> fds{{wake_.fd(), POLLIN, 0}};
  for (const auto& [address, pair] : pairs_) {
    if (pair->state == Pair::State::kBackoff) wait = std::min(wait, pair->next_try - now_);
    if (pair->state == Pair::State::kConnecting) fds.push_back({pair->connecting.get(), POLLOUT, 0});
    if (!pair->connection) continue;
    const auto events = static_cast<short>(pair->connection->wants_write() ? POLLIN | POLLOUT : POLLIN);
    fds.push_back({pair->connection->fd(), events, 0});
  }
  for (const auto& [attempt, entry] : attempts_) {
    verifying = verifying || entry->verify;
    wait = std::min(wait, entry->machine.fencing() ? kFencePoll : entry->machine.deadline() - now_);
  }
  const auto ms = std::clamp<int64_t>(wait / std::chrono::milliseconds(1) + 1, 1, 1000);
  ::poll(fds.data(), fds.size(), verifying ? 0 : static_cast<int>(ms));
  wake_.clear();
}

// ---- pairs ----

DecodeHandoff::Service::Pair& DecodeHandoff::Service::pair_with(const std::string& host, uint16_t port) {
  std::unique_ptr<Pair>& slot = pairs_[{host, port}];
  if (!slot) {
    slot = std::make_unique<Pair>();
    slot->host = host;
    slot->port = port;
    slot->address = address_text(host, port);
    slot->next_try = now_;
    slot->backoff = options_.reconnect_min;
  }
  slot->wanted = now_;
  return *slot;
}

// Addresses come with requests: those that name nobody must not be tried, or kept, for ever.
void DecodeHandoff::Service::forget_pairs() {
  std::erase_if(pairs_, [this](const auto& entry) {
    const Pair& pair = *entry.second;
    return pair.state == Pair::State::kBackoff && now_ - pair.wanted > options_.forget_after &&
           attempts_of(pair).empty();
  });
}

void DecodeHandoff::Service::take_addresses() {
  for (HostResolver::Answer& answer : resolver_.answers()) {
    const auto found = pairs_.find({answer.host, answer.port});
    if (found == pairs_.end() || found->second->state != Pair::State::kResolving) continue;
    Pair& pair = *found->second;
    if (!answer.address) {
      pair_failed(pair, answer.address.error());
      continue;
    }
    Result<UniqueFd> fd = begin_connect(*answer.address);
    if (!fd) {
      pair_failed(pair,
                  error(ErrorCode::kUnavailable, "cannot reach prefill at {}: {}", pair.address, fd.error().message));
      continue;
    }
    pair.connecting = std::move(*fd);
    pair.state = Pair::State::kConnecting;
  }
}

void DecodeHandoff::Service::serve_pairs() {
  for (const auto& [address, pair] : pairs_) {
    switch (pair->state) {
      case Pair::State::kBackoff:
        if (now_ < pair->next_try) break;
        pair->state = Pair::State::kResolving;
        pair->since = now_;
        pair->attended = attention_.now();
        resolver_.ask(pair->host, pair->port);
        break;
      case Pair::State::kResolving:
        break;
      case Pair::State::kConnecting:
        serve_connecting(*pair);
        break;
      default:
        serve(*pair);
    }
    const bool unpaired = pair->state != Pair::State::kBackoff && pair->state != Pair::State::kPaired;
    if (unpaired && attention_.now() - pair->attended > options_.connect_timeout)
      pair_failed(*pair, error(ErrorCode::kUnavailable, "prefill at {} did not answer within {:.1f} s", pair->address,
                               to_seconds(options_.connect_timeout)));
  }
}

void DecodeHandoff::Service::serve_connecting(Pair& pair) {
  pollfd fd{pair.connecting.get(), POLLOUT, 0};
  if (::poll(&fd, 1, 0) != 1) return;
  if (const int code = connect_error(pair.connecting.get()); code != 0) {
    pair_failed(pair, error(ErrorCode::kUnavailable, "cannot reach prefill at {}: {}", pair.address, errno_text(code)));
    return;
  }
  pair.connection = std::make_unique<ControlConnection>(std::move(pair.connecting), attention_.now());
  pair.state = Pair::State::kManifest;
  pair.connection->send(self_);
}

void DecodeHandoff::Service::serve(Pair& pair) {
  pair.connection->receive(attention_.now());
  while (pair.connection) {
    Result<std::optional<Frame>> next = pair.connection->next();
    if (!next) {
      count([](HandoffStats& s) { ++s.bad_frames; });
      break;
    }
    if (!next->has_value()) break;
    frame(pair, **next);
  }
  if (!pair.connection) return;  // the frame ended it
  pair.connection->flush();
  if (pair.state == Pair::State::kPaired)
    pair.connection->beat(attention_.now(), options_.heartbeat, options_.heartbeat_misses);
  if (!pair.connection->broken()) return;
  if (pair.state == Pair::State::kPaired) {
    pair_lost(pair);
  } else {
    pair_failed(pair, error(ErrorCode::kUnavailable, "prefill at {}: {}", pair.address, pair.connection->why()));
  }
}

void DecodeHandoff::Service::frame(Pair& pair, Frame& frame) {
  if (const auto* refusal = std::get_if<Refuse>(&frame)) {
    count([](HandoffStats& s) { ++s.refusals; });
    if (pair.state == Pair::State::kPaired) return pair.connection->break_off("refused: " + refusal->text);
    return pair_failed(pair, error(ErrorCode::kIncompatible, "{}", refusal->text));
  }
  if (auto* manifest = std::get_if<Manifest>(&frame); manifest && pair.state == Pair::State::kManifest)
    return meet(pair, *manifest);
  if (const auto* accept = std::get_if<Accept>(&frame); accept && pair.state == Pair::State::kAccept) {
    if (accept->plan_hash == pair.planner->hash()) return paired(pair);
    return pair_failed(pair, error(ErrorCode::kIncompatible,
                                   "plan hash {:016x} here, {:016x} on prefill {}: start both with the same version",
                                   pair.planner->hash(), accept->plan_hash, pair.address));
  }
  if (pair.state == Pair::State::kPaired) {
    if (auto* commit = std::get_if<Commit>(&frame)) return on_commit(pair, *commit);
    if (const auto* ping = std::get_if<Ping>(&frame)) return pair.connection->send(Pong{ping->serial});
    if (const auto* pong = std::get_if<Pong>(&frame)) return pair.connection->on_pong(pong->serial);
    if (const auto* cancel = std::get_if<Cancel>(&frame)) {
      const auto found = attempts_.find(cancel->attempt);
      if (found != attempts_.end() && found->second->digest == cancel->grant_digest &&
          found->second->machine.writer() == pair.peer.incarnation)
        return step(cancel->attempt, DecodeAttempt::CancelThere{cancel->reason, cancel->fault});
      return pair.connection->send(Drained{cancel->attempt, cancel->grant_digest});
    }
    if (const auto* drained = std::get_if<Drained>(&frame)) {
      const auto found = attempts_.find(drained->attempt);
      // Evidence counts only from the incarnation that was granted, about that very grant.
      if (found != attempts_.end() && found->second->digest == drained->grant_digest &&
          found->second->machine.writer() == pair.peer.incarnation)
        step(drained->attempt, DecodeAttempt::DrainedCame{});
      return;
    }
  }
  count([](HandoffStats& s) { ++s.bad_frames; });
  pair.connection->break_off(fmt::format("a {} frame has no place here", frame_name(frame)));
}

void DecodeHandoff::Service::meet(Pair& pair, Manifest& manifest) {
  const auto refuse = [&](const Error& why) {
    count([](HandoffStats& s) { ++s.refusals; });
    pair.connection->send(Refuse{why.message});
    pair_failed(pair, why);
  };
  if (const Status own = check_blob(manifest); !own) return refuse(own.error());
  Result<Planner> planner = agree(manifest, self_);
  if (!planner) return refuse(planner.error());
  pair.peer = std::move(manifest);
  pair.planner = std::make_shared<const Planner>(std::move(*planner));
  pair.state = Pair::State::kAccept;
  pair.connection->send(Accept{pair.planner->hash()});
}

void DecodeHandoff::Service::paired(Pair& pair) {
  pair.state = Pair::State::kPaired;
  pair.connection->set_paired();
  pair.backoff = options_.reconnect_min;
  pair.last_failure.clear();
  log_info("handoff: paired with prefill {} at {}", pair.peer.layout.to_string(), pair.address);
  count([](HandoffStats& s) {
    ++s.pairings;
    ++s.peers;
  });
  Manifest summary = pair.peer;
  summary.transport_blob.clear();
  sink_(DecodePaired{pair.address, {}, std::move(summary), pair.planner->hash()});
  for (const AttemptId attempt : attempts_of(pair)) {
    Entry& entry = *attempts_.at(attempt);
    if (entry.machine.state() == DecodeAttempt::State::kPairing) {
      offer(attempt, entry);
    } else if (entry.machine.state() == DecodeAttempt::State::kQuarantined &&
               entry.machine.writer() == pair.peer.incarnation) {
      // Its Drained may have been lost with the old connection: ask again.
      pair.connection->send(Cancel{attempt, entry.digest, true, "the connection was lost"});
    }
  }
}

void DecodeHandoff::Service::back_off(Pair& pair) {
  pair.connection.reset();
  pair.connecting.reset();
  pair.state = Pair::State::kBackoff;
  pair.next_try = now_ + pair.backoff;
  pair.backoff = std::min(pair.backoff * 2, options_.reconnect_max);
}

void DecodeHandoff::Service::pair_failed(Pair& pair, const Status& status) {
  const bool refused = status.error().code == ErrorCode::kIncompatible;
  if (refused) pair.backoff = options_.reconnect_max;
  back_off(pair);
  if (pair.last_failure != status.error().message) {
    pair.last_failure = status.error().message;
    log_warning("handoff: {}", status.error().message);
  }
  sink_(DecodePaired{pair.address, status, {}, 0});  // each time: whoever asked meanwhile waits for it
  for (const AttemptId attempt : attempts_of(pair))
    step(attempt, DecodeAttempt::PairFailed{refused, status.error().message});
}

void DecodeHandoff::Service::pair_lost(Pair& pair) {
  const std::string why = pair.connection->why();
  log_warning("handoff: lost prefill at {} ({})", pair.address, why);
  count([](HandoffStats& s) {
    ++s.peers_lost;
    --s.peers;
  });
  pair.wanted = now_;
  back_off(pair);
  sink_(DecodePairLost{pair.address, why});
  for (const AttemptId attempt : attempts_of(pair)) step(attempt, DecodeAttempt::PeerLost{why});
}

std::vector<AttemptId> DecodeHandoff::Service::attempts_of(const Pair& pair) const {
  std::vector<AttemptId> theirs;
  for (const auto& [attempt, entry] : attempts_) {
    if (entry->pair == &pair) theirs.push_back(attempt);
  }
  return theirs;
}

void DecodeHandoff::Service::shut_down() {
  take_commands();
  std::vector<AttemptId> all;
  for (const auto& [attempt, entry] : attempts_) all.push_back(attempt);
  for (const AttemptId attempt : all)
    step(attempt, DecodeAttempt::CancelHere{"the decode instance is stopping", false});
  const TimePoint until = now_ + kStopTimeout;
  while (!attempts_.empty() && now_ < until) {
    wait_for_work();
    now_ = clock_.now();
    attention_.turn(now_);
    serve_pairs();
    tick();
  }
  for (const auto& [address, pair] : pairs_) {
    if (pair->connection) pair->connection->flush();
  }
}

// ---- DecodeHandoff ----

DecodeHandoff::DecodeHandoff(std::unique_ptr<Service> service) : service_(std::move(service)) {}
DecodeHandoff::~DecodeHandoff() = default;

Result<std::unique_ptr<DecodeHandoff>> DecodeHandoff::start(DecodeHandoffOptions options, Manifest self,
                                                            Transport& transport, std::vector<Pool> pools,
                                                            DecodeSink sink) {
  BATON_ASSIGN(Manifest manifest, complete_manifest(std::move(self), InstanceRole::kDecode, transport, pools));
  auto service =
      std::make_unique<Service>(std::move(options), std::move(manifest), transport, std::move(pools), std::move(sink));
  return std::unique_ptr<DecodeHandoff>(new DecodeHandoff(std::move(service)));
}

void DecodeHandoff::pair(const std::string& host, uint16_t port) { service_->pair(host, port); }
Status DecodeHandoff::receive(DecodeRequest request) { return service_->receive(std::move(request)); }
void DecodeHandoff::cancel(AttemptId attempt, std::string reason) { service_->cancel(attempt, std::move(reason)); }
HandoffStats DecodeHandoff::stats() const { return service_->stats(); }

}  // namespace baton
