// A dense row-major tensor in memory that somebody else owns (here: a mapped file).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor/dtype.h"

namespace baton::tensor {

struct TensorView {
  const std::byte* data = nullptr;  // need not be aligned to the element size
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;

  // Product of the shape; 1 for a scalar. The reader has checked that it and the bytes do not overflow.
  [[nodiscard]] int64_t count() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return n;
  }
  [[nodiscard]] size_t bytes() const { return static_cast<size_t>(count()) * dtype_size(dtype); }
};

}  // namespace baton::tensor
