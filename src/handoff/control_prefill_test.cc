// The prefill service against a decode instance that speaks the frames by hand: stale, repeated, malformed and missing
// ones.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <ctime>

#include "handoff/against_prefill_test.h"
#include "transport/forwarding.h"

namespace baton::handoff {

using wire::Cancel;
using wire::grant_digest;

namespace {

using namespace by_hand;

TEST_F(AgainstPrefill, NoiseIsDroppedAndOthersAreServed) {
  const UniqueFd noise = RawPeer::connect_to(prefill_.port());
  ASSERT_GT(::send(noise.get(), "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL), 0);
  EXPECT_TRUE(eventually([&] { return prefill_.stats().bad_frames == 1; }));
  const UniqueFd huge = RawPeer::connect_to(prefill_.port());
  ASSERT_GT(::send(huge.get(), "\xff\xff\xff\xff", 4, MSG_NOSIGNAL), 0);
  EXPECT_TRUE(eventually([&] { return prefill_.stats().bad_frames == 2; }));
  RawPeer early(RawPeer::connect_to(prefill_.port()));
  early.send(grant(1));  // before a manifest
  EXPECT_TRUE(early.closed());
  auto peer = meet();
  peer->send(wire::Ping{3});
  EXPECT_FALSE(peer->next(100ms));
  EXPECT_GE(peer->pongs, 1);
}

TEST_F(AgainstPrefill, WaitsQuietlyForADescriptorToBecomeFree) {
  UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{static_cast<rlim_t>(client.get()) + 1, before.rlim_max};
  std::vector<UniqueFd> holes;  // numbers below the client's that are free
  for (int fd = 0; (fd = ::dup(client.get())) >= 0;) {
    holes.emplace_back(fd);
    if (fd > client.get()) break;
  }
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const sockaddr_in address = local(prefill_.port());
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const std::clock_t cpu = std::clock();
  std::this_thread::sleep_for(500ms);
  EXPECT_LT(std::clock() - cpu, CLOCKS_PER_SEC / 10);  // a thread that spins takes all it can get
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  holes.clear();
  RawPeer peer(std::move(client));
  peer.send(wire::Ping{1});
  EXPECT_TRUE(eventually([&] { return peer.closed(); }));  // it was heard: a ping has no place before the manifest
}

TEST_F(AgainstPrefill, AnotherPlanHashIsRefused) {
  RawPeer peer(RawPeer::connect_to(prefill_.port()));
  peer.greet(wire::InstanceRole::kDecode);
  peer.send(manifest());
  peer.expect<wire::Manifest>();
  peer.send(wire::Accept{peer.expect<wire::Accept>().plan_hash + 1, {}});
  EXPECT_NE(peer.expect<wire::Refuse>().text.find("plan hash"), std::string::npos);
  EXPECT_TRUE(peer.closed());
}

TEST_F(AgainstPrefill, StaleGrantsHaveNoEffectAndARepeatIsOneGrant) {
  auto peer = meet();
  wire::Grant stale = grant(1);
  stale.prefill = {9, 9};
  peer->send(stale);
  stale = grant(1);
  stale.decode = {9, 9};
  peer->send(stale);
  peer->send(wire::Release{AttemptId(5), 1});
  EXPECT_TRUE(eventually([&] { return prefill_.stats().stale_frames == 3; }));

  ASSERT_TRUE(
      transport_
          ->open_window({AttemptId(1), 77}, std::vector<transport::WindowRange>{{memory_.pools()[0].region, 0,
                                                                                 memory_.pools()[0].memory.size}})
          .ok());
  prefill_.paused = true;
  prefill_.begin(AttemptId(1), 0, 20);
  peer->send(grant(1));
  peer->send(grant(1));
  wire::Grant other = grant(1);
  other.pages[0].generation = 2;
  peer->send(other);
  EXPECT_TRUE(eventually([&] { return prefill_.stats().stale_frames == 4; }));
  // Another grant of an id that lives: who sent it hears so, and the first is not touched.
  const Cancel cancel = peer->expect<Cancel>();
  EXPECT_TRUE(cancel.fault);
  EXPECT_EQ(cancel.grant_digest, grant_digest(other));
  EXPECT_EQ(peer->expect<wire::Drained>().grant_digest, grant_digest(other));
  prefill_.paused = false;
  std::optional<wire::Frame> frame;
  ASSERT_TRUE(eventually([&] {
    prefill_.pump();
    frame = peer->next(1ms);
    return frame.has_value();
  }));
  const wire::Commit commit = std::get<wire::Commit>(*frame);
  EXPECT_EQ(commit.grant_digest, grant_digest(grant(1)));
  EXPECT_EQ(memory_.compare(1, 0, numbers_of(grant(1).pages), 0, 20), "");
  peer->send(wire::Release{AttemptId(1), commit.grant_digest});
  peer->send(wire::Release{AttemptId(1), commit.grant_digest});
  EXPECT_TRUE(eventually([&] { return prefill_.stats().stale_frames == 5 && prefill_.stats().committed == 1; }));
}

TEST_F(AgainstPrefill, GrantsThatCannotBeAreTurnedDown) {
  auto peer = meet();
  wire::Grant outside = grant(1);
  outside.pages[1].page = PageId(16);
  wire::Grant few = grant(2);
  few.pages.pop_back();
  wire::Grant group = grant(3);
  group.dp_rank = 1;
  wire::Grant cached = grant(4);
  cached.cached_tokens = 3;
  for (const wire::Grant& bad : {outside, few, group, cached}) {
    peer->send(bad);
    const Cancel cancel = peer->expect<Cancel>();
    EXPECT_EQ(cancel.attempt, bad.attempt);
    EXPECT_TRUE(cancel.fault);
    EXPECT_EQ(peer->expect<wire::Drained>().grant_digest, grant_digest(bad));
  }
  // The table of early grants is bounded.
  for (const uint64_t attempt : {10, 11, 12}) peer->send(grant(attempt));
  EXPECT_EQ(peer->expect<Cancel>().attempt, AttemptId(12));
  EXPECT_EQ(peer->expect<wire::Drained>().attempt, AttemptId(12));
}

TEST_F(AgainstPrefill, CancelIsAnsweredWithDrainedKnownOrNot) {
  auto peer = meet();
  peer->send(Cancel{AttemptId(8), 123, false, "left"});
  EXPECT_EQ(peer->expect<wire::Drained>().grant_digest, 123u);
  peer->send(grant(9));
  peer->send(Cancel{AttemptId(9), grant_digest(grant(9)), false, "left"});
  EXPECT_EQ(peer->expect<wire::Drained>().grant_digest, grant_digest(grant(9)));
  prefill_.begin(AttemptId(9), 0, 20);  // comes late and is told at once
  ASSERT_TRUE(eventually([&] {
    prefill_.pump();
    return prefill_.idle();
  }));
  EXPECT_EQ(prefill_.ended().at(AttemptId(9)).outcome, AttemptOutcome::kCancelled);
}

class AgainstImpatientPrefill : public AgainstPrefill {
 protected:
  AgainstImpatientPrefill() : AgainstPrefill(100ms) {}
};

TEST_F(AgainstImpatientPrefill, ASilentDecodeIsLostAndItsAttemptsFail) {
  auto peer = meet();
  prefill_.begin(AttemptId(1), 0, 20);
  peer->send(grant(1));
  prefill_.paused = true;
  ASSERT_TRUE(eventually([&] {  // the peer does not answer pings from here on
    prefill_.pump();
    return prefill_.idle();
  }));
  EXPECT_EQ(prefill_.ended().at(AttemptId(1)).outcome, AttemptOutcome::kFailed);
  EXPECT_EQ(prefill_.stats().failures["peer_lost"], 1u);
  EXPECT_EQ(prefill_.stats().peers, 0u);
}

// A transport that loses its peer with every post, and cannot say whether the bytes still land.
class DoubtfulTransport final : public transport::ForwardingTransport {
 public:
  using transport::ForwardingTransport::ForwardingTransport;
  void poll(std::vector<transport::TransferEvent>* events) override {
    wrapped().poll(events);
    for (transport::TransferEvent& event : *events) {
      event.outcome = transport::TransferOutcome::kPeerLost;
      event.remote_quiesced = false;
    }
  }
};

class AgainstDoubtfulPrefill : public AgainstPrefill {
 protected:
  AgainstDoubtfulPrefill() : AgainstPrefill(10s, std::make_unique<DoubtfulTransport>(loopback(kPrefill))) {}
};

TEST_F(AgainstDoubtfulPrefill, DrainedIsNeverSaidOfAGrantWhoseWritersMayStillWrite) {
  auto peer = meet();
  prefill_.begin(AttemptId(1), 0, 20);
  peer->send(grant(1));
  ASSERT_TRUE(eventually([&] {
    prefill_.pump();
    return prefill_.idle();
  }));
  EXPECT_EQ(prefill_.ended().at(AttemptId(1)).outcome, AttemptOutcome::kFailed);
  EXPECT_EQ(peer->expect<Cancel>().attempt, AttemptId(1));
  peer->send(Cancel{AttemptId(1), grant_digest(grant(1)), true, "asked again"});
  peer->send(Cancel{AttemptId(2), 123, true, "of a grant that never was"});
  EXPECT_EQ(peer->expect<wire::Drained>().attempt, AttemptId(2));
}

TEST_F(AgainstPrefill, ANewConnectionOfTheSameDecodeReplacesTheOld) {
  auto first = meet();
  first->send(grant(1));
  auto second = meet();
  EXPECT_TRUE(first->closed());
  EXPECT_TRUE(eventually([&] { return prefill_.stats().peers == 1; }));
  second->send(Cancel{AttemptId(1), grant_digest(grant(1)), true, "lost"});
  EXPECT_EQ(second->expect<wire::Drained>().attempt, AttemptId(1));
}

}  // namespace
}  // namespace baton::handoff
