// What a made-up decode instance may do to a prefill instance and to the honest decode instances beside it: nothing.
#include <gtest/gtest.h>

#include <atomic>

#include "handoff/against_prefill_test.h"
#include "transport/forwarding.h"

namespace baton {
namespace {

using namespace by_hand;

// An honest decode instance's view of one whole handoff.
void hand_over(TestPrefill& prefill, Memory& memory, Transport& transport, RawPeer& peer, const Grant& grant) {
  const WindowToken token{grant.attempt, grant.window_secret};
  const WindowRange all{memory.pools()[0].region, 0, memory.pools()[0].bytes.size()};
  ASSERT_TRUE(transport.open_window(token, std::span(&all, 1)).ok());
  prefill.begin(grant.attempt, 0, grant.prompt_tokens);
  peer.send(grant);
  std::optional<Frame> frame;
  ASSERT_TRUE(eventually([&] {
    prefill.pump();
    frame = peer.next(1ms);
    return frame.has_value();
  }));
  ASSERT_TRUE(std::holds_alternative<Commit>(*frame))
      << (std::holds_alternative<Cancel>(*frame) ? std::get<Cancel>(*frame).reason : frame_name(*frame));
  EXPECT_EQ(memory.compare(grant.attempt.value(), 0, numbers_of(grant.pages), 0, grant.prompt_tokens), "");
  peer.send(Release{grant.attempt, std::get<Commit>(*frame).grant_digest});
}

TEST_F(AgainstPrefill, AManifestWithAnotherInstancesAddressIsRefusedAndTheOwnerIsServedOn) {
  auto honest = meet();
  RawPeer thief(RawPeer::connect_to(prefill_.port()));
  Manifest stolen = manifest();
  stolen.incarnation = {9, 9};
  thief.send(stolen);
  EXPECT_NE(thief.expect<Refuse>().text.find("transport address"), std::string::npos);
  EXPECT_TRUE(thief.closed());
  hand_over(prefill_, memory_, *transport_, *honest, grant(1));
  // Noise instead of an address is refused too.
  RawPeer noise(RawPeer::connect_to(prefill_.port()));
  stolen.transport_blob = "nowhere";
  noise.send(stolen);
  noise.expect<Refuse>();
}

TEST_F(AgainstPrefill, TwoConnectionsOfOneInstanceLiveSideBySideAndLeaveOneByOne) {
  auto first = meet();
  first->answers_pings = true;
  RawPeer again(RawPeer::connect_to(prefill_.port()));
  again.send(manifest());
  first->next(100ms);  // is asked whether it lives
  again.send(Accept{agree(again.expect<Manifest>(), manifest()).value().hash()});
  EXPECT_TRUE(eventually([&] { return prefill_.stats().peers == 2; }));
  hand_over(prefill_, memory_, *transport_, *first, grant(1));
  again.leave();
  EXPECT_TRUE(eventually([&] { return prefill_.stats().peers == 1; }));
  hand_over(prefill_, memory_, *transport_, *first, grant(2));
}

TEST_F(AgainstPrefill, AClaimedIncarnationDoesNotPushOutAConnectionThatAnswers) {
  auto honest = meet();
  honest->answers_pings = true;
  RawPeer claimant(RawPeer::connect_to(prefill_.port()));
  claimant.send(manifest());
  EXPECT_FALSE(honest->closed());
  claimant.send(grant(5));  // before it was let in
  hand_over(prefill_, memory_, *transport_, *honest, grant(1));
}

// A transport that has lost its peers until they are connected again.
class Amnesia final : public ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  std::atomic<bool> lost{false};
  Result<PeerId> connect(std::string_view blob) override {
    lost = false;
    return wrapped().connect(blob);
  }
  Result<TransferId> post_write(PeerId peer, std::span<const Block> blocks, const WindowToken& token,
                                TimePoint deadline) override {
    if (lost) return error(ErrorCode::kUnavailable, "peer {} is not connected", peer);
    return wrapped().post_write(peer, blocks, token, deadline);
  }
};

class AgainstForgetfulPrefill : public AgainstPrefill {
 protected:
  AgainstForgetfulPrefill() : AgainstForgetfulPrefill(new Amnesia(loopback(kPrefill))) {}
  explicit AgainstForgetfulPrefill(Amnesia* transport)
      : AgainstPrefill(10s, std::unique_ptr<Transport>(transport)), amnesia_(transport) {}
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
  EXPECT_NE(peer->expect<Cancel>().reason.find("peer_lost"), std::string::npos);
  EXPECT_TRUE(eventually([&] { return peer->closed(); }));
  peer = meet();
  hand_over(prefill_, memory_, *transport_, *peer, grant(2));
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
  Grant most = grant(1, 1);
  most.prompt_tokens = kChecksumsMax / 1024;
  for (int64_t i = 1; i < most.prompt_tokens; ++i) most.pages.push_back({PageId(static_cast<uint32_t>(i)), 1});
  Grant more = most;
  more.attempt = AttemptId(2);
  more.pages.push_back({PageId(static_cast<uint32_t>(more.prompt_tokens++)), 1});
  prefill_.begin(AttemptId(2), 0, more.prompt_tokens);
  peer->send(more);
  const Cancel cancel = peer->expect<Cancel>();
  EXPECT_EQ(cancel.grant_digest, grant_digest(more));
  EXPECT_NE(cancel.reason.find("4097 pages on 1024 ranks"), std::string::npos) << cancel.reason;
  EXPECT_EQ(peer->expect<Drained>().grant_digest, grant_digest(more));
  prefill_.begin(AttemptId(1), 0, most.prompt_tokens);
  peer->send(most);
  EXPECT_FALSE(peer->next(100ms)) << "one page less is taken";
}

}  // namespace
}  // namespace baton
