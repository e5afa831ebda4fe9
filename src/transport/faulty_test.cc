#include "transport/faulty.h"

#include "base/random.h"
#include "transport/test_support.h"

namespace baton::transport {
namespace {

using namespace baton::transport::testing;

constexpr uint64_t kBytes = 64 << 10;

// A faulty writer and a sound owner.
struct FaultyPair {
  FaultyPair(const std::string& name, uint64_t seed, const FaultOptions& options) : owner(make(name)) {
    writer = faulty(make(name), seed, options).value();
    to = owner->allocate(kBytes).value();
    from = writer->allocate(kBytes).value();
    fill(from.memory.host(), 0xff);
    peer = writer->connect(owner->local_blob()).value();
    open(1);
  }
  void open(uint64_t attempt) const {
    const WindowRange all{to.id, 0, kBytes};
    EXPECT_TRUE(owner->open_window(token(attempt), std::span(&all, 1)).ok());
  }
  [[nodiscard]] TransferId post(Duration limit, uint64_t attempt = 1, uint64_t offset = 0,
                                uint64_t length = kBytes) const {
    const Block block{from.id, offset, to.id, offset, length};
    return writer->post_write(peer, std::span(&block, 1), token(attempt), in(limit)).value();
  }
  std::unique_ptr<Transport> owner, writer;
  Transport::Region to, from;
  PeerId peer;
};

struct Expected {
  const char* name;
  FaultOptions options;
  TransferOutcome outcome;
  bool remote_quiesced;
  bool written;
};

TEST(Faulty, EachFaultShowsAsTheContractSays) {
  const Expected cases[] = {
      {"none", {}, TransferOutcome::kDone, true, true},
      {"drop", {.drop = 1}, TransferOutcome::kTimeout, false, false},
      {"lose answer", {.lose_answer = 1}, TransferOutcome::kTimeout, false, true},
      {"delay", {.delay = 1}, TransferOutcome::kDone, true, true},
      {"duplicate", {.duplicate = 1}, TransferOutcome::kDone, true, true},
      {"reject", {.reject = 1}, TransferOutcome::kRejected, true, false},
      {"kill", {.kill_peer = 1}, TransferOutcome::kPeerLost, true, false},
  };
  for (const char* transport : {"loopback", "tcp", "shm"}) {
    for (const Expected& c : cases) {
      SCOPED_TRACE(fmt::format("{} over {}", c.name, transport));
      FaultyPair pair(transport, 1, c.options);
      Events events(*pair.writer);
      const TransferEvent event = events.wait(pair.post(c.outcome == TransferOutcome::kTimeout ? 500ms : 20s));
      EXPECT_EQ(event.outcome, c.outcome) << event.detail;
      EXPECT_EQ(event.remote_quiesced, c.remote_quiesced);
      EXPECT_TRUE(all_equal(pair.to.memory.host(), c.written ? 0xff : 0));
    }
  }
}

// Late and doubled writes land while the window is open, with the bytes of their time, and never after it was closed.
TEST(Faulty, AWriteThatComesTooLateMeetsTheFence) {
  for (const char* transport : {"loopback", "tcp", "shm"}) {
    for (const bool late : {true, false}) {
      for (const bool closed : {false, true}) {
        SCOPED_TRACE(
            fmt::format("{} over {}, window {}", late ? "late" : "duplicate", transport, closed ? "closed" : "open"));
        FaultyPair pair(transport, 1, {.late = late ? 1.0 : 0.0, .duplicate = late ? 0.0 : 1.0});
        Events events(*pair.writer);
        const TransferEvent event = events.wait(pair.post(late ? 100ms : 20s));
        EXPECT_EQ(event.outcome, late ? TransferOutcome::kTimeout : TransferOutcome::kDone);
        if (closed) {
          bool quiet = pair.owner->close_window(token(1));
          while (!quiet) quiet = pair.owner->window_quiet(token(1));
        }
        if (closed || !late) fill(pair.to.memory.host(), 0xaa);
        fill(pair.from.memory.host(), 0x11);  // the source is free to change after the event
        const TimePoint end = in(300ms);
        while (SteadyClock().now() < end) {
          events.collect();
          std::this_thread::sleep_for(5ms);
        }
        EXPECT_TRUE(all_equal(pair.to.memory.host(), closed ? 0xaa : 0xff));
        EXPECT_EQ(events.count(), 1u);
      }
    }
  }
}

TEST(Faulty, AKilledPeerStaysDeadUntilItIsConnectedAgain) {
  FaultyPair pair("loopback", 2, {.kill_peer = 1});
  Events events(*pair.writer);
  EXPECT_EQ(events.wait(pair.post(1s)).outcome, TransferOutcome::kPeerLost);
  EXPECT_EQ(events.wait(pair.post(1s)).outcome, TransferOutcome::kPeerLost);
  EXPECT_TRUE(pair.writer->connect(pair.owner->local_blob()).ok());
  EXPECT_TRUE(all_equal(pair.to.memory.host(), 0));
}

TEST(Faulty, ForgettingAndCancellingEndWhatIsHeld) {
  FaultyPair pair("loopback", 1, {.delay = 1, .delay_max = std::chrono::hours(1)});
  Events events(*pair.writer);
  const TransferId first = pair.post(20s), second = pair.post(20s);
  pair.writer->cancel(first);
  EXPECT_EQ(events.wait(first, 2s).outcome, TransferOutcome::kCancelled);
  pair.writer->forget(pair.peer);
  EXPECT_EQ(events.wait(second, 2s).outcome, TransferOutcome::kPeerLost);
}

// What happens to each of many posts, as one string.
std::string fates(uint64_t seed) {
  FaultyPair pair(
      "loopback", seed,
      {.drop = 0.1, .lose_answer = 0.1, .late = 0.1, .delay = 0.2, .duplicate = 0.1, .reject = 0.1, .delay_max = 5ms});
  Events events(*pair.writer);
  constexpr uint64_t kPosts = 64, kEach = kBytes / kPosts;
  std::string out;
  std::vector<TransferId> ids;
  for (uint64_t i = 0; i < kPosts; ++i) ids.push_back(pair.post(50ms, 1, i * kEach, kEach));
  for (uint64_t i = 0; i < kPosts; ++i) {
    const TransferEvent event = events.wait(ids[i], 5s);
    out += transfer_outcome_name(event.outcome)[0];
    const bool written = all_equal(pair.to.memory.host().subspan(i * kEach, kEach), 0xff);
    if (event.outcome == TransferOutcome::kDone || event.outcome == TransferOutcome::kRejected) {
      EXPECT_EQ(written, event.outcome == TransferOutcome::kDone) << i;
    }
  }
  EXPECT_EQ(events.count(), kPosts);
  return out;
}

TEST(Faulty, TheSameSeedGivesTheSameFatesAndEveryPostOneEvent) {
  EXPECT_EQ(fates(5), fates(5));
  EXPECT_NE(fates(5), fates(6));
}

}  // namespace
}  // namespace baton::transport
