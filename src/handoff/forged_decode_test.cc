// What a made-up decode instance may do to a prefill instance and to the honest decode instances beside it: nothing.
#include <gtest/gtest.h>

#include <atomic>

#include "handoff/against_prefill_test.h"
#include "transport/blob.h"
#include "transport/forwarding.h"

namespace baton::handoff {

using wire::Hello;
using wire::InstanceRole;
using wire::Manifest;
using wire::Refuse;

namespace {

using namespace by_hand;

TEST_F(AgainstPrefill, AManifestWithAnotherInstancesAddressIsRefusedAndTheOwnerIsServedOn) {
  auto honest = meet();
  RawPeer thief(RawPeer::connect_to(prefill_.port()));
  Manifest stolen = manifest();
  stolen.incarnation = {9, 9};
  thief.greet(InstanceRole::kDecode);
  thief.send(stolen);
  EXPECT_NE(thief.expect<Refuse>().text.find("transport address"), std::string::npos);
  EXPECT_TRUE(thief.closed());
  hand_over(*honest, grant(1));
  // Noise instead of an address is refused too.
  RawPeer noise(RawPeer::connect_to(prefill_.port()));
  stolen.transport_blob = "nowhere";
  noise.greet(InstanceRole::kDecode);
  noise.send(stolen);
  noise.expect<Refuse>();
}

TEST_F(AgainstPrefill, TwoConnectionsOfOneInstanceLiveSideBySideAndLeaveOneByOne) {
  auto first = meet();
  first->answers_pings = true;
  RawPeer again(RawPeer::connect_to(prefill_.port()));
  again.greet(InstanceRole::kDecode);
  again.send(manifest());
  first->next(100ms);  // is asked whether it lives
  again.send(wire::Accept{agree(again.expect<Manifest>(), manifest()).value().hash(), {}});
  EXPECT_TRUE(eventually([&] { return prefill_.stats().peers == 2; }));
  hand_over(*first, grant(1));
  again.leave();
  EXPECT_TRUE(eventually([&] { return prefill_.stats().peers == 1; }));
  hand_over(*first, grant(2));
}

TEST_F(AgainstPrefill, AClaimedIncarnationDoesNotPushOutAConnectionThatAnswers) {
  auto honest = meet();
  honest->answers_pings = true;
  RawPeer claimant(RawPeer::connect_to(prefill_.port()));
  claimant.greet(InstanceRole::kDecode);
  claimant.send(manifest());
  EXPECT_FALSE(honest->closed());
  claimant.send(grant(5));  // before it was let in
  hand_over(*honest, grant(1));
}

TEST_F(AgainstPrefill, NobodyIsPushedOutBeforeItHasSaidWhoItIs) {
  RawPeer honest(RawPeer::connect_to(prefill_.port()));
  honest.greet(InstanceRole::kDecode);
  RawPeer nobody(RawPeer::connect_to(prefill_.port()));
  nobody.greet(InstanceRole::kDecode);
  Manifest zero = stranger(0);
  zero.incarnation = {};
  zero.transport_blob = transport::encode_blob(
      {.kind = transport::BlobKind::kLoopback, .incarnation = {}, .address = "nobody", .port = 0});
  pair(nobody, zero);
  pair(honest, manifest());
  hand_over(honest, grant(1));
}

// A transport that has lost its peers until they are connected again.
class Amnesia final : public transport::ForwardingTransport {
 public:
  using transport::ForwardingTransport::ForwardingTransport;
  std::atomic<bool> lost{false};
  Result<transport::PeerId> connect(std::string_view blob) override {
    lost = false;
    return wrapped().connect(blob);
  }
  Result<transport::TransferId> post_write(transport::PeerId peer, std::span<const transport::Block> blocks,
                                           const transport::WindowToken& token, TimePoint deadline) override {
    if (lost) return error(ErrorCode::kUnavailable, "peer {} is not connected", peer);
    return wrapped().post_write(peer, blocks, token, deadline);
  }
};

class AgainstForgetfulPrefill : public AgainstPrefill {
 protected:
  AgainstForgetfulPrefill() : AgainstForgetfulPrefill(new Amnesia(loopback(kPrefill))) {}
  explicit AgainstForgetfulPrefill(Amnesia* transport)
      : AgainstPrefill(10s, std::unique_ptr<transport::Transport>(transport)), amnesia_(transport) {}
  Amnesia* amnesia_;
};

TEST_F(AgainstForgetfulPrefill, APostThatFindsNoPeerEndsTheConnectionSoThatThePairMeetsAgain) {
  auto peer = meet();
  amnesia_->lost = true;
  prefill_.begin(AttemptId(1), 0, 20);
  peer->send(grant(1));
  ASSERT_TRUE(eventually([&] {
    prefill_.pump();
    return prefill_.idle();
  }));
  EXPECT_NE(peer->expect<wire::Cancel>().reason.find("peer_lost"), std::string::npos);
  EXPECT_TRUE(eventually([&] { return peer->closed(); }));
  peer = meet();
  hand_over(*peer, grant(2));
}

// An instance of 1,024 ranks that all hold the one head, in pages of one token.
Manifest wide(Manifest manifest) {
  manifest.layout = {.tp = 1024};
  manifest.page_tokens = 1;
  manifest.pages_per_group = 1 << 20;
  manifest.regions.assign(1024, {1, uint64_t{1} << 40});
  return manifest;
}

TEST_F(AgainstPrefill, AGrantWhoseCommitWouldNotFitAFrameIsTurnedDown) {
  auto peer = meet(wide(manifest()));
  wire::Grant most = grant(1, 1);
  most.prompt_tokens = wire::kChecksumsMax / 1024;
  for (int64_t i = 1; i < most.prompt_tokens; ++i) most.pages.push_back({PageId(static_cast<uint32_t>(i)), 1});
  wire::Grant more = most;
  more.attempt = AttemptId(2);
  more.pages.push_back({PageId(static_cast<uint32_t>(more.prompt_tokens++)), 1});
  prefill_.begin(AttemptId(2), 0, more.prompt_tokens);
  peer->send(more);
  const wire::Cancel cancel = peer->expect<wire::Cancel>();
  EXPECT_EQ(cancel.grant_digest, wire::grant_digest(more));
  EXPECT_NE(cancel.reason.find("4097 pages on 1024 ranks"), std::string::npos) << cancel.reason;
  EXPECT_EQ(peer->expect<wire::Drained>().grant_digest, wire::grant_digest(more));
  prefill_.begin(AttemptId(1), 0, most.prompt_tokens);
  peer->send(most);
  EXPECT_FALSE(peer->next(100ms)) << "one page less is taken";
}

// ---- work that a stranger asks for ----

TEST_F(AgainstPrefill, RegionsAreCheckedAndSlicesBoundedBeforeAnythingIsPlanned) {
  Manifest narrow = wide(stranger(1));
  narrow.fanout = layout::Fanout::kLocal;
  narrow.regions.resize(3);
  Manifest replicas = wide(stranger(2));
  replicas.fanout = layout::Fanout::kLocal;
  Manifest no_group = stranger(3);
  no_group.layout.dp = 2;  // of TP1: groups of no rank
  for (const auto& [manifest, words] :
       {std::pair(narrow, "3 regions for 1024 ranks"), std::pair(replicas, "1024 replicas on decode"),
        std::pair(no_group, "dp 2 does not divide tp 1")}) {
    RawPeer peer(RawPeer::connect_to(prefill_.port()));
    peer.greet(InstanceRole::kDecode);
    peer.send(manifest);
    const std::string text = peer.expect<Refuse>().text;
    EXPECT_NE(text.find(words), std::string::npos) << text;
  }
}

// Plans that take long are made one a turn, and paired peers are served in each.
TEST_F(AgainstPrefill, PairedPeersAreServedWhileStrangersArePlannedFor) {
  auto honest = meet();
  std::vector<std::unique_ptr<RawPeer>> strangers;
  for (uint64_t i = 1; i <= 12; ++i) {
    strangers.push_back(std::make_unique<RawPeer>(RawPeer::connect_to(prefill_.port())));
    strangers.back()->greet(InstanceRole::kDecode);
  }
  for (size_t i = 0; i < strangers.size(); ++i) {
    Manifest costly = wide(stranger(i + 1));
    costly.layout.tp = 400;
    costly.regions.resize(400);
    costly.fanout = layout::Fanout::kLocal;
    strangers[i]->send(costly);
  }
  // The turn that answers the first ping has every manifest before it; the second is answered in a later one.
  for (int ping = 1; ping <= 2; ++ping) {
    honest->send(wire::Ping{static_cast<uint64_t>(ping)});
    while (honest->pongs < ping) ASSERT_FALSE(honest->next(5ms));
  }
  size_t answered = 0;
  for (const auto& peer : strangers) answered += peer->next(1ms).has_value() ? 1 : 0;
  EXPECT_LT(answered, strangers.size());
}

// ---- versions ----

TEST_F(AgainstPrefill, AVersionThatBothSpeakIsSpokenAndNoneIsSaidToBoth) {
  RawPeer newer(RawPeer::connect_to(prefill_.port()));
  newer.send(Hello{{5, 9}, InstanceRole::kDecode, false, {}});
  EXPECT_EQ(newer.expect<Refuse>().text,
            "this instance speaks handoff protocol 4 to 4, the peer 5 to 9: run the same version on both");
  EXPECT_TRUE(newer.closed());
  RawPeer older(RawPeer::connect_to(prefill_.port()));  // its checksums are others
  older.send(Hello{{3, 3}, InstanceRole::kDecode, false, {}});
  EXPECT_EQ(older.expect<Refuse>().text,
            "this instance speaks handoff protocol 4 to 4, the peer 3 to 3: run the same version on both");
  EXPECT_TRUE(older.closed());
  RawPeer wide_range(RawPeer::connect_to(prefill_.port()));
  Hello hello{{1, 9}, InstanceRole::kDecode, false, {}};
  wide_range.send(hello);
  EXPECT_EQ(wide_range.expect<Hello>().versions, wire::kProtocolVersions);
  wide_range.send(manifest());
  wide_range.expect<Manifest>();
  RawPeer twin(RawPeer::connect_to(prefill_.port()));
  twin.send(Hello{wire::kProtocolVersions, InstanceRole::kPrefill, false, {}});
  EXPECT_NE(twin.expect<Refuse>().text.find("both are prefill instances"), std::string::npos);
}

// ---- the shared key ----

class AgainstKeyedPrefill : public AgainstPrefill {
 protected:
  AgainstKeyedPrefill()
      : AgainstPrefill(10s, loopback(kPrefill), [](PrefillHandoffOptions& options) { options.key = kKey; }) {
    key = kKey;
  }
  static inline const std::string kKey = "0123456789abcdef0123456789abcdef";
};

TEST_F(AgainstKeyedPrefill, WithTheKeyKvIsHandedOver) {
  auto peer = meet();
  hand_over(*peer, grant(1));
}

TEST_F(AgainstKeyedPrefill, WithoutTheKeyNobodyPairs) {
  RawPeer none(RawPeer::connect_to(prefill_.port()));
  none.send(Hello{wire::kProtocolVersions, InstanceRole::kDecode, false, {}});
  EXPECT_NE(none.expect<Refuse>().text.find("--handoff-key-file"), std::string::npos);
  const auto try_with =
      [&](const std::function<wire::Frame(const Hello& own, const Hello& theirs, const wire::Proof& proof)>& forge) {
        RawPeer peer(RawPeer::connect_to(prefill_.port()));
        const Hello own{wire::kProtocolVersions, InstanceRole::kDecode, true, {1, 2, 3}};
        peer.send(own);
        const Hello theirs = peer.expect<Hello>();
        peer.send(forge(own, theirs, peer.expect<wire::Proof>()));
        peer.send(manifest());  // would be answered
        const std::optional<wire::Frame> answer = peer.next();
        EXPECT_TRUE(!answer || std::holds_alternative<Refuse>(*answer)) << wire::frame_name(*answer);
        EXPECT_TRUE(peer.closed());
      };
  // Another key; prefill's own proof sent back; a proof of an earlier connection; a manifest instead of a proof.
  const std::string wrong = kKey + "x";
  try_with([&](const Hello&, const Hello& theirs, const wire::Proof&) {
    Handshake with_wrong(InstanceRole::kDecode, wrong);
    EXPECT_TRUE(with_wrong.greet(theirs).ok());
    return wire::Frame(with_wrong.prove());
  });
  try_with([&](const Hello&, const Hello&, const wire::Proof& reflected) { return wire::Frame(reflected); });
  auto honest = meet();
  const wire::Proof recorded = honest->handshake().prove();
  try_with([&](const Hello&, const Hello&, const wire::Proof&) { return wire::Frame(recorded); });
  try_with([&](const Hello&, const Hello&, const wire::Proof&) { return wire::Frame(manifest()); });
  EXPECT_EQ(prefill_.stats().pairings, 1u);
}

TEST_F(AgainstKeyedPrefill, AManifestThatWasChangedOnItsWayIsRefused) {
  RawPeer peer(RawPeer::connect_to(prefill_.port()));
  peer.greet(InstanceRole::kDecode, kKey);
  peer.send(manifest());
  const Manifest prefill = peer.expect<Manifest>();
  Manifest other = manifest();
  ++other.pages_per_group;
  const wire::Accept theirs = peer.expect<wire::Accept>();
  EXPECT_FALSE(peer.handshake().accepted_by(theirs, other, prefill));
  peer.send(peer.handshake().accept(other, prefill, theirs.plan_hash));
  EXPECT_NE(peer.expect<Refuse>().text.find("changed on their way"), std::string::npos);
}

// ---- what those who prove nothing may take ----

class AgainstFullPrefill : public AgainstPrefill {
 protected:
  AgainstFullPrefill()
      : AgainstPrefill(10s, loopback(kPrefill), [](PrefillHandoffOptions& options) {
          options.peers_max = 4;
          options.unproved_bytes_max = 1u << 20;
          options.early_grants_max = 1000;
          options.handshake_timeout = 2s;
        }) {}
};

TEST_F(AgainstFullPrefill, ANewConnectionTakesThePlaceOfOneThatHasProvedNothing) {
  auto honest = meet();
  hand_over(*honest, grant(1));
  std::vector<std::unique_ptr<RawPeer>> silent;
  for (int i = 0; i < 12; ++i) {
    silent.push_back(std::make_unique<RawPeer>(RawPeer::connect_to(prefill_.port())));
    silent.back()->greet(InstanceRole::kDecode);  // each gets in
  }
  EXPECT_TRUE(silent[0]->closed());
  EXPECT_FALSE(silent.back()->closed());
  hand_over(*honest, grant(2));
}

TEST_F(AgainstFullPrefill, ASilentConnectionIsClosedInTime) {
  RawPeer silent(RawPeer::connect_to(prefill_.port()));
  RawPeer greets(RawPeer::connect_to(prefill_.port()));
  greets.greet(InstanceRole::kDecode);
  EXPECT_FALSE(silent.closed());
  EXPECT_TRUE(eventually([&] { return silent.closed() && greets.closed(); }));
}

TEST_F(AgainstFullPrefill, BytesOfThoseWhoHaveProvedNothingAreBoundedTogether) {
  auto honest = meet();
  hand_over(*honest, grant(1));
  auto modest = meet(stranger(1));
  auto greedy = meet(stranger(2));
  wire::Grant early = grant(100);
  early.decode = {1, 7};
  modest->send(early);
  // Grants that nobody asked for: 1 KiB and more each.
  early.decode = {2, 7};
  for (uint64_t i = 0; i < 1100; ++i) {
    early.attempt = AttemptId(1000 + i);
    greedy->send(early);
  }
  EXPECT_TRUE(eventually([&] { return greedy->closed(); }));
  // A frame that never ends.
  auto endless = meet(stranger(3));
  wire::Grant large = grant(7);
  large.pages.resize(wire::kGrantPagesMax);
  large.prompt_tokens = wire::kGrantPagesMax;
  large.prefill = {9, 9};
  std::string bytes;
  wire::encode_frame(large, &bytes);
  endless->send_bytes(std::string_view(bytes).substr(0, bytes.size() - 1));
  EXPECT_TRUE(eventually([&] { return endless->closed(); }));
  EXPECT_FALSE(modest->closed());
  hand_over(*honest, grant(2));
}

TEST_F(AgainstPrefill, AFullTableOfEarlyGrantsMakesRoomForWhoHasFewer) {
  auto hoarder = meet(stranger(1));
  wire::Grant early = grant(10);
  early.decode = {1, 7};
  hoarder->send(early);
  early.attempt = AttemptId(11);
  hoarder->send(early);
  auto honest = meet();
  honest->send(grant(12));
  EXPECT_TRUE(eventually([&] { return hoarder->closed(); }));
  EXPECT_FALSE(honest->next(100ms));
}

}  // namespace
}  // namespace baton::handoff
