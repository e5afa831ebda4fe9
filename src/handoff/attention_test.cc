// A stall of our own thread is no silence of a peer.
#include "handoff/attended_time.h"

#include <gtest/gtest.h>

#include <atomic>

#include "handoff/against_decode_test.h"
#include "handoff/against_prefill_test.h"

namespace baton::handoff {
namespace {

using namespace by_hand;

TEST(AttendedTime, AStallCountsAsOneTurn) {
  const TimePoint start{};
  AttendedTime attention(start, 500ms);
  attention.turn(start + 200ms);
  attention.turn(start + 14s);
  attention.turn(start + 14s + 100ms);
  attention.turn(start + 10s);  // never backwards
  EXPECT_EQ(attention.now() - start, 800ms);
}

// The thread stops between its look at the clock and its look at the sockets, for longer than a peer may be silent. The
// peer speaks meanwhile, and later only when it is asked.
template <typename Side>
void expect_alive_after_a_stall(Side& side, RawPeer& peer, const std::function<void()>& give_event) {
  std::atomic<bool> stalled{false};
  side.on_event.set([&] {
    if (stalled) return;
    std::this_thread::sleep_for(1s);
    peer.send(wire::Ping{1});
    stalled = true;
  });
  give_event();
  ASSERT_TRUE(eventually([&] { return stalled.load(); }));
  peer.answers_pings = true;
  for (const TimePoint until = SteadyClock().now() + 500ms; SteadyClock().now() < until;) peer.next(50ms);
  EXPECT_GE(peer.pongs, 1);
  EXPECT_EQ(side.stats().peers_lost, 0u);
  EXPECT_EQ(side.stats().peers, 1u);
  side.on_event.set([] {});
}

class AgainstStalledPrefill : public AgainstPrefill {
 protected:
  AgainstStalledPrefill() : AgainstPrefill(200ms) {}
};

TEST_F(AgainstStalledPrefill, APeerThatSpokeDuringAStallIsAlive) {
  auto peer = meet();
  peer->send(wire::Cancel{AttemptId(1), 5, false, "left"});
  EXPECT_EQ(peer->expect<wire::Drained>().attempt, AttemptId(1));
  // Its request comes late and ends at once.
  expect_alive_after_a_stall(prefill_, *peer, [&] { prefill_.begin(AttemptId(1), 0, 20); });
}

class AgainstStalledDecode : public AgainstDecode {
 protected:
  AgainstStalledDecode() : AgainstDecode(200ms) {}
};

TEST_F(AgainstStalledDecode, APeerThatSpokeDuringAStallIsAlive) {
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = meet();
  peer->expect<wire::Grant>();
  expect_alive_after_a_stall(*decode_, *peer, [&] { decode_->cancel(AttemptId(1)); });
}

}  // namespace
}  // namespace baton::handoff
