#include "tensor/dequantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

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
void convert(const TensorView& t, int64_t first, int64_t count, float* to) {
  if (count == 0) return;
  const std::byte* from = t.data + static_cast<size_t>(first) * dtype_size(t.dtype);
  switch (t.dtype) {
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

Status check_scale(const TensorView& weight, const TensorView* scale_inv, ScaleBlock block) {
  if ((weight.dtype == DType::kF8E4M3) != (scale_inv != nullptr))
    return error(ErrorCode::kIncompatible,
                 "a weight of {} {} block scales; float8 weights need their weight_scale and others have none",
                 dtype_name(weight.dtype), scale_inv != nullptr ? "with" : "without");
  if (scale_inv == nullptr) return {};
  if (block.rows < 1 || block.cols < 1)
    return error(ErrorCode::kInvalidArgument, "weight_block_size [{}, {}] must be positive", block.rows, block.cols);
  if (scale_inv->dtype == DType::kF8E4M3)
    return error(ErrorCode::kIncompatible, "block scales of {}; float32, bfloat16 or float16 are read",
                 dtype_name(scale_inv->dtype));
  const std::vector<int64_t> due = {ceil_div(weight.shape[0], block.rows), ceil_div(weight.shape[1], block.cols)};
  if (scale_inv->shape != due)
    return error(ErrorCode::kIncompatible, "block scales of shape [{}] for a weight [{}]; blocks of {}x{} need [{}]",
                 fmt::join(scale_inv->shape, ", "), fmt::join(weight.shape, ", "), block.rows, block.cols,
                 fmt::join(due, ", "));
  return {};
}

void apply_scales(const TensorView& scale_inv, ScaleBlock block, LongInterval rows, LongInterval cols,
                  std::vector<float>& out) {
  const int64_t scale_cols = scale_inv.shape[1];
  std::vector<float> scales(static_cast<size_t>(scale_cols));
  int64_t loaded = -1;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    if (r / block.rows != loaded) {
      loaded = r / block.rows;
      convert(scale_inv, loaded * scale_cols, scale_cols, scales.data());
    }
    float* line = out.data() + (r - rows.begin) * (cols.end - cols.begin);
    for (int64_t c = cols.begin; c < cols.end;) {
      const int64_t stop = std::min(cols.end, (c / block.cols + 1) * block.cols);
      const float scale = scales[static_cast<size_t>(c / block.cols)];
      for (; c < stop; ++c) line[c - cols.begin] *= scale;
    }
  }
}

}  // namespace

Result<std::vector<float>> dequantize(const TensorView& weight, const TensorView* scale_inv, LongInterval rows,
                                      LongInterval cols, ScaleBlock block) {
  if (weight.shape.size() != 2)
    return error(ErrorCode::kIncompatible, "a weight of {} dimensions where 2 are due", weight.shape.size());
  if (!inside(rows, weight.shape[0]) || !inside(cols, weight.shape[1]))
    return error(ErrorCode::kInvalidArgument, "rows [{}, {}) columns [{}, {}) of a weight [{}]", rows.begin, rows.end,
                 cols.begin, cols.end, fmt::join(weight.shape, ", "));
  BATON_TRY(check_scale(weight, scale_inv, block));
  const int64_t width = cols.end - cols.begin;
  std::vector<float> out(static_cast<size_t>(rows.end - rows.begin) * static_cast<size_t>(width));
  for (int64_t r = rows.begin; r < rows.end; ++r)
    convert(weight, r * weight.shape[1] + cols.begin, width, out.data() + (r - rows.begin) * width);
  if (scale_inv != nullptr) apply_scales(*scale_inv, block, rows, cols, out);
  return out;
}

Result<std::vector<float>> dequantize_1d(const TensorView& tensor, LongInterval range) {
  if (tensor.shape.size() != 1)
    return error(ErrorCode::kIncompatible, "a tensor of {} dimensions where 1 is due", tensor.shape.size());
  if (!inside(range, tensor.shape[0]))
    return error(ErrorCode::kInvalidArgument, "elements [{}, {}) of a tensor of {}", range.begin, range.end,
                 tensor.shape[0]);
  std::vector<float> out(static_cast<size_t>(range.end - range.begin));
  convert(tensor, range.begin, range.end - range.begin, out.data());
  return out;
}

void quantize_fp8_blocks(std::span<float> w, int64_t rows, int64_t cols, ScaleBlock block) {
  BATON_CHECK(rows >= 0 && cols >= 0 && w.size() == static_cast<size_t>(rows) * static_cast<size_t>(cols),
              "{} values for {} x {}", w.size(), rows, cols);
  BATON_CHECK(block.rows >= 1 && block.cols >= 1, "block {} x {}", block.rows, block.cols);
  const auto& table = f8_table();
  for (int64_t r0 = 0; r0 < rows; r0 += block.rows)
    for (int64_t c0 = 0; c0 < cols; c0 += block.cols) {
      const int64_t r1 = std::min(rows, r0 + block.rows), c1 = std::min(cols, c0 + block.cols);
      float top = 0;
      for (int64_t r = r0; r < r1; ++r)
        for (int64_t c = c0; c < c1; ++c) top = std::max(top, std::fabs(w[r * cols + c]));
      if (top == 0) continue;
      const float scale = top / kF8E4M3Max;
      for (int64_t r = r0; r < r1; ++r)
        for (int64_t c = c0; c < c1; ++c) w[r * cols + c] = table[to_f8e4m3(w[r * cols + c] / scale).bits] * scale;
    }
}

}  // namespace baton::tensor
