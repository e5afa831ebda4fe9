// Work space of one thread that grows to a high-water mark and stays.
#pragma once

#include <cstdint>

#include "tensor/aligned_buffer.h"

namespace baton::kernels {

class GrowingBuffer {
 public:
  // `count` values of T; what was there before is lost.
  template <typename T>
  [[nodiscard]] T* get(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (bytes > buffer_.size()) buffer_ = tensor::AlignedBuffer(bytes + bytes / 2);
    return reinterpret_cast<T*>(buffer_.data());
  }

 private:
  tensor::AlignedBuffer buffer_;
};

}  // namespace baton::kernels
