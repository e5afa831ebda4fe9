// For tests of the prefill service against decode instances that speak the frames by hand.
#pragma once

#include <gtest/gtest.h>

#include "handoff/control_test.h"
#include "handoff/pairing.h"

namespace baton::by_hand {

class AgainstPrefill : public testing::Test {
 protected:
  // Patient unless told otherwise: the peer by hand does not answer pings.
  explicit AgainstPrefill(Duration heartbeat = 10s, std::unique_ptr<Transport> transport = loopback(kPrefill))
      : transport_(loopback(kDecode)),
        memory_(spec().decode, spec().geometry, *transport_),
        prefill_(spec(), std::move(transport), options(heartbeat)) {}

  static PrefillHandoffOptions options(Duration heartbeat) {
    PrefillHandoffOptions options;
    options.heartbeat = heartbeat;
    options.replace_after = 200ms;
    options.early_grants_max = 2;
    return options;
  }
  [[nodiscard]] Manifest manifest() const {
    return complete_manifest(manifest_of(spec(), spec().decode, kDecode), InstanceRole::kDecode, *transport_,
                             memory_.pools())
        .value();
  }
  std::unique_ptr<RawPeer> meet() { return meet(manifest()); }
  std::unique_ptr<RawPeer> meet(const Manifest& self) {
    auto peer = std::make_unique<RawPeer>(RawPeer::connect_to(prefill_.port()));
    peer->send(self);
    const Planner planner = agree(peer->expect<Manifest>(), self).value();
    EXPECT_EQ(peer->expect<Accept>().plan_hash, planner.hash());
    peer->send(Accept{planner.hash()});
    return peer;
  }
  static Grant grant(uint64_t attempt, int64_t tokens = 20) {
    Grant grant;
    grant.attempt = AttemptId(attempt);
    grant.decode = kDecode;
    grant.prefill = kPrefill;
    grant.prompt_tokens = tokens;
    grant.window_secret = attempt * 77;
    grant.budget_ms = 5000;
    for (int64_t i = 0; i * kPage < tokens; ++i) grant.pages.push_back({PageId(static_cast<uint32_t>(i)), 1});
    return grant;
  }

  std::unique_ptr<Transport> transport_;
  Memory memory_;
  TestPrefill prefill_;
};

}  // namespace baton::by_hand
