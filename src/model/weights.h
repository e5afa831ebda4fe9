// Weights by name, as float32 slices: from a checkpoint or made up.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "layout/layout.h"
#include "model/executor.h"
#include "model/model_config.h"

namespace baton::model {

// Copies row `row` of a matrix to out (its number of columns). Any thread.
using RowReader = std::function<void(int64_t row, float* out)>;

// Where tensors come from. Any thread may read. Errors: kNotFound names the tensor that is missing, kIncompatible a
// shape that is not the one asked for, with both.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // rows x cols of the matrix `name`, whose whole shape must be (n, k).
  virtual Status matrix(const std::string& name, int64_t n, int64_t k, Interval rows, Interval cols,
                        float* out) const = 0;
  // [range) of the vector `name`, whose whole length must be n.
  virtual Result<std::vector<float>> vector(const std::string& name, int64_t n, Interval range) const = 0;
  // For tables of which few rows are wanted at a time (embeddings). The reader borrows the source.
  virtual Result<RowReader> rows(const std::string& name, int64_t n, int64_t k) const = 0;
};

// The safetensors of a Hugging Face directory; float8 weights are multiplied by their NAME_scale_inv
// or NAME_scale.
Result<std::unique_ptr<WeightSource>> open_checkpoint_weights(const std::string& directory, int fp8_block);
// A value depends on (seed, name, row, column) alone, so every layout sees the same model. Norm weights are one.
std::unique_ptr<WeightSource> make_dummy_weights(uint64_t seed);

// Parameters that a layout with no replicas loads; at most kParametersMax, so that their bytes fit 64 bits.
inline constexpr uint64_t kParametersMax = uint64_t{1} << 60;
[[nodiscard]] uint64_t parameter_count(const ModelConfig& config);

// A source for rank threads that load at the same time: rounds through float8 where asked, and counts progress.
class Weights {
 public:
  static Result<std::unique_ptr<Weights>> open(const ExecutorOptions& options, const ModelConfig& config);

  // A slice of a linear layer; passed through float8 when quantization is asked for and the checkpoint is not float8
  // already. The blocks are those of the whole matrix, so slices of any layout agree.
  // out: (rows, cols) dense.
  Status linear(const std::string& name, int64_t n, int64_t k, Interval rows, Interval cols, float* out) const;
  // A slice that is never quantized: gates, lm_head.
  Status matrix(const std::string& name, int64_t n, int64_t k, Interval rows, Interval cols, float* out) const;
  Result<std::vector<float>> vector(const std::string& name, int64_t n, Interval range) const;
  Result<RowReader> rows(const std::string& name, int64_t n, int64_t k) const { return source_->rows(name, n, k); }

  // Reports the whole as done. Replicas make the count on the way too high, so it stops just short of the end until
  // then.
  void finish_progress() const;

 private:
  Weights() = default;
  void count(size_t elements) const;
  struct Progress;
  std::unique_ptr<WeightSource> source_;
  bool quantize_ = false;
  std::shared_ptr<Progress> progress_;
};

}  // namespace baton::model
