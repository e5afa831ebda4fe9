// A card's stream beside the CPU's: the same work on the same bytes, all of which are random before. What needs a card
// is skipped without one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/random.h"
#include "device/cpu_stream.h"
#include "device/cuda.h"

namespace baton::device {
namespace {

using Bytes = std::vector<std::byte>;

Bytes random_bytes(uint64_t size, Random& random) {
  Bytes bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.next());
  return bytes;
}

// A range of any alignment and size, most of them small.
layout::Run random_run(uint64_t size, Random& random) {
  static constexpr uint64_t kAlignments[] = {1, 2, 4, 8, 16, 64};
  const uint64_t align = kAlignments[random.below(std::size(kAlignments))];
  const uint64_t most = random.below(8) == 0 ? size / 2 : 3000;
  const uint64_t length = random.below(most + 1) / align * align;
  return {random.below(size - length + 1) / align * align, length};
}

std::vector<layout::Run> random_runs(uint64_t size, size_t count, Random& random) {
  std::vector<layout::Run> runs;
  for (size_t i = 0; i < count; ++i) runs.push_back(random_run(size, random));
  return runs;
}

// Destinations that do not overlap: pieces of the whole, in any order.
std::vector<layout::Copy> random_copies(uint64_t size, size_t count, Random& random) {
  std::vector<uint64_t> cuts = {0, size};
  for (size_t i = 1; i < count; ++i)
    cuts.push_back(random.below(4) == 0 ? random.below(size) : random.below(size / 16) * 16);
  std::sort(cuts.begin(), cuts.end());
  std::vector<layout::Copy> copies;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const uint64_t length = random.below(3) == 0 ? random.below(cuts[i + 1] - cuts[i] + 1) : cuts[i + 1] - cuts[i];
    const uint64_t source = random.below(size - length + 1);
    copies.push_back({random.below(2) == 0 ? source : source / 16 * 16, cuts[i], length});
  }
  for (size_t i = copies.size(); i > 1; --i) std::swap(copies[i - 1], copies[random.below(i)]);
  return copies;
}

std::vector<layout::WordRun> random_word_runs(uint64_t size, size_t count, Random& random) {
  static constexpr uint64_t kRows[] = {16, 16, 16, 48, 6, 20, 72, 1};
  std::vector<layout::WordRun> runs;
  for (const layout::Run& run : random_runs(size, count, random)) {
    const uint64_t row = kRows[random.below(std::size(kRows))];
    const uint64_t length = row % 16 == 0 ? run.length : run.length / row * row;
    runs.push_back({run.offset, length, row, random.below(uint64_t{1} << 40)});
  }
  return runs;
}

constexpr Home kCard{DeviceKind::kCuda, 0};

class CudaStreamTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "this machine has no card";
    stream_ = make_stream(kCard);
  }

  // All of a card's memory, as it is once what was asked for so far is done.
  Bytes read(const Memory& memory) {
    Bytes bytes(memory.size);
    const std::vector<layout::Copy> whole = {{0, 0, memory.size}};
    stream_->copy(memory, Memory::of(bytes), whole);
    stream_->record()->wait();
    return bytes;
  }
  Buffer on_card(Bytes& bytes, Home home = kCard) {
    Buffer buffer = Buffer::allocate(home, bytes.size()).value();
    const std::vector<layout::Copy> whole = {{0, 0, bytes.size()}};
    const std::unique_ptr<Stream> stream = make_stream(home);
    stream->copy(Memory::of(bytes), buffer.memory(), whole);
    stream->record()->wait();
    return buffer;
  }

  std::unique_ptr<Stream> stream_;
  CpuStream cpu_;
  Random random_{20};
};

TEST(CudaMemory, WhatCannotBeHadIsAnError) {
  const size_t cards = cuda_devices().size();
  const Result<Buffer> buffer = Buffer::allocate({DeviceKind::kCuda, static_cast<int>(cards)}, 4096);
  ASSERT_FALSE(buffer.ok());
  EXPECT_EQ(buffer.error().code, ErrorCode::kIncompatible);
  EXPECT_NE(buffer.error().message.find("has " + std::to_string(cards) + " cards"), std::string::npos)
      << buffer.error().message;
}

