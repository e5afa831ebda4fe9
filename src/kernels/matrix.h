// Activations as the operations take them: views into the memory of a backend.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "tensor/dtype.h"

namespace baton::kernels {

// Rows of `heads` vectors of `dim` values each; strides in values.
struct Heads {
  std::byte* data = nullptr;
  tensor::DType dtype = tensor::DType::kF32;
  int64_t rows = 0;
  int heads = 0, dim = 0;
  int64_t row_stride = 0, head_stride = 0;

  // Values [begin, begin + count) of every vector.
  [[nodiscard]] Heads part(int begin, int count) const {
    Heads h = *this;
    h.data += static_cast<size_t>(begin) * tensor::dtype_size(dtype);
    h.dim = count;
    return h;
  }
  [[nodiscard]] Heads first_rows(int64_t count) const {
    Heads h = *this;
    h.rows = count;
    return h;
  }
  // Of the processor's memory; checked: they are float32.
  [[nodiscard]] float* floats() const {
    BATON_CHECK(dtype == tensor::DType::kF32);
    return reinterpret_cast<float*>(data);
  }
};

// Rows of `columns` values, `stride` values apart.
struct Matrix {
  std::byte* data = nullptr;
  tensor::DType dtype = tensor::DType::kF32;
  int64_t rows = 0, columns = 0, stride = 0;

  [[nodiscard]] Matrix row_range(int64_t begin, int64_t count) const {
    Matrix m = *this;
    m.data += static_cast<size_t>(begin * stride) * tensor::dtype_size(dtype);
    m.rows = count;
    return m;
  }
  [[nodiscard]] Matrix column_range(int64_t begin, int64_t count) const {
    Matrix m = *this;
    m.data += static_cast<size_t>(begin) * tensor::dtype_size(dtype);
    m.columns = count;
    return m;
  }
  // The columns as so many vectors, one after another.
  [[nodiscard]] Heads by_heads(int heads) const {
    const int dim = heads == 0 ? 0 : static_cast<int>(columns / heads);
    return {data, dtype, rows, heads, dim, stride, dim};
  }
  [[nodiscard]] size_t row_bytes() const { return static_cast<size_t>(columns) * tensor::dtype_size(dtype); }
  // Of the processor's memory; checked: they are float32.
  [[nodiscard]] float* floats() const {
    BATON_CHECK(dtype == tensor::DType::kF32);
    return reinterpret_cast<float*>(data);
  }
  // The same, where no row may be apart from the next.
  [[nodiscard]] float* dense_floats() const {
    BATON_CHECK(stride == columns || rows <= 1, "rows of {} values are {} apart", columns, stride);
    return floats();
  }
};

}  // namespace baton::kernels
