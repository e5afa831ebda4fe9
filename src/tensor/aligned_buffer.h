// Memory of the processor whose first byte lies on a cache line, zeroed unless it is said that the owner writes every
// byte. Owned, movable, fixed in size. For what kernels of the CPU keep to themselves; pages are device::Buffer's.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "base/check.h"

namespace baton::tensor {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Stops the program when the memory cannot be had: callers bound `bytes` beforehand.
  explicit AlignedBuffer(size_t bytes) : AlignedBuffer(bytes, true) {}
  // What it holds before its owner has written it is unspecified. The system hands out pages when they are first
  // touched, which takes longer than filling them: threads that share the writing share that too.
  static AlignedBuffer unwritten(size_t bytes) { return {bytes, false}; }

  [[nodiscard]] std::byte* data() { return memory_.get(); }
  [[nodiscard]] const std::byte* data() const { return memory_.get(); }
  [[nodiscard]] size_t size() const { return bytes_; }

  // The buffer as an array of T; bytes beyond the last whole T are not in it.
  template <typename T>
  [[nodiscard]] std::span<T> as() {
    return {reinterpret_cast<T*>(memory_.get()), bytes_ / sizeof(T)};
  }
  template <typename T>
  [[nodiscard]] std::span<const T> as() const {
    return {reinterpret_cast<const T*>(memory_.get()), bytes_ / sizeof(T)};
  }

 private:
  AlignedBuffer(size_t bytes, bool zeroed) : bytes_(bytes) {
    if (bytes == 0) return;
    const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
    BATON_CHECK(bytes <= SIZE_MAX - alignment, "buffer of {} bytes", bytes);
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
    BATON_CHECK(memory_ != nullptr, "no memory for a buffer of {} bytes", bytes);
    // A weight is read from end to end for every token: by small pages that is a miss of the page tables every 4 KiB.
    // Where the system grants none, nothing is lost.
    if (bytes >= kHugePage) (void)madvise(memory_.get(), bytes, MADV_HUGEPAGE);
    if (zeroed) std::memset(memory_.get(), 0, bytes);
  }

  static constexpr size_t kHugePage = size_t{2} << 20;
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  size_t bytes_ = 0;
};

}  // namespace baton::tensor
