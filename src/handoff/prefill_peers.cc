// The part of the prefill service that concerns its control connections: who gets one, how two instances meet, and
// which frame goes where.
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "handoff/pairing.h"
#include "handoff/prefill_service.h"

namespace baton::handoff {
namespace {
constexpr int kAcceptsMax = 64;  // of a turn, so that a flood of connections leaves time for the peers
}  // namespace

// ---- places and bytes ----

void PrefillHandoff::Service::accept_peers() {
  for (int i = 0; i < kAcceptsMax; ++i) {
    UniqueFd fd = listener_.accept(now_);
    if (!fd.valid()) return;
    if (peers_.size() >= options_.peers_max && !make_room()) continue;  // closed at once
    peers_.emplace(next_peer_++, std::make_unique<Peer>(std::move(fd), attention_.now(), options_.key));
  }
}

// Of those that have proved nothing one that is not paired goes first, then the one not heard for longest.
bool PrefillHandoff::Service::make_room() {
  const auto rank = [](const Peer& peer) {
    return std::pair(peer.state == Peer::State::kPaired, peer.connection.heard());
  };
  uint64_t least = 0;
  for (const auto& [id, peer] : peers_) {
    if (!peer->proved && (least == 0 || rank(*peer) < rank(*peers_.at(least)))) least = id;
  }
  if (least == 0) {
    strangers_log_.warning(
        attention_.now(),
        fmt::format("handoff: {} control connections of proved peers, one more refused", peers_.size()));
    return false;
  }
  peers_.at(least)->connection.abandon(fmt::format("{} control connections: room for a new one", peers_.size()));
  drop_peer(least);
  return true;
}

void PrefillHandoff::Service::recount(Peer& peer) {
  const size_t causes = peer.proved ? 0 : peer.connection.buffered() + peer.early_bytes;
  unproved_bytes_ += causes - peer.counted;
  peer.counted = causes;
  while (unproved_bytes_ > options_.unproved_bytes_max) {
    Peer* most = &peer;
    for (const auto& [id, other] : peers_) {
      if (other->counted > most->counted) most = other.get();
    }
    if (most->counted == 0) return;
    most->connection.abandon(fmt::format("it causes {} of the {} bytes that peers which have proved nothing may cause",
                                         most->counted, options_.unproved_bytes_max));
    unproved_bytes_ -= std::exchange(most->counted, 0);
    if (most == &peer) return;
  }
}

// ---- a turn ----

// Paired peers first, so that strangers do not hold them up; the others in turn, as only one is planned for in a turn
// of the thread.
void PrefillHandoff::Service::serve_peers() {
  std::vector<uint64_t> ids;
  const auto add = [&](bool paired, uint64_t from, uint64_t to) {
    for (auto it = peers_.upper_bound(from); it != peers_.end() && it->first <= to; ++it) {
      if ((it->second->state == Peer::State::kPaired) == paired) ids.push_back(it->first);
    }
  };
  add(true, 0, UINT64_MAX);
  add(false, planned_for_, UINT64_MAX);
  add(false, 0, planned_for_);
  planned_ = input_left_ = false;
  for (const uint64_t id : ids) {
    const auto found = peers_.find(id);
    if (found == peers_.end()) continue;  // dropped for another's sake
    Peer& peer = *found->second;
    if (!peer.connection.broken()) serve(id, peer);
    if (!peer.connection.broken() && !peer.proved) recount(peer);
    if (peer.connection.broken()) drop_peer(id);
  }
}

void PrefillHandoff::Service::serve(uint64_t id, Peer& peer) {
  ControlConnection& connection = peer.connection;
  connection.receive(attention_.now());
  while (peer.state != Peer::State::kRefused) {
    if (peer.state == Peer::State::kManifest && planned_) {
      input_left_ = input_left_ || connection.has_input();
      break;
    }
    Result<std::optional<wire::Frame>> next = connection.next();
    if (!next) {
      strangers_log_.warning(attention_.now(), "handoff: dropping a decode connection: " + next.error().message);
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
  } else if (attention_.now() - peer.since > options_.handshake_timeout ||
             (peer.state == Peer::State::kRefused && !connection.wants_write())) {
    connection.break_off(peer.state == Peer::State::kRefused ? "refused" : "no handshake in time");
  }
}

void PrefillHandoff::Service::drop_peer(uint64_t id) {
  const auto found = peers_.find(id);
  const std::unique_ptr<Peer> peer = std::move(found->second);
  peers_.erase(found);
  unproved_bytes_ -= peer->counted;
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

// ---- frames ----

void PrefillHandoff::Service::frame(uint64_t id, Peer& peer, wire::Frame& frame) {
  using State = Peer::State;
  if (const auto* refusal = std::get_if<wire::Refuse>(&frame)) {
    strangers_log_.warning(attention_.now(), "handoff: decode refuses: " + refusal->text);
    count([](HandoffStats& s) { ++s.refusals; });
    peer.connection.break_off("refused by decode");
    return;
  }
  if (const auto* hello = std::get_if<wire::Hello>(&frame); hello && peer.state == State::kHello)
    return greet(peer, *hello);
  if (const auto* proof = std::get_if<wire::Proof>(&frame); proof && peer.state == State::kProof) {
    if (!peer.handshake.proved_by(*proof))
      return refuse(peer, "decode's proof of the shared key is wrong: give both the same --handoff-key-file");
    peer.state = State::kManifest;
    return;
  }
  if (auto* manifest = std::get_if<wire::Manifest>(&frame); manifest && peer.state == State::kManifest)
    return meet(id, peer, *manifest);
  if (const auto* accept = std::get_if<wire::Accept>(&frame); accept && peer.state == State::kAccept)
    return accepted(peer, *accept);
  if (peer.state == State::kPaired) return paired_frame(id, peer, frame);
  count([](HandoffStats& s) { ++s.bad_frames; });
  peer.connection.abandon(fmt::format("a {} frame has no place here", wire::frame_name(frame)));
}

void PrefillHandoff::Service::paired_frame(uint64_t id, Peer& peer, wire::Frame& frame) {
  if (auto* grant = std::get_if<wire::Grant>(&frame)) return on_grant(id, peer, *grant);
  if (const auto* cancel = std::get_if<wire::Cancel>(&frame)) return on_cancel(peer, *cancel);
  if (const auto* ping = std::get_if<wire::Ping>(&frame)) return peer.connection.send(wire::Pong{ping->serial});
  if (const auto* pong = std::get_if<wire::Pong>(&frame)) return peer.connection.on_pong(pong->serial);
  const auto about = [&](AttemptId attempt, uint64_t digest, const PrefillAttempt::Input& input) {
    const auto found = attempts_.find(attempt);
    if (found == attempts_.end() || found->second->digest != digest ||
        found->second->grant.decode != peer.manifest.incarnation)
      return count([](HandoffStats& s) { ++s.stale_frames; });
    step(attempt, input);
  };
  if (const auto* release = std::get_if<wire::Release>(&frame))
    return about(release->attempt, release->grant_digest, PrefillAttempt::ReleaseCame{});
  if (const auto* drained = std::get_if<wire::Drained>(&frame)) {
    // The answer to a Cancel of ours; most often we are done already.
    if (attempts_.contains(drained->attempt))
      about(drained->attempt, drained->grant_digest, PrefillAttempt::DrainedCame{});
    return;
  }
  count([](HandoffStats& s) { ++s.bad_frames; });
  peer.connection.abandon(fmt::format("a {} frame has no place here", wire::frame_name(frame)));
}

// ---- meeting ----

void PrefillHandoff::Service::greet(Peer& peer, const wire::Hello& hello) {
  const Result<uint16_t> version = peer.handshake.greet(hello);
  if (!version) return refuse(peer, version.error().message);
  peer.connection.send(peer.handshake.hello());
  peer.connection.set_version(*version);
  peer.state = Peer::State::kManifest;
  if (!peer.handshake.keyed()) return;
  peer.connection.send(peer.handshake.prove());
  peer.state = Peer::State::kProof;
}

void PrefillHandoff::Service::refuse(Peer& peer, const std::string& text) {
  strangers_log_.warning(attention_.now(), "handoff: refusing a decode instance: " + text);
  count([](HandoffStats& s) { ++s.refusals; });
  peer.connection.send(wire::Refuse{text});
  peer.state = Peer::State::kRefused;
}

void PrefillHandoff::Service::meet(uint64_t id, Peer& peer, wire::Manifest& manifest) {
  planned_ = true;
  planned_for_ = id;
  if (const Status own = check_blob(manifest); !own) return refuse(peer, own.error().message);
  Result<layout::Planner> planner = agree(self_, manifest);
  if (!planner) return refuse(peer, planner.error().message);
  if (manifest.kv_dtype != self_.kv_dtype) {
    const Result<ConvertedKv*> converted = converted_to(manifest.kv_dtype);
    if (!converted)
      return refuse(peer, fmt::format("prefill has no memory to convert its KV of {} to {}: {}", self_.kv_dtype,
                                      manifest.kv_dtype, converted.error().message));
    peer.converted_kv = *converted;
  }
  peer.manifest = std::move(manifest);
  peer.planner = std::make_shared<const layout::Planner>(std::move(*planner));
  peer.state = Peer::State::kElders;
  peer.since = attention_.now();
  std::vector<uint64_t> unpaired;
  for (auto& [other_id, other] : peers_) {
    if (other_id == id || other->planner == nullptr) continue;  // it has not said who it is
    if (other->manifest.incarnation != peer.manifest.incarnation) continue;
    if (other->state == Peer::State::kPaired) {
      peer.elders[other_id] = other->connection.ping(attention_.now());
    } else if (other->state != Peer::State::kRefused) {
      unpaired.push_back(other_id);
    }
  }
  for (const uint64_t other : unpaired) drop_peer(other);
  await_elders(peer);
}

Result<ConvertedKv*> PrefillHandoff::Service::converted_to(const std::string& kv_dtype) {
  BATON_ASSIGN(const tensor::DType from, tensor::parse_dtype(self_.kv_dtype));
  BATON_ASSIGN(const tensor::DType to, tensor::parse_dtype(kv_dtype));
  std::unique_ptr<ConvertedKv>& made = converted_kv_[to];
  if (made == nullptr) {
    BATON_ASSIGN(made, ConvertedKv::make(transport_, pools_, self_.layout.dp, from, to, options_.converted_bytes_max));
  }
  return made.get();
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
  Result<transport::PeerId> connected = transport_.connect(peer.manifest.transport_blob);
  if (!connected)
    return refuse(peer, fmt::format("prefill cannot reach decode's memory: {}", connected.error().message));
  peer.transport_peer = *connected;
  peer.connected = true;
  peer.state = Peer::State::kAccept;
  peer.since = attention_.now();
  peer.connection.send(self_);
  peer.connection.send(peer.handshake.accept(peer.manifest, self_, peer.planner->hash()));
}

void PrefillHandoff::Service::accepted(Peer& peer, const wire::Accept& accept) {
  if (accept.plan_hash != peer.planner->hash())
    return refuse(peer, fmt::format("plan hash {:016x} on decode, {:016x} on prefill: start both with the same version",
                                    accept.plan_hash, peer.planner->hash()));
  if (!peer.handshake.accepted_by(accept, peer.manifest, self_))
    return refuse(peer, "decode's proof over the manifests is wrong: they were changed on their way");
  peer.state = Peer::State::kPaired;
  peer.proved = peer.handshake.keyed();
  peer.connection.set_paired();
  recount(peer);
  log_info("handoff: paired with decode {} {}, {} KV", peer.manifest.layout.to_string(),
           peer.manifest.incarnation.to_string(), peer.manifest.kv_dtype);
  count([](HandoffStats& s) {
    ++s.pairings;
    ++s.peers;
  });
}

}  // namespace baton::handoff
