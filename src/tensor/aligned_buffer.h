// Memory of the processor whose first byte lies on a cache line, zeroed unless it is said that the owner writes every
// byte. Owned, movable, fixed in size. For what kernels of the CPU keep to themselves; pages are device::Buffer's.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
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
    bytes >= kHugePage ? map() : allocate(zeroed);
  }

  void allocate(bool zeroed) {
    const size_t rounded = (bytes_ + kLine - 1) / kLine * kLine;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kLine, rounded)));
    BATON_CHECK(memory_ != nullptr, "no memory for a buffer of {} bytes", bytes_);
    if (zeroed) std::memset(memory_.get(), 0, bytes_);
  }

  // Whole huge pages of the system's, zeroed and not touched yet. A weight is read from end to end for every token: by
  // small pages that is a miss of the page tables every 4 KiB. Where the system grants none, nothing is lost. Not from
  // the heap, where weights lie between what was needed to make them and keep it from being given back.
  void map() {
    BATON_CHECK(bytes_ <= SIZE_MAX - 2 * kHugePage, "buffer of {} bytes", bytes_);
    const size_t rounded = (bytes_ + kHugePage - 1) / kHugePage * kHugePage;
    void* mapped = mmap(nullptr, rounded + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    BATON_CHECK(mapped != MAP_FAILED, "no memory for a buffer of {} bytes", bytes_);
    auto* first = static_cast<std::byte*>(mapped);
    const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(mapped) % kHugePage) % kHugePage;
    if (before > 0) (void)munmap(first, before);
    if (before < kHugePage) (void)munmap(first + before + rounded, kHugePage - before);
    memory_ = {first + before, Free{rounded}};
    (void)madvise(memory_.get(), bytes_, MADV_HUGEPAGE);
  }

  static constexpr size_t kHugePage = size_t{2} << 20, kLine = 64;
  struct Free {
    size_t mapped;  // 0: from the heap
    void operator()(std::byte* p) const { mapped > 0 ? (void)munmap(p, mapped) : std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  size_t bytes_ = 0;
};

}  // namespace baton::tensor
