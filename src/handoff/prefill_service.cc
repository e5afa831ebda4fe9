// The thread, its control connections and their frames; prefill_attempts.cc holds what concerns one attempt.
#include "handoff/prefill_service.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/thread.h"
#include "handoff/pairing.h"

namespace baton {
namespace {
constexpr Duration kHandshakeTimeout = std::chrono::seconds(5);
constexpr size_t kPeersMax = 1024;
constexpr int kAcceptsMax = 64;  // of a turn, so that a flood of them leaves time for those that are here
constexpr Duration kStopTimeout = std::chrono::seconds(2);
}  // namespace

PrefillHandoff::Service::Service(PrefillHandoffOptions options, Manifest self, Transport& transport,
                                 std::vector<Pool> pools, PrefillSink sink, UniqueFd listener)
    : options_(std::move(options)),
      self_(std::move(self)),
      transport_(transport),
      pools_(std::move(pools)),
      sink_(std::move(sink)),
      listener_(std::move(listener)),
      now_(clock_.now()),
      attention_(now_, options_.heartbeat / 2) {
  const Result<SocketAddress> bound = bound_address(listener_.fd());
  port_ = bound ? bound->port() : 0;
  thread_ = std::thread([this] { run(); });
}

PrefillHandoff::Service::~Service() {
  stopping_ = true;
  wake_.wake();
  thread_.join();
}

void PrefillHandoff::Service::run() {
  name_thread("baton-handoff");
  while (!stopping_) {
    wait_for_work();
    take_commands();
    attention_.turn(now_);
    accept_peers();
    serve_peers();
    take_transfer_events();
    tick();
    pump();
  }
  shut_down();
}

void PrefillHandoff::Service::wait_for_work() {
  const auto listening = static_cast<short>(listener_.paused(now_) ? 0 : POLLIN);
  std::vector<pollfd> fds{{wake_.fd(), POLLIN, 0}, {listener_.fd(), listening, 0}, {transport_.event_fd(), POLLIN, 0}};
  for (const auto& [id, peer] : peers_) {
    const auto events = static_cast<short>(peer->connection.wants_write() ? POLLIN | POLLOUT : POLLIN);
    fds.push_back({peer->connection.fd(), events, 0});
  }
  ::poll(fds.data(), fds.size(), poll_timeout_ms());
  wake_.clear();
}

int PrefillHandoff::Service::poll_timeout_ms() const {
  if (pump_again_) return 0;
  if (!pump_order_.empty()) return 2;  // the transport's queue was full
  Duration wait = options_.heartbeat / 4;
  for (const auto& [id, peer] : peers_) {
    if (peer->connection.broken()) return 0;  // it is to be dropped
    if (peer->state == Peer::State::kElders) wait = std::min(wait, options_.replace_after / 4);
  }
  for (const auto& [attempt, entry] : attempts_) wait = std::min(wait, entry->machine.deadline() - now_);
  return static_cast<int>(std::clamp<int64_t>(wait / std::chrono::milliseconds(1) + 1, 1, 1000));
}

void PrefillHandoff::Service::accept_peers() {
  for (int i = 0; i < kAcceptsMax; ++i) {
    UniqueFd fd = listener_.accept(now_);
    if (!fd.valid()) return;
    if (peers_.size() >= kPeersMax) continue;  // closed at once
    peers_.emplace(next_peer_++, std::make_unique<Peer>(std::move(fd), attention_.now()));
  }
}

void PrefillHandoff::Service::serve_peers() {
  std::vector<uint64_t> ids;
  for (const auto& [id, peer] : peers_) ids.push_back(id);
  for (const uint64_t id : ids) {
    const auto found = peers_.find(id);
    if (found == peers_.end()) continue;  // replaced by a newer connection of its instance
    serve(id, *found->second);
    if (found->second->connection.broken()) drop_peer(id);
  }
}

void PrefillHandoff::Service::serve(uint64_t id, Peer& peer) {
  ControlConnection& connection = peer.connection;
  connection.receive(attention_.now());
  while (peer.state != Peer::State::kRefused) {
    Result<std::optional<Frame>> next = connection.next();
    if (!next) {
      log_warning("handoff: dropping a decode connection: {}", next.error().message);
      count([](HandoffStats& s) { ++s.bad_frames; });
      return;
    }
    if (!next->has_value()) break;
    frame(id, peer, **next);
  }
  connection.flush();
  if (peer.state == Peer::State::kElders && !connection.broken()) await_elders(peer);
  if (peer.state == Peer::State::kPaired) {
    connection.beat(attention_.now(), options_.heartbeat, options_.heartbeat_misses);
  } else if (attention_.now() - peer.since > kHandshakeTimeout ||
             (peer.state == Peer::State::kRefused && !connection.wants_write())) {
    connection.break_off(peer.state == Peer::State::kRefused ? "refused" : "no handshake in time");
  }
}

void PrefillHandoff::Service::drop_peer(uint64_t id) {
  const auto found = peers_.find(id);
  const std::unique_ptr<Peer> peer = std::move(found->second);
  peers_.erase(found);
  if (peer->state == Peer::State::kPaired) {
    log_warning("handoff: lost decode {} ({})", peer->manifest.incarnation.to_string(), peer->connection.why());
    count([](HandoffStats& s) {
      ++s.peers_lost;
      --s.peers;
    });
  }
  std::vector<AttemptId> theirs;
  for (const auto& [attempt, entry] : attempts_) {
    if (entry->peer == id) theirs.push_back(attempt);
  }
  for (const AttemptId attempt : theirs) step(attempt, PrefillAttempt::PeerLost{peer->connection.why()});
  if (peer->connected) transport_.forget(peer->transport_peer);
}

void PrefillHandoff::Service::frame(uint64_t id, Peer& peer, Frame& frame) {
  if (auto* manifest = std::get_if<Manifest>(&frame); manifest && peer.state == Peer::State::kManifest) {
    meet(id, peer, *manifest);
    return;
  }
  if (const auto* accept = std::get_if<Accept>(&frame); accept && peer.state == Peer::State::kAccept) {
    if (accept->plan_hash != peer.planner->hash()) {
      refuse(peer, fmt::format("plan hash {:016x} on decode, {:016x} on prefill: start both with the same version",
                               accept->plan_hash, peer.planner->hash()));
      return;
    }
    peer.state = Peer::State::kPaired;
    peer.connection.set_paired();
    log_info("handoff: paired with decode {} {}", peer.manifest.layout.to_string(),
             peer.manifest.incarnation.to_string());
    count([](HandoffStats& s) {
      ++s.pairings;
      ++s.peers;
    });
    return;
  }
  if (const auto* refusal = std::get_if<Refuse>(&frame)) {
    log_warning("handoff: decode refuses: {}", refusal->text);
    count([](HandoffStats& s) { ++s.refusals; });
    peer.connection.break_off("refused by decode");
    return;
  }
  if (peer.state == Peer::State::kPaired) {
    if (auto* grant = std::get_if<Grant>(&frame)) return on_grant(id, peer, *grant);
    if (const auto* cancel = std::get_if<Cancel>(&frame)) return on_cancel(peer, *cancel);
    if (const auto* ping = std::get_if<Ping>(&frame)) return peer.connection.send(Pong{ping->serial});
    if (const auto* pong = std::get_if<Pong>(&frame)) return peer.connection.on_pong(pong->serial);
    const auto about = [&](AttemptId attempt, uint64_t digest, const PrefillAttempt::Input& input) {
      const auto found = attempts_.find(attempt);
      if (found == attempts_.end() || found->second->digest != digest)
        return count([](HandoffStats& s) { ++s.stale_frames; });
      step(attempt, input);
    };
    if (const auto* release = std::get_if<Release>(&frame))
      return about(release->attempt, release->grant_digest, PrefillAttempt::ReleaseCame{});
    if (const auto* drained = std::get_if<Drained>(&frame)) {
      // The answer to a Cancel of ours; most often we are done already.
      if (attempts_.contains(drained->attempt))
        about(drained->attempt, drained->grant_digest, PrefillAttempt::DrainedCame{});
      return;
    }
  }
  count([](HandoffStats& s) { ++s.bad_frames; });
  peer.connection.break_off(fmt::format("a {} frame has no place here", frame_name(frame)));
}

void PrefillHandoff::Service::refuse(Peer& peer, const std::string& text) {
  log_warning("handoff: refusing a decode instance: {}", text);
  count([](HandoffStats& s) { ++s.refusals; });
  peer.connection.send(Refuse{text});
  peer.state = Peer::State::kRefused;
}

void PrefillHandoff::Service::meet(uint64_t id, Peer& peer, Manifest& manifest) {
  if (const Status own = check_blob(manifest); !own) return refuse(peer, own.error().message);
  Result<Planner> planner = agree(self_, manifest);
  if (!planner) return refuse(peer, planner.error().message);
  peer.manifest = std::move(manifest);
  peer.planner = std::make_shared<const Planner>(std::move(*planner));
  peer.state = Peer::State::kElders;
  peer.since = attention_.now();
  std::vector<uint64_t> unpaired;
  for (auto& [other_id, other] : peers_) {
    if (other_id == id || other->manifest.incarnation != peer.manifest.incarnation) continue;
    if (other->state == Peer::State::kPaired) {
      peer.elders[other_id] = other->connection.ping(attention_.now());
    } else if (other->state != Peer::State::kRefused) {
      unpaired.push_back(other_id);
    }
  }
  for (const uint64_t other : unpaired) drop_peer(other);
  await_elders(peer);
}

// The same process comes again. What its old connection still holds must not act after this one (S8): when that answers
// a ping, all that was sent before has been read, and both may live (an instance that knows us by two addresses);
// otherwise it is dead, or somebody else's.
void PrefillHandoff::Service::await_elders(Peer& peer) {
  const bool late = attention_.now() - peer.since > options_.replace_after;
  for (auto it = peer.elders.begin(); it != peer.elders.end();) {
    const auto [elder, serial] = *it;
    const auto found = peers_.find(elder);
    const bool answered = found == peers_.end() || found->second->connection.has_answered(serial);
    if (!answered && !late && !found->second->connection.broken()) return;
    it = peer.elders.erase(it);
    if (answered) continue;
    found->second->connection.break_off("replaced by a newer connection of the same instance");
    drop_peer(elder);
  }
  admit(peer);
}

void PrefillHandoff::Service::admit(Peer& peer) {
  Result<PeerId> connected = transport_.connect(peer.manifest.transport_blob);
  if (!connected)
    return refuse(peer, fmt::format("prefill cannot reach decode's memory: {}", connected.error().message));
  peer.transport_peer = *connected;
  peer.connected = true;
  peer.state = Peer::State::kAccept;
  peer.since = attention_.now();
  peer.connection.send(self_);
  peer.connection.send(Accept{peer.planner->hash()});
}

void PrefillHandoff::Service::shut_down() {
  take_commands();
  const TimePoint until = now_ + kStopTimeout;
  std::vector<AttemptId> all;
  for (const auto& [attempt, entry] : attempts_) all.push_back(attempt);
  for (const AttemptId attempt : all)
    step(attempt, PrefillAttempt::CancelHere{"the prefill instance is stopping", false});
  while (!attempts_.empty() && now_ < until) {
    pollfd fds[] = {{transport_.event_fd(), POLLIN, 0}};
    ::poll(fds, 1, 10);
    take_commands();
    attention_.turn(now_);
    serve_peers();
    take_transfer_events();
    tick();
  }
  for (const auto& [attempt, entry] : attempts_) {
    if (!entry->machine.begun()) continue;
    emit_ended({.attempt = attempt,
                .outcome = AttemptOutcome::kFailed,
                .message = "the prefill instance stopped",
                .quiet = entry->machine.sources_quiet(),
                .bytes = entry->bytes,
                .copies = entry->copies},
               "engine");
  }
  for (const auto& [id, peer] : peers_) peer->connection.flush();
}

// ---- PrefillHandoff ----

PrefillHandoff::PrefillHandoff(std::unique_ptr<Service> service) : service_(std::move(service)) {}
PrefillHandoff::~PrefillHandoff() = default;

Result<std::unique_ptr<PrefillHandoff>> PrefillHandoff::start(PrefillHandoffOptions options, Manifest self,
                                                              Transport& transport, std::vector<Pool> pools,
                                                              PrefillSink sink) {
  BATON_ASSIGN(Manifest manifest, complete_manifest(std::move(self), InstanceRole::kPrefill, transport, pools));
  BATON_ASSIGN(UniqueFd listener, listen_on(options.host, options.port));
  auto service = std::make_unique<Service>(std::move(options), std::move(manifest), transport, std::move(pools),
                                           std::move(sink), std::move(listener));
  return std::unique_ptr<PrefillHandoff>(new PrefillHandoff(std::move(service)));
}

uint16_t PrefillHandoff::port() const { return service_->port(); }
Status PrefillHandoff::begin(AttemptId attempt, int dp_rank, int64_t prompt_tokens, TimePoint deadline) {
  return service_->begin(attempt, dp_rank, prompt_tokens, deadline);
}
void PrefillHandoff::computed(AttemptId attempt, int64_t end, std::vector<PageId> new_pages) {
  service_->computed(attempt, end, std::move(new_pages));
}
void PrefillHandoff::finish(AttemptId attempt, FirstToken first, HandoffDurations durations) {
  service_->finish(attempt, std::move(first), durations);
}
void PrefillHandoff::cancel(AttemptId attempt, std::string reason, bool fault) {
  service_->cancel(attempt, std::move(reason), fault);
}
HandoffStats PrefillHandoff::stats() const { return service_->stats(); }

}  // namespace baton
