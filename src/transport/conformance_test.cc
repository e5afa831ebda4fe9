// What every transport promises, tried on each of them.

#include "base/random.h"
#include "transport/blob.h"
#include "transport/test_support.h"

namespace baton::testing {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// An owner and a writer, each with a region.
struct Pair {
  Pair(const std::string& name, uint64_t bytes, const TransportOptions& writer_options = {})
      : owner(make(name)), writer(make(name, writer_options)), events(*writer) {
    to = owner->allocate(bytes).value();
    from = writer->allocate(bytes).value();
    peer = writer->connect(owner->local_blob()).value();
  }
  Status open(uint64_t attempt, uint64_t offset, uint64_t length) const {
    const WindowRange range{to.id, offset, length};
    return owner->open_window(token(attempt), std::span(&range, 1));
  }
  Status open(uint64_t attempt) const { return open(attempt, 0, to.bytes.size()); }
  [[nodiscard]] Block block(uint64_t from_offset, uint64_t to_offset, uint64_t length) const {
    return {from.id, from_offset, to.id, to_offset, length};
  }
  Result<TransferId> post(const std::vector<Block>& blocks, const WindowToken& t, Duration limit = 20s) const {
    return writer->post_write(peer, blocks, t, in(limit));
  }
  TransferEvent write(const std::vector<Block>& blocks, const WindowToken& t, Duration limit = 20s) {
    auto id = post(blocks, t, limit);
    BATON_CHECK(id.ok(), "{}", id.error().message);
    return events.wait(*id);
  }

  std::unique_ptr<Transport> owner, writer;
  Events events;
  Transport::Region to, from;
  PeerId peer;
};

void fill_random(std::span<std::byte> bytes, uint64_t seed) {
  Random random(seed);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.next());
}

class Conformance : public ::testing::TestWithParam<std::string> {};

std::string param_name(const ::testing::TestParamInfo<std::string>& info) { return info.param; }
INSTANTIATE_TEST_SUITE_P(Transports, Conformance, ::testing::Values("loopback", "shm", "tcp"), param_name);

TEST_P(Conformance, BytesAreInPlaceWhenAPostIsDone) {
  Pair pair(GetParam(), 3 * kMiB);
  fill_random(pair.from.bytes, 1);
  ASSERT_TRUE(pair.open(1));
  EXPECT_FALSE(pair.owner->window_quiet(token(1)));
  const TransferEvent event = pair.write({pair.block(0, 0, 3 * kMiB)}, token(1));
  EXPECT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
  EXPECT_EQ(event.bytes, 3 * kMiB);
  EXPECT_TRUE(event.remote_quiesced);
  EXPECT_TRUE(std::ranges::equal(pair.to.bytes, pair.from.bytes));
  EXPECT_TRUE(pair.owner->close_window(token(1)));
  EXPECT_TRUE(pair.owner->window_quiet(token(1)));
}

TEST_P(Conformance, AllocatedMemoryIsZeroedAndPageAligned) {
  Pair pair(GetParam(), kMiB);
  EXPECT_TRUE(all_equal(pair.to.bytes, 0));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(pair.to.bytes.data()) % 4096, 0u);
  EXPECT_EQ(pair.owner->allocate(0).error().code, ErrorCode::kInvalidArgument);
  std::vector<std::byte> own(100);
  const auto registered = pair.owner->register_memory(own);
  if (pair.owner->caps().owns_memory) {
    EXPECT_EQ(registered.error().code, ErrorCode::kIncompatible);
  } else {
    EXPECT_TRUE(registered.ok());
  }
}

