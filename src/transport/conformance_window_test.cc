// What every transport promises of windows: what they let in, and that nothing lands once one is closed and quiet.
#include "transport/conformance_test.h"

namespace baton::transport::testing {
namespace {

TEST_P(Conformance, TheOwnerRejectsWhatLeavesItsWindowAndNoByteChanges) {
  Pair pair(GetParam(), 64 << 10);
  fill(pair.from.memory, 0xff);
  ASSERT_TRUE(pair.open(1, 8192, 4096));
  const RegionId to = pair.to.id;
  const RegionId other = pair.owner->allocate(64 << 10)->id;
  constexpr uint64_t kMax = ~uint64_t{0};
  struct Case {
    const char* name;
    RegionId region;
    uint64_t offset, length;
  };
  const Case cases[] = {
      {"region 0", RegionId(0), 8192, 100},
      {"unknown region", RegionId(200), 8192, 100},
      {"another region", other, 8192, 100},
      {"behind the region", to, 64 << 10, 1},
      {"across the end of the region", to, (64 << 10) - 50, 100},
      {"offset that overflows", to, kMax - 49, 100},
      {"largest offset", to, kMax, 1},
      {"before the window", to, 0, 100},
      {"one byte before the window", to, 8191, 100},
      {"one byte behind the window", to, 8192 + 4096 - 99, 100},
      {"around the window", to, 8000, 8192},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const TransferEvent event = pair.write({{pair.from.id, 0, c.region, c.offset, c.length}}, token(1));
    EXPECT_EQ(event.outcome, TransferOutcome::kRejected);
    EXPECT_TRUE(event.remote_quiesced);
    EXPECT_EQ(event.bytes, 0u);
    EXPECT_FALSE(event.detail.empty());
  }
  // A good block does not carry a bad one of the same frame.
  EXPECT_EQ(pair.write({pair.block(0, 8192, 100), pair.block(0, 0, 100)}, token(1)).outcome,
            TransferOutcome::kRejected);
  EXPECT_TRUE(all_equal(pair.to.memory, 0));
  // The connection is as good as before.
  EXPECT_EQ(pair.write({pair.block(0, 8192, 4096)}, token(1)).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(pair.to.memory.part(8192, 4096), 0xff));
  EXPECT_TRUE(all_equal(pair.to.memory.part(0, 8192), 0));
  EXPECT_TRUE(all_equal(behind(pair.to.memory, 8192 + 4096), 0));
}

TEST_P(Conformance, AdjacentRangesOfAWindowAreOne) {
  Pair pair(GetParam(), 64 << 10);
  const WindowRange ranges[] = {
      {pair.to.id, 4096, 4096}, {pair.to.id, 0, 4096}, {pair.to.id, 6000, 4000}, {pair.to.id, 20000, 10}};
  ASSERT_TRUE(pair.owner->open_window(token(1), ranges));
  EXPECT_EQ(pair.write({pair.block(0, 100, 9900)}, token(1)).outcome, TransferOutcome::kDone);
  EXPECT_EQ(pair.write({pair.block(0, 100, 9901)}, token(1)).outcome, TransferOutcome::kRejected);
  EXPECT_EQ(pair.write({pair.block(0, 20000, 10)}, token(1)).outcome, TransferOutcome::kDone);
}

TEST_P(Conformance, OnlyAnOpenWindowsTokenLetsBytesIn) {
  Pair pair(GetParam(), kMiB);
  fill(pair.from.memory, 0xff);
  ASSERT_TRUE(pair.open(1));
  ASSERT_TRUE(pair.open(2));
  ASSERT_TRUE(pair.owner->close_window(token(2)));
  for (const WindowToken& t : {token(3), token(1, 78), token(2), token(0)}) {
    const TransferEvent event = pair.write({pair.block(0, 0, kMiB)}, t);
    EXPECT_EQ(event.outcome, TransferOutcome::kRejected) << t.attempt.value();
    EXPECT_TRUE(event.remote_quiesced);
  }
  EXPECT_TRUE(all_equal(pair.to.memory, 0));
  ASSERT_TRUE(pair.open(2)) << "a closed and quiet token can be opened again";
  EXPECT_EQ(pair.write({pair.block(0, 0, kMiB)}, token(2)).outcome, TransferOutcome::kDone);
}

TEST_P(Conformance, AWindowLetsInOnlyItsWriter) {
  constexpr Incarnation kWriter{5, 6};
  TransportOptions options;
  options.incarnation = kWriter;
  Pair pair(GetParam(), 4096, options);
  fill(pair.from.memory, 0xff);
  const WindowRange all{pair.to.id, 0, 4096};
  ASSERT_TRUE(pair.owner->open_window(token(1), std::span(&all, 1), Incarnation{5, 7}));
  EXPECT_EQ(pair.write({pair.block(0, 0, 4096)}, token(1)).outcome, TransferOutcome::kRejected);
  EXPECT_TRUE(all_equal(pair.to.memory, 0));
  EXPECT_TRUE(pair.owner->close_window(token(1)));
  ASSERT_TRUE(pair.owner->open_window(token(1), std::span(&all, 1), kWriter));
  EXPECT_EQ(pair.write({pair.block(0, 0, 4096)}, token(1)).outcome, TransferOutcome::kDone);
}

TEST_P(Conformance, WindowsThatMakeNoSenseAreRefused) {
  Pair pair(GetParam(), 4096);
  ASSERT_TRUE(pair.open(1));
  struct Case {
    const char* name;
    WindowToken token;
    std::vector<WindowRange> ranges;
  };
  const Case cases[] = {
      {"open already", token(1), {{pair.to.id, 0, 10}}},
      {"attempt 0", token(0), {{pair.to.id, 0, 10}}},
      {"no range", token(2), {}},
      {"empty range", token(2), {{pair.to.id, 0, 0}}},
      {"unknown region", token(2), {{RegionId(9), 0, 10}}},
      {"behind the region", token(2), {{pair.to.id, 4000, 97}}},
      {"overflow", token(2), {{pair.to.id, ~uint64_t{0} - 4, 10}}},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(pair.owner->open_window(c.token, c.ranges).error().code, ErrorCode::kInvalidArgument) << c.name;
  }
  EXPECT_TRUE(pair.owner->close_window(token(9))) << "a token that was never opened has no writers";
}

// The fence: the window is closed while posts are under way, and what was granted gets another use.
TEST_P(Conformance, NoLateByteLandsInMemoryThatIsUsedAgain) {
  const bool on_card = GetParam() == "cuda_ipc";  // as fast as that, and in larger pieces
  const uint64_t bytes = (on_card ? 256 : 16) * kMiB, pause_us = on_card ? 500 : 20'000;
  TransportOptions options;
  options.queue_bytes = 5 * bytes;
  Pair pair(GetParam(), bytes, options);
  fill(pair.from.memory, 0xff);
  Random random(7);
  int in_the_middle = 0;
  for (uint64_t attempt = 1; attempt <= 12; ++attempt) {
    ASSERT_TRUE(pair.open(attempt));
    const std::vector<TransferId> ids = pair.post_times(4, {pair.block(0, 0, bytes)}, token(attempt));
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(pause_us)));
    bool quiet = pair.owner->close_window(token(attempt));
    const TimePoint end = in(20s);
    while (!quiet && SteadyClock().now() < end) quiet = pair.owner->window_quiet(token(attempt));
    ASSERT_TRUE(quiet);
    fill(pair.to.memory, 0xaa);
    for (const TransferId id : ids) {
      const TransferEvent event = pair.events.wait(id);
      ASSERT_TRUE(event.outcome == TransferOutcome::kDone || event.outcome == TransferOutcome::kRejected)
          << event.detail;
      if (event.outcome == TransferOutcome::kRejected && event.bytes > 0) ++in_the_middle;
    }
    ASSERT_TRUE(all_equal(pair.to.memory, 0xaa)) << "attempt " << attempt;
  }
  if (GetParam() != "loopback") {
    EXPECT_GT(in_the_middle, 0) << "no window was closed in the middle of a post";
  }
}

