// The part of the decode service that concerns its control connections: whom it meets, how, and which frame goes where.
#include <poll.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "handoff/decode_service.h"
#include "handoff/pairing.h"

namespace baton::handoff {

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

// Addresses come with requests: those that name nobody must not be tried, or kept, for ever, nor too many of them.
void DecodeHandoff::Service::forget_pairs() {
  const auto idle = [this](const Pair& pair) {
    return pair.state == Pair::State::kBackoff && attempts_of(pair).empty();
  };
  std::erase_if(pairs_, [&](const auto& entry) {
    return now_ - entry.second->wanted > options_.forget_after && idle(*entry.second);
  });
  while (pairs_.size() > options_.pairs_max) {
    auto least = pairs_.end();
    for (auto it = pairs_.begin(); it != pairs_.end(); ++it) {
      if (idle(*it->second) && (least == pairs_.end() || it->second->wanted < least->second->wanted)) least = it;
    }
    if (least == pairs_.end()) return;
    pairs_.erase(least);
  }
}

// ---- trust ----

Status DecodeHandoff::Service::check_trust(const std::string& host, uint16_t port) const {
  if (!options_.key.empty() || trusted_.may_ask_for(host, port)) return {};
  return error(ErrorCode::kForbidden,
               "this decode instance was not told of a prefill instance at {}: name it in "
               "--disaggregation-prefill-peers, pair through a router (with --api-key on both), or give both instances "
               "the same --handoff-key-file",
               address_text(host, port));
}

// Of the address that will be connected to, whatever name led to it.
Status DecodeHandoff::Service::check_address(const Pair& pair, const SocketAddress& address) const {
  if (is_unspecified(address))
    return error(ErrorCode::kForbidden, "{} is no address of a prefill instance: name the one that it listens on",
                 pair.address);
  if (!options_.key.empty() || trusted_.may_connect(pair.host, pair.port, address)) return {};
  return error(ErrorCode::kForbidden, "{} leads to {}, which this decode instance was not told of", pair.address,
               canonical_text(address));
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
    if (const Status good = check_address(pair, *answer.address); !good) {
      pair_failed(pair, good);
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
        if (now_ < pair->next_try || trying() >= options_.connecting_max) break;
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

size_t DecodeHandoff::Service::trying() const {
  return static_cast<size_t>(std::count_if(pairs_.begin(), pairs_.end(), [](const auto& entry) {
    return entry.second->state != Pair::State::kBackoff && entry.second->state != Pair::State::kPaired;
  }));
}

void DecodeHandoff::Service::serve_connecting(Pair& pair) {
  pollfd fd{pair.connecting.get(), POLLOUT, 0};
  if (::poll(&fd, 1, 0) != 1) return;
  if (const int code = connect_error(pair.connecting.get()); code != 0) {
    pair_failed(pair, error(ErrorCode::kUnavailable, "cannot reach prefill at {}: {}", pair.address, errno_text(code)));
    return;
  }
  pair.connection = std::make_unique<ControlConnection>(std::move(pair.connecting), attention_.now());
  pair.handshake.emplace(wire::InstanceRole::kDecode, options_.key);
  pair.state = Pair::State::kHello;
  pair.connection->send(pair.handshake->hello());
}

void DecodeHandoff::Service::serve(Pair& pair) {
  pair.connection->receive(attention_.now());
  while (pair.connection) {
    Result<std::optional<wire::Frame>> next = pair.connection->next();
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

void DecodeHandoff::Service::frame(Pair& pair, wire::Frame& frame) {
  using State = Pair::State;
  if (const auto* refusal = std::get_if<wire::Refuse>(&frame)) {
    count([](HandoffStats& s) { ++s.refusals; });
    if (pair.state == State::kPaired) return pair.connection->break_off("refused: " + refusal->text);
    return pair_failed(pair, error(ErrorCode::kIncompatible, "{}", refusal->text));
  }
  if (const auto* hello = std::get_if<wire::Hello>(&frame); hello && pair.state == State::kHello)
    return greet(pair, *hello);
  if (const auto* proof = std::get_if<wire::Proof>(&frame); proof && pair.state == State::kProof) {
    if (!pair.handshake->proved_by(*proof))
      return refuse(pair, error(ErrorCode::kIncompatible,
                                "prefill's proof of the shared key is wrong: give both the same --handoff-key-file"));
    pair.connection->send(pair.handshake->prove());
    pair.connection->send(self_);
    pair.state = State::kManifest;
    return;
  }
  if (auto* manifest = std::get_if<wire::Manifest>(&frame); manifest && pair.state == State::kManifest)
    return meet(pair, *manifest);
  if (const auto* accept = std::get_if<wire::Accept>(&frame); accept && pair.state == State::kAccept)
    return accepted(pair, *accept);
  if (pair.state == State::kPaired) return paired_frame(pair, frame);
  count([](HandoffStats& s) { ++s.bad_frames; });
  pair.connection->abandon(fmt::format("a {} frame has no place here", wire::frame_name(frame)));
}

void DecodeHandoff::Service::paired_frame(Pair& pair, wire::Frame& frame) {
  if (auto* part = std::get_if<wire::PromptLogprobs>(&frame)) return on_prompt_logprobs(pair, *part);
  if (auto* commit = std::get_if<wire::Commit>(&frame)) return on_commit(pair, *commit);
  if (const auto* ping = std::get_if<wire::Ping>(&frame)) return pair.connection->send(wire::Pong{ping->serial});
  if (const auto* pong = std::get_if<wire::Pong>(&frame)) return pair.connection->on_pong(pong->serial);
  // Words count only from the incarnation that was granted, about that very grant.
  const auto concerns = [&](AttemptId attempt, uint64_t digest) {
    const auto found = attempts_.find(attempt);
    return found != attempts_.end() && found->second->digest == digest &&
           found->second->machine.writer() == pair.peer.incarnation;
  };
  if (const auto* cancel = std::get_if<wire::Cancel>(&frame)) {
    if (concerns(cancel->attempt, cancel->grant_digest))
      return step(cancel->attempt, DecodeAttempt::CancelThere{cancel->reason, cancel->fault});
    return pair.connection->send(wire::Drained{cancel->attempt, cancel->grant_digest});
  }
  if (const auto* drained = std::get_if<wire::Drained>(&frame)) {
    if (concerns(drained->attempt, drained->grant_digest)) step(drained->attempt, DecodeAttempt::DrainedCame{});
    return;
  }
  count([](HandoffStats& s) { ++s.bad_frames; });
  pair.connection->abandon(fmt::format("a {} frame has no place here", wire::frame_name(frame)));
}

// ---- meeting ----

void DecodeHandoff::Service::greet(Pair& pair, const wire::Hello& hello) {
  const Result<uint16_t> version = pair.handshake->greet(hello);
  if (!version) return refuse(pair, version.error());
  pair.connection->set_version(*version);
  pair.state = pair.handshake->keyed() ? Pair::State::kProof : Pair::State::kManifest;
  if (pair.state == Pair::State::kManifest) pair.connection->send(self_);
}

void DecodeHandoff::Service::refuse(Pair& pair, const Error& why) {
  count([](HandoffStats& s) { ++s.refusals; });
  pair.connection->send(wire::Refuse{why.message});
  pair_failed(pair, why);
}

void DecodeHandoff::Service::meet(Pair& pair, wire::Manifest& manifest) {
  if (const Status own = check_blob(manifest); !own) return refuse(pair, own.error());
  Result<layout::Planner> planner = agree(manifest, self_);
  if (!planner) return refuse(pair, planner.error());
  pair.peer = std::move(manifest);
  pair.planner = std::make_shared<const layout::Planner>(std::move(*planner));
  pair.state = Pair::State::kAccept;
  pair.connection->send(pair.handshake->accept(self_, pair.peer, pair.planner->hash()));
}

void DecodeHandoff::Service::accepted(Pair& pair, const wire::Accept& accept) {
  if (accept.plan_hash != pair.planner->hash())
    return pair_failed(pair, error(ErrorCode::kIncompatible,
                                   "plan hash {:016x} here, {:016x} on prefill {}: start both with the same version",
                                   pair.planner->hash(), accept.plan_hash, pair.address));
  if (!pair.handshake->accepted_by(accept, self_, pair.peer))
    return refuse(pair, error(ErrorCode::kIncompatible,
                              "prefill's proof over the manifests is wrong: they were changed on their way"));
  paired(pair);
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
  wire::Manifest summary = pair.peer;
  summary.transport_blob.clear();
  sink_(DecodePaired{pair.address, {}, std::move(summary), pair.planner->hash()});
  for (const AttemptId attempt : attempts_of(pair)) {
    AttemptRecord& entry = *attempts_.at(attempt);
    if (entry.machine.state() == DecodeAttempt::State::kPairing) {
      offer(attempt, entry);
    } else if (entry.machine.state() == DecodeAttempt::State::kQuarantined &&
               entry.machine.writer() == pair.peer.incarnation) {
      // Its Drained may have been lost with the old connection: ask again.
      pair.connection->send(wire::Cancel{attempt, entry.digest, true, "the connection was lost"});
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
  const bool forbidden = status.error().code == ErrorCode::kForbidden;
  const bool refused = forbidden || status.error().code == ErrorCode::kIncompatible;
  if (refused) pair.backoff = options_.reconnect_max;
  back_off(pair);
  if (pair.last_failure != status.error().message) {
    pair.last_failure = status.error().message;
    log_warning("handoff: {}", status.error().message);
  }
  sink_(DecodePaired{pair.address, status, {}, 0});  // each time: whoever asked meanwhile waits for it
  for (const AttemptId attempt : attempts_of(pair))
    step(attempt, DecodeAttempt::PairFailed{refused, status.error().message, forbidden});
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

}  // namespace baton::handoff
