// What every transport between processes promises, with a second process that is killed and stopped.
#include "transport/test_support.h"

namespace baton::transport::testing {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// Waits until the child's post has written its first byte.
bool begun(const Transport::Region& to, Child& writer) {
  const TimePoint end = in(10s);
  while (!written(to.memory)) {
    if (SteadyClock().now() >= end) {
      ADD_FAILURE() << "not a byte came; the posts ended as " << writer.ask("wait");
      return false;
    }
    std::this_thread::sleep_for(20us);
  }
  return true;
}

TEST_P(TwoProcesses, AfterFiveIdleSecondsTheFirstPostGoesThrough) {
  Child owner(GetParam(), kMiB);
  auto writer = make(GetParam());
  Events events(*writer);
  const auto from = writer->allocate(kMiB).value();
  fill(from.memory, 1);
  const PeerId peer = *writer->connect(owner.blob());
  ASSERT_EQ(owner.ask("open 1"), "ok");
  const Block all{from.id, 0, RegionId(1), 0, kMiB};
  ASSERT_EQ(events.wait(*writer->post_write(peer, std::span(&all, 1), token(1), in(20s))).outcome,
            TransferOutcome::kDone);
  std::this_thread::sleep_for(5s);
  fill(from.memory, 2);
  const TimePoint start = SteadyClock().now();
  ASSERT_EQ(events.wait(*writer->post_write(peer, std::span(&all, 1), token(1), in(20s))).outcome,
            TransferOutcome::kDone);
  EXPECT_LT(SteadyClock().now() - start, 1s);
  EXPECT_EQ(owner.ask("close 1"), "quiet");
  EXPECT_EQ(owner.ask("count 2"), std::to_string(kMiB));
}

TEST_P(TwoProcesses, PostsToAKilledOwnerAreLostAndNeverDone) {
  constexpr uint64_t kBytes = 8 * kMiB;
  auto owner = std::make_unique<Child>(GetParam(), kBytes);
  auto writer = make(GetParam());
  Events events(*writer);
  const auto from = writer->allocate(kBytes).value();
  const PeerId peer = *writer->connect(owner->blob());
  ASSERT_EQ(owner->ask("open 1"), "ok");
  const Block all{from.id, 0, RegionId(1), 0, kBytes};
  const auto post = [&] { return *writer->post_write(peer, std::span(&all, 1), token(1), in(30s)); };
  const TransferEvent first = events.wait(post());
  ASSERT_EQ(first.outcome, TransferOutcome::kDone) << first.detail;

  std::vector<TransferId> ids(20);
  for (TransferId& id : ids) id = post();
  owner->kill();
  const TransferId after = post();  // with a queue that is not empty
  EXPECT_EQ(events.wait(after).outcome, TransferOutcome::kPeerLost);
  for (const TransferId id : ids) {
    const TransferEvent event = events.wait(id);
    EXPECT_TRUE(event.outcome == TransferOutcome::kDone || event.outcome == TransferOutcome::kPeerLost) << event.detail;
  }
  const TimePoint start = SteadyClock().now();
  EXPECT_EQ(events.wait(post()).outcome, TransferOutcome::kPeerLost);
  EXPECT_LT(SteadyClock().now() - start, 5s) << "no deadline is needed to learn of a death";
}

TEST_P(TwoProcesses, AKilledWriterLeavesTheWindowQuiet) {
  constexpr uint64_t kBytes = 32 * kMiB;
  auto owner = make(GetParam());
  const auto to = owner->allocate(kBytes).value();
  for (uint64_t attempt = 1; attempt <= 3; ++attempt) {
    Child writer(GetParam(), kBytes);
    const WindowRange all{to.id, 0, kBytes};
    ASSERT_TRUE(owner->open_window(token(attempt), std::span(&all, 1)));
    ASSERT_EQ(writer.ask("fill 255"), "ok");
    ASSERT_EQ(writer.ask("connect " + to_hex(owner->local_blob())), "ok");
    ASSERT_EQ(writer.ask(fmt::format("post {} 6", attempt)), "ok");
    ASSERT_TRUE(begun(to, writer));
    writer.kill();
    bool quiet = owner->close_window(token(attempt));
    const TimePoint end = in(10s);
    while (!quiet && SteadyClock().now() < end) quiet = owner->window_quiet(token(attempt));
    ASSERT_TRUE(quiet);
    fill(to.memory, 0);
    std::this_thread::sleep_for(100ms);
    EXPECT_TRUE(all_equal(to.memory, 0));
  }
}

TEST_P(TwoProcesses, APostToAStoppedOwnerEndsByItsDeadline) {
  constexpr uint64_t kBytes = 32 * kMiB;
  Child owner(GetParam(), kBytes);
  auto writer = make(GetParam());
  Events events(*writer);
  const auto from = writer->allocate(kBytes).value();
  fill(from.memory, 3);
  const PeerId peer = *writer->connect(owner.blob());
  ASSERT_EQ(owner.ask("open 1"), "ok");
  const Block all{from.id, 0, RegionId(1), 0, kBytes};
  const auto post = [&](Duration limit) { return *writer->post_write(peer, std::span(&all, 1), token(1), in(limit)); };
  ASSERT_EQ(events.wait(post(20s)).outcome, TransferOutcome::kDone);
  owner.stop();
  const TimePoint start = SteadyClock().now();
  const TransferEvent event = events.wait(post(500ms));
  EXPECT_LT(SteadyClock().now() - start, 3s);
  if (is_tcp(GetParam())) {
    EXPECT_EQ(event.outcome, TransferOutcome::kTimeout) << event.detail;
    EXPECT_FALSE(event.remote_quiesced) << "bytes lie in the owner's socket still";
  } else {
    // Our own thread writes the owner's memory: it needs nothing from the owner but to live.
    EXPECT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
  }
  owner.go_on();
  const TransferEvent again = events.wait(post(20s));
  EXPECT_EQ(again.outcome, TransferOutcome::kDone) << "connects again: " << again.detail;
  EXPECT_EQ(owner.ask("close 1"), "quiet");
  EXPECT_EQ(owner.ask("count 3"), std::to_string(kBytes));
}

// Stopped while it copies: nobody can say when the rest of its bytes will land, and no time that passes tells.
TEST(Shm, AWriterStoppedInsideAWindowKeepsItFromBeingQuiet) {
  constexpr uint64_t kBytes = 32 * kMiB;
  auto owner = make("shm");
  const auto to = owner->allocate(kBytes).value();
  const WindowRange all{to.id, 0, kBytes};
  for (const bool kill : {false, true}) {
    Child writer("shm", kBytes);
    ASSERT_EQ(writer.ask("fill 255"), "ok");
    ASSERT_EQ(writer.ask("connect " + to_hex(owner->local_blob())), "ok");
    bool inside = false;
    for (uint64_t attempt = kill ? 1001 : 1; !inside && attempt < (kill ? 1200 : 200); ++attempt) {
      ASSERT_TRUE(owner->open_window(token(attempt), std::span(&all, 1)));
      fill(to.memory, 0);
      ASSERT_EQ(writer.ask(fmt::format("post {} 4", attempt)), "ok");
      ASSERT_TRUE(begun(to, writer));
      writer.stop();
      inside = !owner->close_window(token(attempt));
      if (inside) {
        for (int i = 0; i < 30; ++i) {
          EXPECT_FALSE(owner->window_quiet(token(attempt)));
          EXPECT_FALSE(owner->close_window(token(attempt)));
          std::this_thread::sleep_for(10ms);
        }
        EXPECT_EQ(owner->open_window(token(attempt), std::span(&all, 1)).error().code, ErrorCode::kInvalidArgument)
            << "not quiet";
      }
      if (kill && inside) {
        writer.kill();
      } else {
        writer.go_on();
      }
      const TimePoint end = in(10s);
      bool quiet = false;
      while (!quiet && SteadyClock().now() < end) quiet = owner->window_quiet(token(attempt));
      ASSERT_TRUE(quiet);
      fill(to.memory, 0xaa);
      if (!kill || !inside) {
        EXPECT_NE(writer.ask("wait"), "");  // the rest of its posts has been refused
      }
      EXPECT_TRUE(all_equal(to.memory, 0xaa)) << "attempt " << attempt;
    }
    EXPECT_TRUE(inside) << "the writer was never caught while it copied";
  }
}

// The same with tcp: the owner's own thread stops taking the bytes, so that closing is a fence whatever the writer
// does.
TEST(Tcp, AWriterStoppedInTheMiddleCannotReachAClosedWindow) {
  constexpr uint64_t kBytes = 32 * kMiB;
  auto owner = make("tcp");
  const auto to = owner->allocate(kBytes).value();
  const WindowRange all{to.id, 0, kBytes};
  Child writer("tcp", kBytes);
  ASSERT_EQ(writer.ask("fill 255"), "ok");
  ASSERT_EQ(writer.ask("connect " + to_hex(owner->local_blob())), "ok");
  ASSERT_TRUE(owner->open_window(token(1), std::span(&all, 1)));
  ASSERT_EQ(writer.ask("post 1 6"), "ok");
  ASSERT_TRUE(begun(to, writer));
  writer.stop();
  EXPECT_TRUE(owner->close_window(token(1)));
  fill(to.memory, 0xaa);
  writer.go_on();
  EXPECT_NE(writer.ask("wait").find("rejected"), std::string::npos);
  EXPECT_TRUE(all_equal(to.memory, 0xaa));
}

}  // namespace
}  // namespace baton::transport::testing