// Posts that come in one piece with their header, and take the owner long to check: closing falls between the check and
// the bytes.
TEST_P(Conformance, NoLateByteOfASmallPostLandsEither) {
  constexpr uint64_t kBytes = 64 << 10, kBlocks = 200;
  Pair pair(GetParam(), kBytes);
  fill(pair.from.memory, 0xff);
  Random random(8);
  std::vector<Block> blocks;
  for (uint64_t i = 0; i < kBlocks; ++i)
    blocks.push_back(pair.block(random.below(kBytes), i * 300 + random.below(300), 1));
  for (uint64_t attempt = 1; attempt <= 200; ++attempt) {
    ASSERT_TRUE(pair.open(attempt));
    const std::vector<TransferId> ids = pair.post_times(10, blocks, token(attempt));
    for (uint64_t i = random.below(300); i > 0; --i) std::atomic_signal_fence(std::memory_order_seq_cst);
    if (attempt % 2 == 0) pair.events.wait(ids[random.below(ids.size())]);
    bool quiet = pair.owner->close_window(token(attempt));
    while (!quiet) quiet = pair.owner->window_quiet(token(attempt));
    fill(pair.to.memory, 0xaa);
    for (const TransferId id : ids) pair.events.wait(id);
    ASSERT_TRUE(all_equal(pair.to.memory, 0xaa)) << "attempt " << attempt;
  }
}

}  // namespace
}  // namespace baton::transport::testing
