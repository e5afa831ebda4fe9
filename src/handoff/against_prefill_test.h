// For tests of the prefill service against decode instances that speak the frames by hand.
#pragma once

#include <gtest/gtest.h>

#include <functional>

#include "handoff/control_test.h"
#include "handoff/pairing.h"

namespace baton::handoff::by_hand {

class AgainstPrefill : public testing::Test {
 protected:
  // Patient unless told otherwise: the peer by hand does not answer pings.
  explicit AgainstPrefill(
      Duration heartbeat = 10s, std::unique_ptr<transport::Transport> transport = loopback(kPrefill),
      const std::function<void(PrefillHandoffOptions&)>& change = [](PrefillHandoffOptions&) {})
      : transport_(loopback(kDecode)),
        memory_(spec().decode, spec().geometry, *transport_),
        prefill_(spec(), std::move(transport), options(heartbeat, change)) {}

  static PrefillHandoffOptions options(Duration heartbeat, const std::function<void(PrefillHandoffOptions&)>& change) {
    PrefillHandoffOptions options;
    options.heartbeat = heartbeat;
    options.replace_after = 200ms;
    options.early_grants_max = 2;
    change(options);
    return options;
  }
  [[nodiscard]] wire::Manifest manifest() const {
    return complete_manifest(manifest_of(spec(), spec().decode, kDecode), wire::InstanceRole::kDecode, *transport_,
                             memory_.pools())
        .value();
  }
  std::unique_ptr<RawPeer> meet() { return meet(manifest()); }
  std::unique_ptr<RawPeer> meet(const wire::Manifest& self) {
    auto peer = std::make_unique<RawPeer>(RawPeer::connect_to(prefill_.port()));
    peer->greet(wire::InstanceRole::kDecode, key);
    pair(*peer, self);
    return peer;
  }
  static void pair(RawPeer& peer, const wire::Manifest& self) {
    peer.send(self);
    const wire::Manifest prefill = peer.expect<wire::Manifest>();
    const layout::Planner planner = agree(prefill, self).value();
    const wire::Accept theirs = peer.expect<wire::Accept>();
    EXPECT_EQ(theirs.plan_hash, planner.hash());
    EXPECT_TRUE(peer.handshake().accepted_by(theirs, self, prefill));
    peer.send(peer.handshake().accept(self, prefill, planner.hash()));
  }
  // Another decode instance: only its manifest is.
  [[nodiscard]] wire::Manifest stranger(uint64_t number) const {
    wire::Manifest other = manifest();
    other.incarnation = {number, 7};
    other.transport_blob = loopback(other.incarnation)->local_blob();
    return other;
  }
  // An honest decode instance's view of one whole handoff.
  void hand_over(RawPeer& peer, const wire::Grant& grant) {
    const transport::WindowToken token{grant.attempt, grant.window_secret};
    const transport::WindowRange all{memory_.pools()[0].region, 0, memory_.pools()[0].memory.size};
    ASSERT_TRUE(transport_->open_window(token, std::span(&all, 1)).ok());
    prefill_.begin(grant.attempt, 0, grant.prompt_tokens);
    peer.send(grant);
    std::optional<wire::Frame> frame;
    ASSERT_TRUE(eventually([&] {
      prefill_.pump();
      frame = peer.next(1ms);
      return frame.has_value();
    }));
    ASSERT_TRUE(std::holds_alternative<wire::Commit>(*frame))
        << (std::holds_alternative<wire::Cancel>(*frame) ? std::get<wire::Cancel>(*frame).reason
                                                         : wire::frame_name(*frame));
    EXPECT_EQ(memory_.compare(grant.attempt.value(), 0, numbers_of(grant.pages), 0, grant.prompt_tokens), "");
    peer.send(wire::Release{grant.attempt, std::get<wire::Commit>(*frame).grant_digest});
  }
  static wire::Grant grant(uint64_t attempt, int64_t tokens = 20) {
    wire::Grant grant;
    grant.attempt = AttemptId(attempt);
    grant.decode = kDecode;
    grant.prefill = kPrefill;
    grant.prompt_tokens = tokens;
    grant.window_secret = attempt * 77;
    grant.budget_ms = 5000;
    for (int64_t i = 0; i * kPage < tokens; ++i) grant.pages.push_back({PageId(static_cast<uint32_t>(i)), 1});
    return grant;
  }

  std::string key;  // of decode instances
  std::unique_ptr<transport::Transport> transport_;
  PatternPools memory_;
  TestPrefill prefill_;
};

}  // namespace baton::handoff::by_hand