// Random lists of blocks of any length at any offset against a plain copy of the same list.
TEST_P(Conformance, ManyUnalignedBlocksMatchAPlainCopy) {
  constexpr uint64_t kBytes = 8 * kMiB;
  Pair pair(GetParam(), kBytes);
  fill_random(pair.from.bytes, 2);
  ASSERT_TRUE(pair.open(1));
  struct Case {
    const char* name;
    uint64_t blocks, length_max;
  };
  for (const Case& c :
       {Case{"few large", 3, 2'500'000}, Case{"bytes", 9000, 3}, Case{"pages", 1000, 9001}, Case{"one byte", 1, 1}}) {
    SCOPED_TRACE(c.name);
    Random random(c.blocks);
    std::vector<std::byte> expected(kBytes, std::byte{0xee});
    fill(pair.to.bytes, 0xee);
    std::vector<Block> blocks;
    uint64_t at = 0;
    for (uint64_t i = 0; i < c.blocks; ++i) {  // disjoint destinations, with gaps, then shuffled
      const uint64_t length = std::min(1 + random.below(c.length_max), kBytes - at);
      if (length == 0) break;
      blocks.push_back(pair.block(random.below(kBytes - length + 1), at, length));
      at = std::min(kBytes, at + length + random.below(5));
    }
    for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[random.below(i)]);
    uint64_t bytes = 0;
    for (const Block& b : blocks) {
      std::copy_n(pair.from.bytes.begin() + static_cast<ptrdiff_t>(b.local_offset), b.length,
                  expected.begin() + static_cast<ptrdiff_t>(b.remote_offset));
      bytes += b.length;
    }
    const TransferEvent event = pair.write(blocks, token(1));
    EXPECT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
    EXPECT_EQ(event.bytes, bytes);
    EXPECT_TRUE(std::ranges::equal(pair.to.bytes, expected));
  }
}

TEST_P(Conformance, StridedAndDescendingBlocksMatchAPlainCopy) {
  constexpr uint64_t kBlock = 512, kCount = 6000;
  Pair pair(GetParam(), 2 * kBlock * kCount);
  fill_random(pair.from.bytes, 3);
  ASSERT_TRUE(pair.open(1));
  for (const bool descending : {false, true}) {
    SCOPED_TRACE(descending);
    fill(pair.to.bytes, 0);
    std::vector<Block> blocks;
    for (uint64_t i = 0; i < kCount; ++i) {
      const uint64_t j = descending ? kCount - 1 - i : i;
      blocks.push_back(pair.block(i * kBlock, 2 * j * kBlock, kBlock));
    }
    ASSERT_EQ(pair.write(blocks, token(1)).outcome, TransferOutcome::kDone);
    for (const Block& b : blocks) {
      ASSERT_TRUE(std::ranges::equal(pair.to.bytes.subspan(b.remote_offset, kBlock),
                                     pair.from.bytes.subspan(b.local_offset, kBlock)));
      ASSERT_TRUE(all_equal(pair.to.bytes.subspan(b.remote_offset + kBlock, kBlock), 0));
    }
  }
}

TEST_P(Conformance, AnEmptyPostIsDoneIfItsWindowIsOpen) {
  Pair pair(GetParam(), 4096);
  ASSERT_TRUE(pair.open(1));
  EXPECT_EQ(pair.write({}, token(1)).outcome, TransferOutcome::kDone);
  EXPECT_EQ(pair.write({pair.block(0, 0, 0)}, token(1)).outcome, TransferOutcome::kDone);
  EXPECT_EQ(pair.write({}, token(2)).outcome, TransferOutcome::kRejected);
}