TEST_F(CudaStreamTest, MemoryIsZeroedCountedAndGivenBack) {
  const CudaDevice card = cuda_devices().front();
  EXPECT_FALSE(card.name.empty());
  EXPECT_LE(card.bytes_free, card.bytes_total);
  constexpr uint64_t kBytes = uint64_t{256} << 20;
  const uint64_t before = available_memory(kCard);
  {
    // Twice, because what the first leaves behind is not zero.
    for (int i = 0; i < 2; ++i) {
      const Buffer buffer = Buffer::allocate(kCard, kBytes).value();
      EXPECT_EQ(buffer.memory().home, kCard);
      EXPECT_LE(available_memory(kCard) + kBytes, before);
      const Bytes found = read(buffer.memory());
      EXPECT_TRUE(std::all_of(found.begin(), found.end(), [](std::byte b) { return b == std::byte{0}; })) << i;
      Bytes ones(1 << 20, std::byte{255});
      const std::vector<layout::Copy> copies = {{0, 0, ones.size()}, {0, kBytes - ones.size(), ones.size()}};
      stream_->copy(Memory::of(ones), buffer.memory(), copies);
      stream_->record()->wait();
    }
  }
  // Less what the first kernels of a process take.
  EXPECT_GE(available_memory(kCard) + kBytes / 4, before);
  const Result<Buffer> huge = Buffer::allocate(kCard, uint64_t{1} << 45);
  ASSERT_FALSE(huge.ok());
  EXPECT_EQ(huge.error().code, ErrorCode::kResourceExhausted) << huge.error().message;
  EXPECT_TRUE(Buffer::allocate(kCard, 4096).ok()) << "the card goes on after it";
}

TEST_F(CudaStreamTest, RandomWorkLeavesWhatTheCpuLeaves) {
  for (const uint64_t size : {uint64_t{1} << 12, uint64_t{300000}, uint64_t{9} << 20}) {
    Bytes a = random_bytes(size, random_), b = random_bytes(size, random_);
    const Buffer card_a = on_card(a), card_b = on_card(b);
    for (int round = 0; round < 30; ++round) {
      SCOPED_TRACE(testing::Message() << size << " bytes, round " << round);
      // Lists of one kernel's short kind, of its long kind, and of several kernels.
      const size_t count = std::vector<size_t>{1, 7, 64, 65, 900}[random_.below(5)];
      const auto copies = random_copies(size, count, random_);
      const auto zeros = random_runs(size, std::min<size_t>(count, 65), random_);
      const auto words = random_word_runs(size, count, random_);
      const PageKeys keys(random_.next());
      WordSum sums[3], expected[3];
      cpu_.sum(Memory::of(b), words, keys, &expected[0]);
      cpu_.copy(Memory::of(a), Memory::of(b), copies);
      cpu_.sum(Memory::of(b), words, keys, &expected[1]);
      cpu_.zero(Memory::of(b), zeros);
      cpu_.sum(Memory::of(b), words, keys, &expected[2]);
      stream_->sum(card_b.memory(), words, keys, &sums[0]);
      stream_->copy(card_a.memory(), card_b.memory(), copies);
      stream_->sum(card_b.memory(), words, keys, &sums[1]);
      stream_->zero(card_b.memory(), zeros);
      stream_->sum(card_b.memory(), words, keys, &sums[2]);
      stream_->record()->wait();
      for (int i = 0; i < 3; ++i) EXPECT_EQ(sums[i], expected[i]) << "sum " << i << " of " << count << " runs";
      ASSERT_TRUE(read(card_b.memory()) == b);
    }
  }
}

