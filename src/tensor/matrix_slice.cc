#include "tensor/matrix_slice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace baton::tensor {
namespace {

const std::array<float, 256>& f8_table() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> t{};
    for (size_t i = 0; i < t.size(); ++i) t[i] = to_float(F8E4M3{static_cast<uint8_t>(i)});
    return t;
  }();
  return table;
}

template <typename Stored>
void convert_run(const std::byte* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    Stored v;
    std::memcpy(&v, from + static_cast<size_t>(i) * sizeof v, sizeof v);
    to[i] = to_float(v);
  }
}

// `count` consecutive elements from element `first`.
void convert(const std::byte* data, DType dtype, int64_t first, int64_t count, float* to) {
  if (count == 0) return;
  const std::byte* from = data + static_cast<size_t>(first) * dtype_size(dtype);
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBF16:
      convert_run<BF16>(from, count, to);
      return;
    case DType::kF16:
      convert_run<F16>(from, count, to);
      return;
    case DType::kF8E4M3: {
      const auto& table = f8_table();
      for (int64_t i = 0; i < count; ++i) to[i] = table[static_cast<uint8_t>(from[i])];
      return;
    }
  }
}

bool inside(LongInterval i, int64_t size) { return 0 <= i.begin && i.begin <= i.end && i.end <= size; }

int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

Status check_scales(const TensorView& weight, const TensorView* scales, ScaleBlock block) {
  if ((weight.dtype == DType::kF8E4M3) != (scales != nullptr))
    return error(ErrorCode::kIncompatible,
                 "a weight of {} {} block scales; float8 weights need their weight_scale and others have none",
                 dtype_name(weight.dtype), scales != nullptr ? "with" : "without");
  if (scales == nullptr) return {};
  if (block.rows < 1 || block.cols < 1)
    return error(ErrorCode::kInvalidArgument, "weight_block_size [{}, {}] must be positive", block.rows, block.cols);
  if (scales->dtype == DType::kF8E4M3)
    return error(ErrorCode::kIncompatible, "block scales of {}; float32, bfloat16 or float16 are read",
                 dtype_name(scales->dtype));
  const std::vector<int64_t> due = {ceil_div(weight.shape[0], block.rows), ceil_div(weight.shape[1], block.cols)};
  if (scales->shape != due)
    return error(ErrorCode::kIncompatible, "block scales of shape [{}] for a weight [{}]; blocks of {}x{} need [{}]",
                 fmt::join(scales->shape, ", "), fmt::join(weight.shape, ", "), block.rows, block.cols,
                 fmt::join(due, ", "));
  return {};
}

// The scale of w (rows, cols; dense) and its codes, `code_stride` bytes from row to row.
float quantize_block(const float* w, int64_t w_stride, int64_t rows, int64_t cols, uint8_t* codes,
                     int64_t code_stride) {
  float top = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) top = std::max(top, std::fabs(w[r * w_stride + c]));
  const float scale = top == 0 ? 1 : top / kF8E4M3Max;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) codes[r * code_stride + c] = to_f8e4m3(w[r * w_stride + c] / scale).bits;
  return scale;
}

}  // namespace

StoredMatrix StoredMatrix::cut(LongInterval r, LongInterval c) const {
  BATON_CHECK(inside(r, rows) && inside(c, cols), "rows [{}, {}) columns [{}, {}) of a matrix [{}, {}]", r.begin, r.end,
              c.begin, c.end, rows, cols);
  StoredMatrix part = *this;
  part.data += static_cast<size_t>(r.begin * stride + c.begin) * dtype_size(dtype);
  part.rows = r.size();
  part.cols = c.size();
  part.scales.first_row += r.begin;
  part.scales.first_col += c.begin;
  return part;
}

void StoredMatrix::read(int64_t row, int64_t col, int64_t count, float* out) const {
  convert(data, dtype, row * stride + col, count, out);
  if (scales.data == nullptr) return;
  const int64_t blocks = (scales.first_row + row) / scales.block.rows * scales.stride;
  for (int64_t c = scales.first_col + col, end = c + count; c < end;) {
    const int64_t block = c / scales.block.cols, stop = std::min(end, (block + 1) * scales.block.cols);
    float scale = 0;
    convert(scales.data, scales.dtype, blocks + block, 1, &scale);
    for (; c < stop; ++c) *out++ *= scale;
  }
}

Result<StoredMatrix> stored_matrix(const TensorView& weight, const TensorView* scales, ScaleBlock block) {
  if (weight.shape.size() != 2)
    return error(ErrorCode::kIncompatible, "a weight of {} dimensions where 2 are due", weight.shape.size());
  BATON_TRY(check_scales(weight, scales, block));
  StoredMatrix m{.data = weight.data,
                 .dtype = weight.dtype,
                 .rows = weight.shape[0],
                 .cols = weight.shape[1],
                 .stride = weight.shape[1],
                 .scales = {},
                 .owner = nullptr};
  if (scales != nullptr)
    m.scales = {.data = scales->data, .dtype = scales->dtype, .stride = scales->shape[1], .block = block};
  return m;
}

StoredMatrix quantize_fp8(const StoredMatrix& m, ScaleBlock block) {
  BATON_CHECK(block.rows >= 1 && block.cols >= 1, "block {} x {}", block.rows, block.cols);
  struct Quantized {
    std::vector<uint8_t> codes;
    std::vector<float> scales;
  };
  auto q = std::make_shared<Quantized>();
  q->codes.resize(static_cast<size_t>(m.rows) * static_cast<size_t>(m.cols));
  std::vector<float> strip(static_cast<size_t>(std::min(block.rows, m.rows)) * static_cast<size_t>(m.cols));
  for (int64_t r = 0; r < m.rows; r += block.rows) {
    const int64_t height = std::min(block.rows, m.rows - r);
    for (int64_t i = 0; i < height; ++i) m.read(r + i, 0, m.cols, strip.data() + i * m.cols);
    for (int64_t c = 0; c < m.cols; c += block.cols)
      q->scales.push_back(quantize_block(strip.data() + c, m.cols, height, std::min(block.cols, m.cols - c),
                                         q->codes.data() + r * m.cols + c, m.cols));
  }
  const auto bytes = [](const auto& v) { return reinterpret_cast<const std::byte*>(v.data()); };
  return {.data = bytes(q->codes),
          .dtype = DType::kF8E4M3,
          .rows = m.rows,
          .cols = m.cols,
          .stride = m.cols,
          .scales = {.data = bytes(q->scales), .stride = ceil_div(m.cols, block.cols), .block = block},
          .owner = q};
}

MatrixSlice slice_of(StoredMatrix m) {
  const int64_t rows = m.rows, cols = m.cols;
  MatrixSlice slice;
  slice.stored_rows = rows;
  slice.stored_cols = cols;
  slice.dtype = m.dtype;
  slice.stored = [m = std::move(m)] { return m; };
  return slice;
}

MatrixSlice slice_of(std::span<const float> w, int64_t rows, int64_t cols) {
  BATON_CHECK(rows >= 1 && cols >= 1 && w.size() == static_cast<size_t>(rows) * static_cast<size_t>(cols),
              "a matrix of {} values for {} x {}", w.size(), rows, cols);
  return slice_of(StoredMatrix{.data = reinterpret_cast<const std::byte*>(w.data()),
                               .dtype = DType::kF32,
                               .rows = rows,
                               .cols = cols,
                               .stride = cols,
                               .scales = {},
                               .owner = nullptr});
}

}  // namespace baton::tensor