TEST_P(Conformance, TenThousandPostsUseNoMoreDescriptors) {
  Pair pair(GetParam(), kMiB);
  fill(pair.from.bytes, 5);
  ASSERT_TRUE(pair.open(1));
  ASSERT_EQ(pair.write({pair.block(0, 0, 4096)}, token(1)).outcome, TransferOutcome::kDone);
  const size_t before = open_descriptors();
  size_t most = before;
  std::vector<TransferId> ids;
  for (uint64_t i = 0; i < 10'000; ++i) {
    const uint64_t offset = i % 256 * 4096;
    auto id = pair.post({pair.block(offset, offset, 4096)}, token(1));
    ASSERT_TRUE(id.ok()) << id.error().message;
    ids.push_back(*id);
    if (i % 1000 == 999) {
      most = std::max(most, open_descriptors());
      pair.events.wait(ids.back());
    }
  }
  for (const TransferId id : ids) ASSERT_EQ(pair.events.wait(id).outcome, TransferOutcome::kDone);
  EXPECT_EQ(pair.events.count(), 10'001u);
  // tcp may open its second connection (two ends of it in this process).
  EXPECT_LE(most, before + 2);
  EXPECT_TRUE(all_equal(pair.to.bytes, 5));
}

TEST_P(Conformance, TheOwnerRejectsWhatLeavesItsWindowAndNoByteChanges) {
  Pair pair(GetParam(), 64 << 10);
  fill(pair.from.bytes, 0xff);
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
  EXPECT_TRUE(all_equal(pair.to.bytes, 0));
  // The connection is as good as before.
  EXPECT_EQ(pair.write({pair.block(0, 8192, 4096)}, token(1)).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(pair.to.bytes.subspan(8192, 4096), 0xff));
  EXPECT_TRUE(all_equal(pair.to.bytes.first(8192), 0));
  EXPECT_TRUE(all_equal(pair.to.bytes.subspan(8192 + 4096), 0));
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
  fill(pair.from.bytes, 0xff);
  ASSERT_TRUE(pair.open(1));
  ASSERT_TRUE(pair.open(2));
  ASSERT_TRUE(pair.owner->close_window(token(2)));
  for (const WindowToken& t : {token(3), token(1, 78), token(2), token(0)}) {
    const TransferEvent event = pair.write({pair.block(0, 0, kMiB)}, t);
    EXPECT_EQ(event.outcome, TransferOutcome::kRejected) << t.attempt.value();
    EXPECT_TRUE(event.remote_quiesced);
  }
  EXPECT_TRUE(all_equal(pair.to.bytes, 0));
  ASSERT_TRUE(pair.open(2)) << "a closed and quiet token can be opened again";
  EXPECT_EQ(pair.write({pair.block(0, 0, kMiB)}, token(2)).outcome, TransferOutcome::kDone);
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

TEST_P(Conformance, BadLocalBlocksAndPeersAreRefusedAtOnce) {
  Pair pair(GetParam(), 4096);
  for (const Block& b : {Block{RegionId(7), 0, pair.to.id, 0, 1}, pair.block(4096, 0, 1), pair.block(0, 0, 4097),
                         pair.block(~uint64_t{0}, 0, 2), pair.block(1, 0, ~uint64_t{0})}) {
    EXPECT_EQ(pair.post({b}, token(1)).error().code, ErrorCode::kInvalidArgument);
  }
  const Block good = pair.block(0, 0, 1);
  EXPECT_EQ(pair.writer->post_write(PeerId(44), std::span(&good, 1), token(1), in(1s)).error().code,
            ErrorCode::kUnavailable);
  EXPECT_EQ(pair.writer->connect("nonsense").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(pair.writer->connect("").error().code, ErrorCode::kInvalidArgument);
  const std::string blob = pair.owner->local_blob();
  for (size_t n = 0; n < blob.size(); ++n) EXPECT_FALSE(pair.writer->connect(blob.substr(0, n)).ok()) << n;
  EXPECT_EQ(*pair.writer->connect(blob), pair.peer);
}

TEST_P(Conformance, AnotherIncarnationAtTheSameAddressIsNotWritten) {
  const std::string name = GetParam();
  TransportOptions options;
  options.incarnation = {1, 1};
  if (name != "tcp") options.bind_address = fmt::format("baton-test-{}", ::getpid());
  auto owner = make(name, options);
  if (name == "tcp") {
    options.bind_address = fmt::format("127.0.0.1:{}", decode_blob(owner->local_blob(), BlobKind::kTcp)->port);
  }
  const std::string blob = owner->local_blob();
  ASSERT_TRUE(owner->allocate(4096).ok());

  auto writer = make(name);
  Events events(*writer);
  const auto from = writer->allocate(4096).value();
  fill(from.bytes, 0xff);
  const PeerId peer = *writer->connect(blob);
  const Block block{from.id, 0, RegionId(1), 0, 4096};
  const WindowRange all{RegionId(1), 0, 4096};
  ASSERT_TRUE(owner->open_window(token(1), std::span(&all, 1)));
  ASSERT_EQ(events.wait(*writer->post_write(peer, std::span(&block, 1), token(1), in(20s))).outcome,
            TransferOutcome::kDone);

  owner.reset();
  options.incarnation = {1, 2};
  owner = make(name, options);
  const auto to = owner->allocate(4096).value();
  ASSERT_TRUE(owner->open_window(token(1), std::span(&all, 1)));

  // The connection of before may be noticed to be gone by the first post; from then on the answer is clear.
  auto event = events.wait(*writer->post_write(peer, std::span(&block, 1), token(1), in(20s)));
  if (event.outcome == TransferOutcome::kPeerLost) {
    event = events.wait(*writer->post_write(peer, std::span(&block, 1), token(1), in(20s)));
  }
  EXPECT_EQ(event.outcome, TransferOutcome::kRejected) << event.detail;
  EXPECT_NE(event.detail.find("stale"), std::string::npos) << event.detail;
  auto fresh = make(name);
  Events fresh_events(*fresh);
  const auto source = fresh->allocate(4096).value();
  const Block again{source.id, 0, RegionId(1), 0, 4096};
  event = fresh_events.wait(*fresh->post_write(*fresh->connect(blob), std::span(&again, 1), token(1), in(20s)));
  EXPECT_EQ(event.outcome, TransferOutcome::kRejected) << event.detail;
  EXPECT_TRUE(all_equal(to.bytes, 0));

  // The new blob is a new peer and works.
  event =
      events.wait(*writer->post_write(*writer->connect(owner->local_blob()), std::span(&block, 1), token(1), in(20s)));
  EXPECT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
  EXPECT_TRUE(all_equal(to.bytes, 0xff));
}

// The fence: the window is closed while posts are under way, and what was granted gets another use.
TEST_P(Conformance, NoLateByteLandsInMemoryThatIsUsedAgain) {
  constexpr uint64_t kBytes = 16 * kMiB;
  Pair pair(GetParam(), kBytes);
  fill(pair.from.bytes, 0xff);
  Random random(7);
  int in_the_middle = 0;
  for (uint64_t attempt = 1; attempt <= 12; ++attempt) {
    ASSERT_TRUE(pair.open(attempt));
    std::vector<TransferId> ids;
    for (int i = 0; i < 4; ++i) ids.push_back(*pair.post({pair.block(0, 0, kBytes)}, token(attempt)));
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(20'000)));
    bool quiet = pair.owner->close_window(token(attempt));
    const TimePoint end = in(20s);
    while (!quiet && SteadyClock().now() < end) quiet = pair.owner->window_quiet(token(attempt));
    ASSERT_TRUE(quiet);
    fill(pair.to.bytes, 0xaa);
    for (const TransferId id : ids) {
      const TransferEvent event = pair.events.wait(id);
      ASSERT_TRUE(event.outcome == TransferOutcome::kDone || event.outcome == TransferOutcome::kRejected)
          << event.detail;
      if (event.outcome == TransferOutcome::kRejected && event.bytes > 0) ++in_the_middle;
    }
    ASSERT_TRUE(all_equal(pair.to.bytes, 0xaa)) << "attempt " << attempt;
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
  fill(pair.from.bytes, 0xff);
  Random random(8);
  std::vector<Block> blocks;
  for (uint64_t i = 0; i < kBlocks; ++i)
    blocks.push_back(pair.block(random.below(kBytes), i * 300 + random.below(300), 1));
  for (uint64_t attempt = 1; attempt <= 200; ++attempt) {
    ASSERT_TRUE(pair.open(attempt));
    std::vector<TransferId> ids;
    for (int i = 0; i < 10; ++i) ids.push_back(*pair.post(blocks, token(attempt)));
    for (uint64_t i = random.below(300); i > 0; --i) std::atomic_signal_fence(std::memory_order_seq_cst);
    if (attempt % 2 == 0) pair.events.wait(ids[random.below(ids.size())]);
    bool quiet = pair.owner->close_window(token(attempt));
    while (!quiet) quiet = pair.owner->window_quiet(token(attempt));
    fill(pair.to.bytes, 0xaa);
    for (const TransferId id : ids) pair.events.wait(id);
    ASSERT_TRUE(all_equal(pair.to.bytes, 0xaa)) << "attempt " << attempt;
  }
}

TEST_P(Conformance, AFullQueueRefusesAndTakesAgainAfterAnEvent) {
  TransportOptions options;
  options.queue_bytes = kMiB;
  Pair pair(GetParam(), 64 * kMiB, options);
  ASSERT_TRUE(pair.open(1));
  const auto large = pair.post({pair.block(0, 0, 64 * kMiB)}, token(1));
  ASSERT_TRUE(large.ok()) << "one post is always let in";
  EXPECT_EQ(pair.post({pair.block(0, 0, 1)}, token(1)).error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(pair.events.wait(*large).outcome, TransferOutcome::kDone);
  EXPECT_EQ(pair.write({pair.block(0, 0, 1)}, token(1)).outcome, TransferOutcome::kDone);
}

TEST_P(Conformance, PostsOfManyThreadsEndInOneEventEach) {
  constexpr uint64_t kThreads = 4, kPosts = 200, kBytes = 4096;
  Pair pair(GetParam(), kThreads * kPosts * kBytes);
  fill_random(pair.from.bytes, 4);
  ASSERT_TRUE(pair.open(1));
  std::vector<std::vector<TransferId>> ids(kThreads);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kPosts; ++i) {
        const uint64_t at = (t * kPosts + i) * kBytes;
        auto id = pair.post({pair.block(at, at, kBytes)}, token(1));
        ASSERT_TRUE(id.ok());
        ids[t].push_back(*id);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  for (const auto& of_thread : ids) {
    for (const TransferId id : of_thread) ASSERT_EQ(pair.events.wait(id).outcome, TransferOutcome::kDone);
  }
  pair.events.collect();
  EXPECT_EQ(pair.events.count(), kThreads * kPosts);
  EXPECT_TRUE(std::ranges::equal(pair.to.bytes, pair.from.bytes));
}

TEST_P(Conformance, ACancelledPostEndsOnceAndWritesNoMore) {
  constexpr uint64_t kBytes = 32 * kMiB;
  Pair pair(GetParam(), kBytes);
  fill(pair.from.bytes, 0xff);
  ASSERT_TRUE(pair.open(1));
  ASSERT_EQ(pair.write({pair.block(0, 0, 1)}, token(1)).outcome, TransferOutcome::kDone);
  std::vector<TransferId> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(*pair.post({pair.block(0, 0, kBytes)}, token(1)));
  for (const TransferId id : ids) pair.writer->cancel(id);
  pair.writer->cancel(TransferId(999'999));
  int cancelled = 0;
  for (const TransferId id : ids) {
    const TransferEvent event = pair.events.wait(id);
    EXPECT_TRUE(event.outcome == TransferOutcome::kCancelled || event.outcome == TransferOutcome::kDone)
        << event.detail;
    EXPECT_TRUE(event.remote_quiesced);
    cancelled += event.outcome == TransferOutcome::kCancelled ? 1 : 0;
  }
  EXPECT_GE(cancelled, 4);
  fill(pair.to.bytes, 0xaa);
  ASSERT_EQ(pair.write({pair.block(0, 0, 1)}, token(1)).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(pair.to.bytes.subspan(1), 0xaa));
}

TEST_P(Conformance, ForgettingAPeerEndsItsPosts) {
  Pair pair(GetParam(), 32 * kMiB);
  ASSERT_TRUE(pair.open(1));
  std::vector<TransferId> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(*pair.post({pair.block(0, 0, 32 * kMiB)}, token(1)));
  pair.writer->forget(pair.peer);
  EXPECT_EQ(pair.events.wait(ids.back()).outcome, TransferOutcome::kPeerLost);
  for (const TransferId id : ids) pair.events.wait(id);
  EXPECT_EQ(pair.post({pair.block(0, 0, 1)}, token(1)).error().code, ErrorCode::kUnavailable);
  // Pairing again makes it a peer again.
  pair.peer = *pair.writer->connect(pair.owner->local_blob());
  EXPECT_EQ(pair.write({pair.block(0, 0, 1)}, token(1)).outcome, TransferOutcome::kDone);
}

TEST_P(Conformance, APostWhoseDeadlineHasPassedTimesOut) {
  Pair pair(GetParam(), 4096);
  fill(pair.from.bytes, 0xff);
  ASSERT_TRUE(pair.open(1));
  const TransferEvent event = pair.write({pair.block(0, 0, 4096)}, token(1), -1s);
  EXPECT_EQ(event.outcome, TransferOutcome::kTimeout);
  EXPECT_TRUE(event.remote_quiesced) << "nothing was sent";
  EXPECT_TRUE(all_equal(pair.to.bytes, 0));
}

TEST_P(Conformance, TwoInstancesOnOneHostAreTwo) {
  Pair pair(GetParam(), 4096);
  auto second = make(GetParam());
  const auto second_to = second->allocate(4096).value();
  ASSERT_NE(second->local_blob(), pair.owner->local_blob());
  fill(pair.from.bytes, 0xff);
  const WindowRange all{second_to.id, 0, 4096};
  ASSERT_TRUE(second->open_window(token(1), std::span(&all, 1)));
  EXPECT_EQ(pair.write({pair.block(0, 0, 4096)}, token(1)).outcome, TransferOutcome::kRejected) << "the other's window";
  const Block block = pair.block(0, 0, 4096);
  const PeerId peer = *pair.writer->connect(second->local_blob());
  EXPECT_EQ(pair.events.wait(*pair.writer->post_write(peer, std::span(&block, 1), token(1), in(20s))).outcome,
            TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(second_to.bytes, 0xff));
  EXPECT_TRUE(all_equal(pair.to.bytes, 0));
}

// The owner forgets a writer and pairs with it again: the writer is one more time as good as before.
TEST_P(Conformance, AForgottenWriterIsLetInAgainWhenBothPair) {
  Pair pair(GetParam(), 4096);
  ASSERT_TRUE(pair.open(1));
  const auto write = [&] { return pair.write({pair.block(0, 0, 4096)}, token(1)).outcome; };
  const auto becomes = [&](bool done) {
    bool is = write() == TransferOutcome::kDone;
    for (const TimePoint end = in(10s); is != done && SteadyClock().now() < end;)
      is = write() == TransferOutcome::kDone;
    return is == done;
  };
  const PeerId writer = *pair.owner->connect(pair.writer->local_blob());
  ASSERT_TRUE(becomes(true));
  pair.owner->forget(writer);
  if (GetParam() == "tcp") {
    EXPECT_TRUE(becomes(false)) << "its connections are closed and new ones refused";
  }
  EXPECT_TRUE(pair.owner->connect(pair.writer->local_blob()).ok());
  EXPECT_EQ(*pair.writer->connect(pair.owner->local_blob()), pair.peer);
  EXPECT_TRUE(becomes(true));
}

TEST(MakeTransport, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(make_transport("carrier pigeon", {}).error().code, ErrorCode::kInvalidArgument);
  TransportOptions options;
  options.queue_bytes = 0;
  EXPECT_EQ(make_transport("tcp", options).error().code, ErrorCode::kInvalidArgument);
  options = {};
  options.copy_threads = 9;
  EXPECT_EQ(make_transport("shm", options).error().code, ErrorCode::kInvalidArgument);
  options = {};
  options.bind_address = "0.0.0.0";
  EXPECT_EQ(make_transport("tcp", options).error().code, ErrorCode::kInvalidArgument)
      << "peers could not be told an address";
  options.advertise_host = "127.0.0.1";
  EXPECT_TRUE(make_transport("tcp", options).ok());
}

TEST(MakeTransport, ABlobOfAnotherTransportIsRefusedByName) {
  const auto failed = make("shm")->connect(make("tcp")->local_blob());
  EXPECT_EQ(failed.error().code, ErrorCode::kIncompatible);
  EXPECT_NE(failed.error().message.find("tcp"), std::string::npos) << failed.error().message;
}

}  // namespace
}  // namespace baton::testing