// Pageable and pinned; small ranges, and such as go by the copy engine.
TEST_F(CudaStreamTest, CopiesFromAndToTheProcessor) {
  for (const bool pinned : {false, true}) {
    for (const auto& [size, count] : {std::pair<uint64_t, size_t>{200000, 300}, {uint64_t{8} << 20, 3}}) {
      SCOPED_TRACE(testing::Message() << (pinned ? "pinned" : "pageable") << ", " << size << " bytes");
      Bytes poison = random_bytes(size, random_);
      const Buffer card = on_card(poison);
      const Buffer host = Buffer::allocate({}, size).value();
      const Bytes fresh = random_bytes(size, random_);
      std::memcpy(host.memory().base, fresh.data(), size);
      std::optional<HostPin> pin;
      if (pinned) pin.emplace(HostPin::make(host.memory()).value());
      const auto in = random_copies(size, count, random_), out = random_copies(size, count, random_);
      Bytes expected_card = poison, expected_host = fresh;
      cpu_.copy(host.memory(), Memory::of(expected_card), in);
      cpu_.copy(Memory::of(expected_card), Memory::of(expected_host), out);
      stream_->copy(host.memory(), card.memory(), in);
      stream_->copy(card.memory(), host.memory(), out);
      stream_->record()->wait();
      EXPECT_TRUE(read(card.memory()) == expected_card);
      EXPECT_TRUE(std::equal(expected_host.begin(), expected_host.end(), host.memory().base));
    }
  }
}

// Values of every size, in ranges that begin anywhere; what no range holds stays.
TEST_F(CudaStreamTest, ConversionsAreTheCpus) {
  using tensor::DType;
  constexpr uint64_t kValues = 200'000;
  std::vector<float> floats(kValues);
  for (float& v : floats) v = static_cast<float>((random_.uniform() * 2 - 1) * std::exp2(random_.uniform() * 24 - 14));
  Bytes source(kValues * sizeof(float));
  std::memcpy(source.data(), floats.data(), source.size());
  const std::vector<Conversion> whole = {{0, 0, kValues}};
  for (const DType from : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    Bytes values(kValues * tensor::dtype_size(from));
    cpu_.convert(Memory::of(source), DType::kF32, Memory::of(values), from, whole);
    const Buffer on_the_card = on_card(values);
    for (const DType to : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
      std::vector<Conversion> parts;
      for (uint64_t at = 0; at < kValues;) {
        const uint64_t count =
            std::min(kValues - at, random_.below(8) == 0 ? 30'000 + random_.below(9) : 1 + random_.below(300));
        parts.push_back({at * tensor::dtype_size(from), at * tensor::dtype_size(to), count});
        at += count + random_.below(3);
      }
      Bytes expected = random_bytes(kValues * tensor::dtype_size(to), random_);
      const Buffer destination = on_card(expected);
      cpu_.convert(Memory::of(values), from, Memory::of(expected), to, parts);
      stream_->convert(on_the_card.memory(), from, destination.memory(), to, parts);
      EXPECT_TRUE(read(destination.memory()) == expected) << tensor::dtype_name(from) << " " << tensor::dtype_name(to);
    }
  }
}

TEST_F(CudaStreamTest, EachSumArrivesWithAnEventAfterIt) {
  constexpr uint64_t kSize = 1 << 20;
  Bytes bytes = random_bytes(kSize, random_);
  const Buffer card = on_card(bytes);
  // More than are brought at once, of few keys and of many.
  for (const size_t changes : {1, 2, 700}) {
    std::vector<WordSum> sums(1500, WordSum{1, 1}), expected(sums.size());
    for (size_t i = 0; i < sums.size(); ++i) {
      const PageKeys keys(i % changes);
      const auto words = random_word_runs(kSize, i % 4, random_);  // also none
      cpu_.sum(Memory::of(bytes), words, keys, &expected[i]);
      stream_->sum(card.memory(), words, keys, &sums[i]);
    }
    const std::unique_ptr<Event> first = stream_->record();
    WordSum later{1, 1};
    stream_->sum(card.memory(), std::vector<layout::WordRun>{{0, kSize, 16, 0}}, PageKeys(1), &later);
    const std::unique_ptr<Event> second = stream_->record();
    if (changes == 2) second->wait();  // what an event brings, a later one does too
    std::thread([&] { first->wait(); }).join();
    EXPECT_TRUE(first->done());
    EXPECT_EQ(sums, expected) << changes;
    while (!second->done()) std::this_thread::yield();
    WordSum expected_later;
    cpu_.sum(Memory::of(bytes), std::vector<layout::WordRun>{{0, kSize, 16, 0}}, PageKeys(1), &expected_later);
    EXPECT_EQ(later, expected_later);
  }
}

// All words of the largest terms: the carry from the lower half is needed thousands of times.
TEST_F(CudaStreamTest, SumsCarry) {
  constexpr uint64_t kSize = 32 << 20;
  Bytes bytes(kSize, std::byte{255});
  const Buffer card = on_card(bytes);
  const std::vector<layout::WordRun> words = {{0, kSize, 16, 0}};
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const PageKeys keys(seed);
    WordSum expected, sum;
    cpu_.sum(Memory::of(bytes), words, keys, &expected);
    stream_->sum(card.memory(), words, keys, &sum);
    stream_->record()->wait();
    EXPECT_EQ(sum, expected) << seed;
  }
}

