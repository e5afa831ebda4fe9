#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/random.h"
#include "kernels/kernels.h"
#include "model/weights.h"
#include "tensor/checkpoint.h"
#include "tensor/dequantize.h"

namespace baton::model {

namespace {

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

class CheckpointWeights final : public WeightSource {
 public:
  CheckpointWeights(tensor::Checkpoint checkpoint, int fp8_block)
      : checkpoint_(std::move(checkpoint)), fp8_block_(fp8_block) {}

  // Some rows at a time: a whole matrix on the way would be gigabytes of memory touched once.
  Status matrix(const std::string& name, int64_t n, int64_t k, Interval rows, Interval cols,
                float* out) const override {
    BATON_ASSIGN(const tensor::TensorView view, find(name, {n, k}));
    Scale scale;
    const bool scaled = view.dtype == tensor::DType::kF8E4M3;
    if (scaled) {
      BATON_ASSIGN(scale, find_scale(name, n, k));
    }
    for (int begin = rows.begin; begin < rows.end; begin += kRowsAtOnce) {
      const LongInterval some{begin, std::min(begin + kRowsAtOnce, rows.end)};
      BATON_ASSIGN(const std::vector<float> w,
                   named(name, tensor::dequantize(view, scaled ? &scale.view : nullptr, some,
                                                  LongInterval{cols.begin, cols.end}, scale.block)));
      out = std::copy(w.begin(), w.end(), out);
    }
    return {};
  }

  Result<std::vector<float>> vector(const std::string& name, int64_t n, Interval range) const override {
    BATON_ASSIGN(const tensor::TensorView view, find(name, {n}));
    return named(name, tensor::dequantize_1d(view, {range.begin, range.end}));
  }

  Result<RowReader> rows(const std::string& name, int64_t n, int64_t k) const override {
    BATON_ASSIGN(const tensor::TensorView view, find(name, {n, k}));
    if (view.dtype == tensor::DType::kF8E4M3) {
      return error(ErrorCode::kIncompatible, "{}: a float8 table is not supported; store it as bfloat16", name);
    }
    return RowReader([view, k](int64_t row, float* out) {
      const std::byte* at = view.data + static_cast<size_t>(row * k) * tensor::dtype_size(view.dtype);
      for (int64_t i = 0; i < k; ++i, at += tensor::dtype_size(view.dtype)) {
        if (view.dtype == tensor::DType::kF32) {
          std::memcpy(&out[i], at, sizeof(float));
        } else {
          uint16_t bits = 0;
          std::memcpy(&bits, at, sizeof(bits));
          out[i] = view.dtype == tensor::DType::kBF16 ? tensor::to_float(tensor::BF16{bits})
                                                      : tensor::to_float(tensor::F16{bits});
        }
      }
    });
  }

 private:
  struct Scale {
    tensor::TensorView view;
    tensor::ScaleBlock block;
  };

  // NAME_scale_inv of DeepSeek, or NAME_scale of the others: one for each block, row or tensor, whatever its shape
  // says.
  Result<Scale> find_scale(const std::string& name, int64_t n, int64_t k) const {
    const std::string inverse = name + "_scale_inv";
    BATON_ASSIGN(tensor::TensorView view, checkpoint_.tensor(checkpoint_.has(inverse) ? inverse : name + "_scale"));
    const std::vector<int64_t> one_a_row = {n, 1};
    const bool one = std::all_of(view.shape.begin(), view.shape.end(), [](int64_t size) { return size == 1; });
    if (one) return Scale{{view.data, view.dtype, {1, 1}}, {n, k}};
    if (view.shape == one_a_row || view.shape == std::vector<int64_t>{n}) {
      return Scale{{view.data, view.dtype, one_a_row}, {1, k}};
    }
    return Scale{view, {fp8_block_, fp8_block_}};
  }

  Result<tensor::TensorView> find(const std::string& name, const std::vector<int64_t>& shape) const {
    BATON_ASSIGN(tensor::TensorView view, checkpoint_.tensor(name));
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

  static constexpr int kRowsAtOnce = 64;

  tensor::Checkpoint checkpoint_;
  int fp8_block_;
};

class DummyWeights final : public WeightSource {
 public:
  explicit DummyWeights(uint64_t seed) : seed_(seed) {}

  Status matrix(const std::string& name, int64_t, int64_t k, Interval rows, Interval cols, float* out) const override {
    const uint64_t key = key_of(name);
    kernels::on_gemm_threads([&](int part, int parts) {
      const int64_t n = rows.size();
      for (int64_t r = n * part / parts; r < n * (part + 1) / parts; ++r)
        kernels::uniform_bf16(row_key(key, rows.begin + r), cols.begin, cols.size(), scale_of(k),
                              out + r * cols.size());
    });
    return {};
  }

  Result<std::vector<float>> vector(const std::string& name, int64_t, Interval range) const override {
    const bool norm = name.ends_with("norm.weight");
    std::vector<float> w(static_cast<size_t>(range.size()), 1.0F);
    if (!norm) kernels::uniform_bf16(row_key(key_of(name), 0), range.begin, range.size(), 0.02F, w.data());
    return w;
  }

  Result<RowReader> rows(const std::string& name, int64_t, int64_t k) const override {
    // Embeddings of unit variance, as a first norm would make them.
    return RowReader([key = key_of(name), k](int64_t row, float* out) {
      kernels::uniform_bf16(row_key(key, row), 0, k, scale_of(1), out);
    });
  }

 private:
  // Uniform values of variance 1/k keep the size of activations.
  static float scale_of(int64_t k) { return static_cast<float>(std::sqrt(3.0 / static_cast<double>(k))); }

  [[nodiscard]] uint64_t key_of(const std::string& name) const {
    return Random(XXH3_64bits(name.data(), name.size()) ^ Random(seed_).next()).next();
  }

  static uint64_t row_key(uint64_t key, int64_t row) { return Random(key + static_cast<uint64_t>(row)).next(); }

  uint64_t seed_;
};

}  // namespace

Result<std::unique_ptr<WeightSource>> open_checkpoint_weights(const std::string& directory, int fp8_block) {
  BATON_ASSIGN(tensor::Checkpoint checkpoint, tensor::Checkpoint::open(directory));
  return std::unique_ptr<WeightSource>(new CheckpointWeights(std::move(checkpoint), fp8_block));
}

std::unique_ptr<WeightSource> make_dummy_weights(uint64_t seed) { return std::make_unique<DummyWeights>(seed); }

}  // namespace baton::model
