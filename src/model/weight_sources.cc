#include <xxhash.h>

#include <cmath>
#include <cstring>

#include "base/random.h"
#include "model/weights.h"
#include "tensor/checkpoint.h"
#include "tensor/dequantize.h"

namespace baton {

namespace {

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

class CheckpointWeights final : public WeightSource {
 public:
  CheckpointWeights(Checkpoint checkpoint, int fp8_block) : checkpoint_(std::move(checkpoint)), fp8_block_(fp8_block) {}

  Result<std::vector<float>> matrix(const std::string& name, int64_t n, int64_t k, Interval rows,
                                    Interval cols) const override {
    BATON_ASSIGN(const TensorView view, find(name, {n, k}));
    const ScaleBlock block{fp8_block_, fp8_block_};
    const LongInterval row_slice{rows.begin, rows.end};
    const LongInterval col_slice{cols.begin, cols.end};
    if (view.dtype != DType::kF8E4M3) return named(name, dequantize(view, nullptr, row_slice, col_slice, block));
    BATON_ASSIGN(const TensorView scale, checkpoint_.tensor(name + "_scale_inv"));
    return named(name, dequantize(view, &scale, row_slice, col_slice, block));
  }

  Result<std::vector<float>> vector(const std::string& name, int64_t n, Interval range) const override {
    BATON_ASSIGN(const TensorView view, find(name, {n}));
    return named(name, dequantize_1d(view, {range.begin, range.end}));
  }

  Result<RowReader> rows(const std::string& name, int64_t n, int64_t k) const override {
    BATON_ASSIGN(const TensorView view, find(name, {n, k}));
    if (view.dtype == DType::kF8E4M3) {
      return error(ErrorCode::kIncompatible, "{}: a float8 table is not supported; store it as bfloat16", name);
    }
    return RowReader([view, k](int64_t row, float* out) {
      const std::byte* at = view.data + static_cast<size_t>(row * k) * dtype_size(view.dtype);
      for (int64_t i = 0; i < k; ++i, at += dtype_size(view.dtype)) {
        if (view.dtype == DType::kF32) {
          std::memcpy(&out[i], at, sizeof(float));
        } else {
          uint16_t bits = 0;
          std::memcpy(&bits, at, sizeof(bits));
          out[i] = view.dtype == DType::kBF16 ? to_float(BF16{bits}) : to_float(F16{bits});
        }
      }
    });
  }

 private:
  Result<TensorView> find(const std::string& name, const std::vector<int64_t>& shape) const {
    BATON_ASSIGN(TensorView view, checkpoint_.tensor(name));
    if (view.shape != shape) {
      return error(ErrorCode::kIncompatible, "tensor {} is {}, config.json asks for {}", name, shape_text(view.shape),
                   shape_text(shape));
    }
    return view;
  }

  static Result<std::vector<float>> named(const std::string& name, Result<std::vector<float>> result) {
    if (!result) return error(result.error().code, "tensor {}: {}", name, result.error().message);
    return result;
  }

  Checkpoint checkpoint_;
  int fp8_block_;
};

class DummyWeights final : public WeightSource {
 public:
  explicit DummyWeights(uint64_t seed) : seed_(seed) {}

  Result<std::vector<float>> matrix(const std::string& name, int64_t, int64_t k, Interval rows,
                                    Interval cols) const override {
    const uint64_t key = key_of(name);
    const float scale = scale_of(k);
    std::vector<float> w(static_cast<size_t>(rows.size()) * static_cast<size_t>(cols.size()));
    float* out = w.data();
    for (int r = rows.begin; r < rows.end; ++r) {
      for (int c = cols.begin; c < cols.end; ++c) *out++ = value(key, r, c, scale);
    }
    return w;
  }

  Result<std::vector<float>> vector(const std::string& name, int64_t, Interval range) const override {
    const bool norm = name.ends_with("norm.weight");
    std::vector<float> w(static_cast<size_t>(range.size()), 1.0F);
    if (norm) return w;
    const uint64_t key = key_of(name);
    for (int i = range.begin; i < range.end; ++i) w[static_cast<size_t>(i - range.begin)] = value(key, 0, i, 0.02F);
    return w;
  }

  Result<RowReader> rows(const std::string& name, int64_t, int64_t k) const override {
    // Embeddings of unit variance, as a first norm would make them.
    return RowReader([key = key_of(name), k](int64_t row, float* out) {
      for (int64_t i = 0; i < k; ++i) out[i] = value(key, row, i, scale_of(1));
    });
  }

 private:
  // Uniform values of variance 1/k keep the size of activations.
  static float scale_of(int64_t k) { return static_cast<float>(std::sqrt(3.0 / static_cast<double>(k))); }

  [[nodiscard]] uint64_t key_of(const std::string& name) const {
    return Random(XXH3_64bits(name.data(), name.size()) ^ Random(seed_).next()).next();
  }

  // One round of a 64-bit mixer: a model of a billion weights is made up in seconds. Rounded to bfloat16 as stored
  // weights are.
  static float value(uint64_t key, int64_t row, int64_t col, float scale) {
    uint64_t z =
        key + static_cast<uint64_t>(row) * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(col) * 0xd1b54a32d192ed03;
    z = (z ^ (z >> 32)) * 0xd6e8feb86659fd93;
    z ^= z >> 32;
    const float unit = static_cast<float>(static_cast<int32_t>(z)) * 0x1p-31F;
    return to_float(to_bf16(unit * scale));
  }

  uint64_t seed_;
};

}  // namespace

Result<std::unique_ptr<WeightSource>> open_checkpoint_weights(const std::string& directory, int fp8_block) {
  BATON_ASSIGN(Checkpoint checkpoint, Checkpoint::open(directory));
  return std::unique_ptr<WeightSource>(new CheckpointWeights(std::move(checkpoint), fp8_block));
}

std::unique_ptr<WeightSource> make_dummy_weights(uint64_t seed) { return std::make_unique<DummyWeights>(seed); }

}  // namespace baton
