// What every transport promises of a post: its bytes, its one event, and what many posts cost.
#include "transport/conformance_test.h"

namespace baton::transport::testing {
namespace {

TEST_P(Conformance, BytesAreInPlaceWhenAPostIsDone) {
  Pair pair(GetParam(), 3 * kMiB);
  fill_random(pair.from.memory, 1);
  ASSERT_TRUE(pair.open(1));
  EXPECT_FALSE(pair.owner->window_quiet(token(1)));
  const TransferEvent event = pair.write({pair.block(0, 0, 3 * kMiB)}, token(1));
  EXPECT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
  EXPECT_EQ(event.bytes, 3 * kMiB);
  EXPECT_TRUE(event.remote_quiesced);
  EXPECT_TRUE(get(pair.to.memory) == get(pair.from.memory));
  EXPECT_TRUE(pair.owner->close_window(token(1)));
  EXPECT_TRUE(pair.owner->window_quiet(token(1)));
}

TEST_P(Conformance, AllocatedMemoryIsZeroedAndPageAligned) {
  Pair pair(GetParam(), kMiB);
  EXPECT_TRUE(all_equal(pair.to.memory, 0));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(pair.to.memory.base) % 4096, 0u);
  EXPECT_EQ(pair.owner->allocate(0).error().code, ErrorCode::kInvalidArgument);
  std::vector<std::byte> own(100);
  const auto registered = pair.owner->register_memory(device::Memory::of(own));
  if (pair.owner->caps().owns_memory || GetParam() == "cuda_ipc") {
    EXPECT_EQ(registered.error().code, ErrorCode::kIncompatible);
  } else {
    EXPECT_TRUE(registered.ok());
  }
}

// Each moves bytes of one kind of memory, and none may try with another.
TEST_P(Conformance, MemoryOfAnotherHomeIsRefusedWhenItIsRegistered) {
  Pair pair(GetParam(), 4096);
  std::vector<std::byte> own(100);
  device::Memory foreign = device::Memory::of(own);
  foreign.home = {device::DeviceKind::kCuda, 99};
  EXPECT_EQ(pair.owner->register_memory(foreign).error().code, ErrorCode::kIncompatible);
}

// Random lists of blocks of any length at any offset against a plain copy of the same list.
TEST_P(Conformance, ManyUnalignedBlocksMatchAPlainCopy) {
  constexpr uint64_t kBytes = 8 * kMiB;
  Pair pair(GetParam(), kBytes);
  fill_random(pair.from.memory, 2);
  const std::vector<std::byte> source = get(pair.from.memory);
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
    fill(pair.to.memory, 0xee);
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
      std::copy_n(source.begin() + static_cast<ptrdiff_t>(b.local_offset), b.length,
                  expected.begin() + static_cast<ptrdiff_t>(b.remote_offset));
      bytes += b.length;
    }
    const TransferEvent event = pair.write(blocks, token(1));
    EXPECT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
    EXPECT_EQ(event.bytes, bytes);
    EXPECT_TRUE(get(pair.to.memory) == expected);
  }
}

TEST_P(Conformance, StridedAndDescendingBlocksMatchAPlainCopy) {
  constexpr uint64_t kBlock = 512, kCount = 6000;
  Pair pair(GetParam(), 2 * kBlock * kCount);
  fill_random(pair.from.memory, 3);
  ASSERT_TRUE(pair.open(1));
  for (const bool descending : {false, true}) {
    SCOPED_TRACE(descending);
    fill(pair.to.memory, 0);
    std::vector<Block> blocks;
    for (uint64_t i = 0; i < kCount; ++i) {
      const uint64_t j = descending ? kCount - 1 - i : i;
      blocks.push_back(pair.block(i * kBlock, 2 * j * kBlock, kBlock));
    }
    ASSERT_EQ(pair.write(blocks, token(1)).outcome, TransferOutcome::kDone);
    const std::vector<std::byte> from = get(pair.from.memory), to = get(pair.to.memory);
    for (const Block& b : blocks) {
      ASSERT_TRUE(std::ranges::equal(std::span(to).subspan(b.remote_offset, kBlock),
                                     std::span(from).subspan(b.local_offset, kBlock)));
      ASSERT_TRUE(all_equal(std::span(to).subspan(b.remote_offset + kBlock, kBlock), 0));
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
  fill(pair.from.memory, 5);
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
  EXPECT_TRUE(all_equal(pair.to.memory, 5));
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
  fill_random(pair.from.memory, 4);
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
  EXPECT_TRUE(get(pair.to.memory) == get(pair.from.memory));
}

}  // namespace
}  // namespace baton::transport::testing
