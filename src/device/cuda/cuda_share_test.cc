#include <gtest/gtest.h>

#include <cstring>

#include "device/cuda.h"

namespace baton::device {
namespace {

class CudaShareTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "this machine has no GPU";
  }
};

TEST_F(CudaShareTest, AProcessFindsItsOwnMemoryAgain) {
  const Buffer buffer = Buffer::allocate({DeviceKind::kCuda, 0}, 10000).value();
  const Memory part = buffer.memory().part(4096, 100);
  EXPECT_EQ(CudaMapping::open(share_cuda(part).value(), part.home)->memory(), part);
}

// Other processes say what they like.
TEST_F(CudaShareTest, WhatIsNotThereIsNotMapped) {
  const Buffer buffer = Buffer::allocate({DeviceKind::kCuda, 0}, 10000).value();
  const Home card = buffer.memory().home;
  const std::string share = share_cuda(buffer.memory()).value();
  const auto refused = [&](const std::string& bytes) { return CudaMapping::open(bytes, card).error().code; };
  for (size_t n = 0; n < share.size(); ++n) EXPECT_EQ(refused(share.substr(0, n)), ErrorCode::kCorrupt) << n;
  EXPECT_EQ(refused(share + "x"), ErrorCode::kCorrupt);
  for (const uint64_t size : {uint64_t{0}, uint64_t{1} << 40, ~uint64_t{0}}) {
    std::string larger = share;
    std::memcpy(larger.data() + larger.size() - sizeof(size), &size, sizeof(size));
    EXPECT_EQ(refused(larger), ErrorCode::kCorrupt) << size;
  }
  std::string of_no_card = share;
  constexpr size_t kUuid = 4 + 16 + 8 + 1;  // behind magic, process, address and a length
  for (size_t i = 0; i < 16; ++i) of_no_card[kUuid + i] = static_cast<char>(~of_no_card[kUuid + i]);
  EXPECT_EQ(refused(of_no_card), ErrorCode::kCorrupt);
}

TEST_F(CudaShareTest, OtherMemoryIsNotShared) {
  std::vector<std::byte> own(100);
  Memory memory = Memory::of(own);
  EXPECT_EQ(share_cuda(memory).error().code, ErrorCode::kIncompatible);
  memory.home = {DeviceKind::kCuda, 0};
  EXPECT_EQ(share_cuda(memory).error().code, ErrorCode::kIncompatible);
}

}  // namespace
}  // namespace baton::device
