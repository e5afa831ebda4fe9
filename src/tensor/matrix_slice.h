// Parts of a weight matrix as they are stored: a checkpoint's bytes where the file is mapped, or bytes that were made
// up or quantized.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
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

// What a float8 matrix is multiplied by, block by block (DeepSeek-V3's weight_scale_inv).
struct BlockScales {
  const std::byte* data = nullptr;  // (blocks down, blocks across) of the matrix that was quantized
  DType dtype = DType::kF32;        // float32, bfloat16 or float16
  int64_t stride = 0;               // blocks across
  ScaleBlock block;
  int64_t first_row = 0, first_col = 0;  // where in that matrix ours begins; anywhere in a block
};

// A matrix in memory. A copy refers to the same bytes.
struct StoredMatrix {
  const std::byte* data = nullptr;  // need not be aligned to the element size
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  int64_t stride = 0;                 // elements from row to row
  BlockScales scales;                 // of float8
  std::shared_ptr<const void> owner;  // of data and scales; null if they are borrowed

  [[nodiscard]] StoredMatrix cut(LongInterval rows, LongInterval cols) const;
  // `count` elements of a row from column `col` on, exact but for float8, which is multiplied by its scale in float32.
  void read(int64_t row, int64_t col, int64_t count, float* out) const;
};

// The whole 2-D `weight`. `scales`, (ceil(rows/block.rows), ceil(cols/block.cols)), are required for float8 and must be
// null for others. kIncompatible when weight and scales do not fit.
Result<StoredMatrix> stored_matrix(const TensorView& weight, const TensorView* scales, ScaleBlock block = {});

// `m` in float8 with a float32 scale per block, s = max|w| / 448 (DeepSeek-V3 report, section 3.3). Blocks begin at
// m's first element.
StoredMatrix quantize_fp8(const StoredMatrix& m, ScaleBlock block = {});

// A bfloat16 matrix whose values are made of their places (kernels::uniform_bf16).
struct UniformMatrix {
  std::vector<uint64_t> row_keys;
  int64_t first_col = 0;
  float scale = 0;
};

// The weight W (rows, cols) of a linear layer, or a part of one, before anybody reads it.
struct MatrixSlice {
  // Slices of equal identity are equal, transposition aside. Empty: like no other.
  std::string identity;
  int64_t stored_rows = 0, stored_cols = 0;
  bool transposed = false;     // W is the transpose of what is stored
  DType dtype = DType::kBF16;  // of what is stored
  // The bytes, made by this call if no file has them. Any thread.
  std::function<StoredMatrix()> stored;
  // How they are made, for a device that does it itself: null, or called instead of stored().
  std::function<UniformMatrix()> uniform;
  // What stored() quantizes, likewise: the slice is these rows and columns of quantize_fp8(unquantized, block).
  std::shared_ptr<const MatrixSlice> unquantized;
  ScaleBlock block;
  LongInterval rows_of_unquantized, cols_of_unquantized;

  [[nodiscard]] int64_t rows() const { return transposed ? stored_cols : stored_rows; }
  [[nodiscard]] int64_t cols() const { return transposed ? stored_rows : stored_cols; }
  [[nodiscard]] MatrixSlice transpose() const {
    MatrixSlice t = *this;
    t.transposed = !transposed;
    return t;
  }
};

// `m` as a slice like no other.
MatrixSlice slice_of(StoredMatrix m);
// The same of w (rows, cols), row major; borrowed.
MatrixSlice slice_of(std::span<const float> w, int64_t rows, int64_t cols);

}  // namespace baton::tensor
