#include "tensor/aligned_buffer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <vector>

namespace baton::tensor {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// Bytes of this process in memory.
size_t resident() {
  size_t total = 0, pages = 0;
  std::ifstream("/proc/self/statm") >> total >> pages;
  return pages * static_cast<size_t>(getpagesize());
}

TEST(AlignedBuffer, IsZeroedAlignedAndMovable) {
  for (const size_t bytes : {size_t{1}, size_t{64}, 2 * kMiB - 1, 2 * kMiB, 2 * kMiB + 1, 7 * kMiB + 5}) {
    AlignedBuffer a(bytes);
    EXPECT_EQ(a.size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % (bytes < 2 * kMiB ? 64 : 2 * kMiB), 0);
    EXPECT_EQ(std::count(a.data(), a.data() + bytes, std::byte{0}), static_cast<int64_t>(bytes));
    a.data()[bytes - 1] = std::byte{3};
    const std::byte* at = a.data();
    AlignedBuffer b;
    b = std::move(a);
    EXPECT_EQ(b.data(), at);
    EXPECT_EQ(b.data()[bytes - 1], std::byte{3});
  }
  EXPECT_EQ(AlignedBuffer().size(), 0);
}

TEST(AlignedBuffer, MemoryBetweenBuffersThatStayIsGivenBack) {
  (void)AlignedBuffer(24 * kMiB);  // after one so large glibc takes all others from the heap
  const size_t before = resident();
  std::vector<AlignedBuffer> kept;
  for (size_t i = 0; i < 12; ++i) {
    AlignedBuffer passing((4 + i) * kMiB);  // none fits where the one before was
    kept.emplace_back(2 * kMiB);
    std::fill_n(passing.data(), passing.size(), std::byte{1});
    std::fill_n(kept.back().data(), kept.back().size(), std::byte{1});
  }
  EXPECT_LT(resident(), before + (kept.size() * 2 + 8) * kMiB);
}

}  // namespace
}  // namespace baton::tensor
