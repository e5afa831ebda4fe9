// Stored weights to float32, whole or a slice of them, and the rounding of weights through float8.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/interval.h"
#include "base/result.h"
#include "tensor/tensor_view.h"

namespace baton::tensor {

// One scale per block of this many rows and columns (config.json: quantization_config.weight_block_size).
struct ScaleBlock {
  int64_t rows = 128;
  int64_t cols = 128;
};

// Rows x columns of the 2-D `weight` as float32, row major. `scale_inv` (float32, bfloat16 or float16,
// (ceil(rows/block.rows), ceil(cols/block.cols)) of the whole weight; DeepSeek-V3's weight_scale_inv) multiplies each
// block: it is required for float8 weights and must be null for others. The slice may begin and end anywhere.
// kInvalidArgument for a slice outside the weight, kIncompatible when weight and scale do not fit.
Result<std::vector<float>> dequantize(const TensorView& weight, const TensorView* scale_inv, LongInterval rows,
                                      LongInterval cols, ScaleBlock block = {});

// Elements [range) of a 1-D tensor (norm weights, biases).
Result<std::vector<float>> dequantize_1d(const TensorView& tensor, LongInterval range);

// Replaces w (rows, cols), row major, by what float8 e4m3 with one scale per block keeps of it: w = e4m3(w / s) * s
// with s = max|w| / 448 over the block (DeepSeek-V3 report, section 3.3). Blocks begin at row 0 and column 0. w.size()
// == rows * cols.
void quantize_fp8_blocks(std::span<float> w, int64_t rows, int64_t cols, ScaleBlock block = {});

}  // namespace baton::tensor
