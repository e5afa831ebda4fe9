#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/random.h"
#include "kernels/kernels.h"
#include "model/weights.h"
#include "tensor/aligned_buffer.h"
#include "tensor/checkpoint.h"

namespace baton::model {

namespace {

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

class CheckpointWeights final : public WeightSource {
 public:
  CheckpointWeights(tensor::Checkpoint checkpoint, int fp8_block)
      : checkpoint_(std::move(checkpoint)), fp8_block_(fp8_block) {}

  Result<tensor::MatrixSlice> matrix(const std::string& name, int64_t n, int64_t k, Interval rows,
                                     Interval cols) const override {
    BATON_ASSIGN(const tensor::TensorView view, find(name, {n, k}));
    Scale scale;
    const bool scaled = view.dtype == tensor::DType::kF8E4M3;
    if (scaled) {
      BATON_ASSIGN(scale, find_scale(name, n, k));
    }
    const auto whole = tensor::stored_matrix(view, scaled ? &scale.view : nullptr, scale.block);
    if (!whole) return error(whole.error().code, "tensor {}: {}", name, whole.error().message);
    return tensor::slice_of(whole->cut({rows.begin, rows.end}, {cols.begin, cols.end}));
  }

  Result<std::vector<float>> vector(const std::string& name, int64_t n, Interval range) const override {
    BATON_ASSIGN(const tensor::TensorView view, find(name, {n}));
    if (view.dtype == tensor::DType::kF8E4M3) {
      return error(ErrorCode::kIncompatible, "{}: a float8 vector is not supported; store it as bfloat16", name);
    }
    const tensor::StoredMatrix row{
        .data = view.data, .dtype = view.dtype, .rows = 1, .cols = n, .stride = n, .scales = {}, .owner = nullptr};
    std::vector<float> w(static_cast<size_t>(range.size()));
    row.read(0, range.begin, range.size(), w.data());
    return w;
  }

  Result<tensor::MatrixSlice> table(const std::string& name, int64_t n, int64_t k) const override {
    return matrix(name, n, k, {0, static_cast<int>(n)}, {0, static_cast<int>(k)});
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

  tensor::Checkpoint checkpoint_;
  int fp8_block_;
};

class DummyWeights final : public WeightSource {
 public:
  explicit DummyWeights(uint64_t seed) : seed_(seed) {}

  Result<tensor::MatrixSlice> matrix(const std::string& name, int64_t, int64_t k, Interval rows,
                                     Interval cols) const override {
    return slice(name, scale_of(k), rows, cols);
  }

  // Embeddings of unit variance, as a first norm would make them.
  Result<tensor::MatrixSlice> table(const std::string& name, int64_t n, int64_t k) const override {
    return slice(name, scale_of(1), {0, static_cast<int>(n)}, {0, static_cast<int>(k)});
  }

  Result<std::vector<float>> vector(const std::string& name, int64_t, Interval range) const override {
    const bool norm = name.ends_with("norm.weight");
    std::vector<float> w(static_cast<size_t>(range.size()), 1.0F);
    if (norm) return w;
    std::vector<uint16_t> bits(w.size());
    kernels::uniform_bf16(row_key(key_of(name), 0), range.begin, range.size(), 0.02F, bits.data());
    std::transform(bits.begin(), bits.end(), w.begin(), [](uint16_t b) { return tensor::to_float(tensor::BF16{b}); });
    return w;
  }

 private:
  // Uniform values of variance 1/k keep the size of activations.
  static float scale_of(int64_t k) { return static_cast<float>(std::sqrt(3.0 / static_cast<double>(k))); }

  tensor::MatrixSlice slice(const std::string& name, float scale, Interval rows, Interval cols) const {
    tensor::MatrixSlice slice;
    slice.stored_rows = rows.size();
    slice.stored_cols = cols.size();
    slice.uniform = [key = key_of(name), scale, rows, cols] {
      tensor::UniformMatrix m{.row_keys = {}, .first_col = cols.begin, .scale = scale};
      for (int r = rows.begin; r < rows.end; ++r) m.row_keys.push_back(row_key(key, r));
      return m;
    };
    slice.stored = [uniform = slice.uniform, width = static_cast<int64_t>(cols.size())] {
      const tensor::UniformMatrix m = uniform();
      const auto n = static_cast<int64_t>(m.row_keys.size());
      auto values = std::make_shared<tensor::AlignedBuffer>(
          tensor::AlignedBuffer::unwritten(static_cast<size_t>(n) * static_cast<size_t>(width) * sizeof(uint16_t)));
      uint16_t* out = values->as<uint16_t>().data();
      kernels::on_gemm_threads([&](int part, int parts) {
        for (int64_t r = n * part / parts; r < n * (part + 1) / parts; ++r)
          kernels::uniform_bf16(m.row_keys[static_cast<size_t>(r)], m.first_col, width, m.scale, out + r * width);
      });
      return tensor::StoredMatrix{.data = values->data(),
                                  .dtype = tensor::DType::kBF16,
                                  .rows = n,
                                  .cols = width,
                                  .stride = width,
                                  .scales = {},
                                  .owner = values};
    };
    return slice;
  }

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