TEST_F(CudaStreamTest, BetweenTwoCardsEitherMayCopy) {
  if (cuda_devices().size() < 2) GTEST_SKIP() << "this machine has one card";
  constexpr Home kOther{DeviceKind::kCuda, 1};
  for (const auto& [home, peers] : {std::pair{kCard, false}, {kOther, false}, {kCard, true}, {kOther, true}}) {
    const std::unique_ptr<Stream> stream = make_cuda_stream(home, peers);
    for (const auto& [size, count] : {std::pair<uint64_t, size_t>{300000, 200}, {uint64_t{64} << 20, 5}}) {
      Bytes a = random_bytes(size, random_), b = random_bytes(size, random_);
      const Buffer from = on_card(a, kCard), to = on_card(b, kOther);
      const auto copies = random_copies(size, count, random_);
      cpu_.copy(Memory::of(a), Memory::of(b), copies);
      stream->copy(from.memory(), to.memory(), copies);
      stream->record()->wait();
      Bytes found(size);
      const std::vector<layout::Copy> whole = {{0, 0, size}};
      const std::unique_ptr<Stream> reader = make_stream(kOther);
      reader->copy(to.memory(), Memory::of(found), whole);
      reader->record()->wait();
      EXPECT_TRUE(found == b) << "by " << home.to_string();
    }
  }
}

using CudaStreamDeathTest = CudaStreamTest;

TEST_F(CudaStreamDeathTest, WorkOutsideTheMemoryOrOfAnotherHomeStops) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a card's process is not to be forked
  const Buffer card = Buffer::allocate(kCard, 64).value();
  const Memory memory = card.memory();
  const std::vector<layout::Run> run = {{60, 5}};
  const std::vector<layout::Copy> copy = {{0, 60, 8}};
  const std::vector<layout::WordRun> words = {{48, 32, 16, 0}}, torn = {{0, 30, 20, 0}};
  WordSum sum;
  Bytes bytes(64);
  EXPECT_DEATH(stream_->zero(memory, run), "5 bytes at 60 of 64");
  EXPECT_DEATH(stream_->copy(memory, memory, copy), "8 bytes at 60 of 64");
  EXPECT_DEATH(stream_->sum(memory, words, PageKeys(1), &sum), "32 bytes at 48 of 64");
  EXPECT_DEATH(stream_->sum(memory, torn, PageKeys(1), &sum), "rows of 20 bytes in 30");
  EXPECT_DEATH(stream_->zero(Memory::of(bytes), run), "memory of cpu on a stream of cuda:0");
  EXPECT_DEATH(cpu_.copy(memory, Memory::of(bytes), std::vector<layout::Copy>{{0, 0, 8}}), "cuda:0");
}

}  // namespace
}  // namespace baton::device
