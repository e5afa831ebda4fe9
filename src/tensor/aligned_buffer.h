// Zeroed memory whose first byte lies on a cache line (or a stricter power of two). Owned, movable, fixed in size.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "base/check.h"

namespace baton {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Stops the program when the memory cannot be had: callers bound `bytes` beforehand.
  explicit AlignedBuffer(size_t bytes, size_t alignment = 64) : bytes_(bytes) {
    if (bytes == 0) return;
    BATON_CHECK((alignment & (alignment - 1)) == 0 && alignment >= sizeof(void*), "alignment {}", alignment);
    BATON_CHECK(bytes <= SIZE_MAX - alignment, "buffer of {} bytes", bytes);
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
    BATON_CHECK(memory_ != nullptr, "no memory for a buffer of {} bytes", bytes);
    std::memset(memory_.get(), 0, rounded);
  }

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
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  size_t bytes_ = 0;
};

}  // namespace baton
