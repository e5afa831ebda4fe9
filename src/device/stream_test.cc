// What every stream must do, tried on the CPU's; and memory that keeps its home.
#include "device/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace baton::device {
namespace {

TEST(Memory, IsZeroedAlignedAndOwned) {
  Result<Buffer> made = Buffer::allocate({}, 10000);
  ASSERT_TRUE(made.ok());
  Buffer buffer = std::move(*made);
  const std::span<std::byte> bytes = buffer.memory().host();
  EXPECT_EQ(bytes.size(), 10000u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % 4096, 0u);
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; }));
  bytes[9999] = std::byte{3};
  Buffer moved = std::move(buffer);
  EXPECT_EQ(moved.memory().host()[9999], std::byte{3});
  EXPECT_EQ(Buffer().memory(), Memory{});
}

TEST(Memory, WhatCannotBeHadIsAnError) {
  EXPECT_EQ(Buffer::allocate({}, 0).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(Buffer::allocate({}, uint64_t{1} << 47).error().code, ErrorCode::kInvalidArgument);
  const Result<Buffer> elsewhere = Buffer::allocate({DeviceKind::kCuda, 99}, 4096);
  ASSERT_FALSE(elsewhere.ok());
  EXPECT_EQ(elsewhere.error().code, ErrorCode::kIncompatible);
  EXPECT_NE(elsewhere.error().message.find("cuda:99"), std::string::npos) << elsewhere.error().message;
}

TEST(MemoryDeathTest, TheProcessorTouchesOnlyWhatIsItsOwn) {
  std::vector<std::byte> bytes(16);
  const Memory foreign{{DeviceKind::kCuda, 99}, bytes.data(), bytes.size()};
  EXPECT_DEATH((void)foreign.host(), "does not reach the memory of cuda:99");
  EXPECT_DEATH((void)foreign.part(4, 8).host(), "cuda:99") << "a part keeps the home";
  EXPECT_DEATH((void)Memory::of(bytes).part(9, 8), "8 bytes at 9 of 16");
  EXPECT_DEATH((void)Memory::of(bytes).part(1, UINT64_MAX), "of 16");
  EXPECT_DEATH((void)make_stream(foreign.home), "cuda:99");
}

TEST(Stream, ZeroesCopiesAndSums) {
  std::vector<std::byte> from(64), to(64, std::byte{9});
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i);
  Streams streams;
  Stream& stream = streams.of(Memory::of(to));
  EXPECT_EQ(&stream, &streams.of(Memory::of(from))) << "one for a device";
  const std::vector<layout::Copy> copies = {{0, 16, 8}, {60, 0, 4}, {5, 5, 0}};
  stream.copy(Memory::of(from), Memory::of(to), copies);
  const std::vector<layout::Run> runs = {{20, 2}, {63, 1}};
  stream.zero(Memory::of(to), runs);
  const PageKeys keys(5);
  const std::vector<layout::WordRun> words = {{.offset = 16, .length = 32, .row_bytes = 16, .word = 4}};
  WordSum sum;
  stream.sum(Memory::of(to), words, keys, &sum);
  const std::unique_ptr<Event> event = stream.record();
  event->wait();
  EXPECT_TRUE(event->done());
  std::vector<std::byte> expected(64, std::byte{9});
  for (size_t i = 0; i < 8; ++i) expected[16 + i] = static_cast<std::byte>(i);
  for (size_t i = 0; i < 4; ++i) expected[i] = static_cast<std::byte>(60 + i);
  expected[20] = expected[21] = expected[63] = std::byte{0};
  EXPECT_EQ(to, expected);
  EXPECT_EQ(sum, sum_words(to, words, keys));
}

TEST(Stream, ConvertsToTheNearestValue) {
  const std::vector<float> values = {1, -1.0625F, 1.1875F, 449, -INFINITY, 0x1p-10f, 0x1.8p-9f, 3.14159F};
  std::vector<std::byte> floats(values.size() * sizeof(float)), bf16(values.size() * 2), f8(values.size() + 2);
  std::memcpy(floats.data(), values.data(), floats.size());
  const std::unique_ptr<Stream> stream = make_stream({});
  using tensor::DType;
  const std::vector<Conversion> all = {{0, 0, values.size()}};
  stream->convert(Memory::of(floats), DType::kF32, Memory::of(bf16), DType::kBF16, all);
  // Out of the middle, to a place that only single bytes are aligned to.
  const std::vector<Conversion> parts = {{2, 1, 5}, {12, 7, 2}};
  stream->convert(Memory::of(bf16), DType::kBF16, Memory::of(f8), DType::kF8E4M3, parts);
  std::vector<std::byte> back(4 * 9);
  const std::vector<Conversion> whole = {{0, 0, 9}};
  stream->convert(Memory::of(f8), DType::kF8E4M3, Memory::of(back), DType::kF32, whole);
  stream->record()->wait();
  const std::vector<float> expected = {0, -1, 1.25F, 448, -448, 0, 0, 0x1p-8f, 3.25F};  // ties go to even
  std::vector<float> found(expected.size());
  std::memcpy(found.data(), back.data(), back.size());
  EXPECT_EQ(found, expected);
  EXPECT_EQ(f8.back(), std::byte{0});
}

TEST(StreamDeathTest, WorkOutsideTheMemoryStops) {
  std::vector<std::byte> bytes(64);
  const std::unique_ptr<Stream> stream = make_stream({});
  const Memory memory = Memory::of(bytes);
  const std::vector<layout::Run> run = {{60, 5}};
  EXPECT_DEATH(stream->zero(memory, run), "5 bytes at 60 of 64");
  const std::vector<layout::Copy> copy = {{0, 60, 8}};
  EXPECT_DEATH(stream->copy(memory, memory, copy), "8 bytes at 60 of 64");
  const std::vector<layout::WordRun> words = {{.offset = 48, .length = 32, .row_bytes = 16, .word = 0}};
  WordSum sum;
  EXPECT_DEATH(stream->sum(memory, words, PageKeys(1), &sum), "32 bytes at 48 of 64");
}

}  // namespace
}  // namespace baton::device
