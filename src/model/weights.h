// Weights by name: from a checkpoint or made up. Matrices come as they are stored; vectors, which are small, as
// float32.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "layout/layout.h"
#include "model/executor.h"
#include "model/model_config.h"
#include "tensor/matrix_slice.h"

namespace baton::model {

// Where tensors come from, slices like no other. Any thread may read, while the source lives. Errors: kNotFound names
// the tensor that is missing, kIncompatible a shape that is not the one asked for, with both.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // rows x cols of the matrix `name`, whose whole shape must be (n, k).
  virtual Result<tensor::MatrixSlice> matrix(const std::string& name, int64_t n, int64_t k, Interval rows,
                                             Interval cols) const = 0;
  // [range) of the vector `name`, whose whole length must be n.
  virtual Result<std::vector<float>> vector(const std::string& name, int64_t n, Interval range) const = 0;
  // The whole of a matrix whose rows are looked up (embeddings).
  virtual Result<tensor::MatrixSlice> table(const std::string& name, int64_t n, int64_t k) const = 0;
};

// The safetensors of a Hugging Face directory, borrowed where they are mapped; float8 weights have the scales of their
// NAME_scale_inv or NAME_scale.
Result<std::unique_ptr<WeightSource>> open_checkpoint_weights(const std::string& directory, int fp8_block);
// In bfloat16. A value depends on (seed, name, row, column) alone, so every layout sees the same model. Norm weights
// are one.
std::unique_ptr<WeightSource> make_dummy_weights(uint64_t seed);

// Parameters that a layout with no replicas loads; at most kParametersMax, so that their bytes fit 64 bits.
inline constexpr uint64_t kParametersMax = uint64_t{1} << 60;
[[nodiscard]] uint64_t parameter_count(const ModelConfig& config);

// A source for rank threads that load at the same time: quantizes to float8 where asked, and counts progress. Must
// outlive the slices that it hands out.
class Weights {
 public:
  static Result<std::unique_ptr<Weights>> open(const ExecutorOptions& options, const ModelConfig& config);

  // rows x cols of a linear layer's weight (n, k); in float8 when quantization is asked for and the checkpoint is not
  // float8 already. The blocks are those of the whole matrix, so slices of any layout agree.
  Result<tensor::MatrixSlice> linear(const std::string& name, int64_t n, int64_t k, Interval rows, Interval cols) const;
  // The same of a matrix that is never quantized: gates, lm_head.
  Result<tensor::MatrixSlice> matrix(const std::string& name, int64_t n, int64_t k, Interval rows, Interval cols) const;
  Result<std::vector<float>> vector(const std::string& name, int64_t n, Interval range) const;
  // The whole of a matrix whose rows are looked up (embeddings).
  Result<tensor::MatrixSlice> table(const std::string& name, int64_t n, int64_t k) const;

  // Reports the whole as done. What is packed in two forms is counted twice on the way, so the count stops just short
  // of the end until then.
  void finish_progress() const;

 private:
  Weights() = default;
  // `slice` under a name of its own, and counted when it is read.
  [[nodiscard]] tensor::MatrixSlice named(std::string_view form, const std::string& name, Interval rows, Interval cols,
                                          tensor::MatrixSlice slice) const;
  void count(int64_t elements) const;
  [[nodiscard]] bool first_read(const std::string& vector) const;
  struct Progress;
  uint64_t number_ = 0;  // of the process's Weights: slices of two are not the same, whatever their names
  std::unique_ptr<WeightSource> source_;
  bool quantize_ = false;
  std::shared_ptr<Progress> progress_;
};

}  // namespace baton::model
