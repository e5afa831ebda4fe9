// Rotary position embedding: frequencies and tables. The rotation itself is in kernels.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/model_config.h"

namespace baton::model {

// Inverse frequencies (dim/2) of a rotary embedding over `dim` values, scaled as the config says: linear (position
// interpolation, Chen et al. 2023), llama3 (Llama 3.1's blend by wavelength), yarn (NTK by parts, Peng et al. 2023,
// section 3.2), longrope (Ding et al. 2024: a factor for each pair of dimensions). Dynamic NTK scales nothing before
// max_position_embeddings, where contexts end here.
[[nodiscard]] std::vector<float> rope_inverse_frequencies(const RopeScaling& scaling, double theta, int dim);

// What cos and sin are multiplied by: 1 but for longrope (sqrt(1 + ln factor / ln original length)) and yarn (Peng et
// al. 2023, section 3.4). DeepSeek states mscale and mscale_all_dim, and the factor is the quotient of their scales.
[[nodiscard]] double rope_attention_factor(const RopeScaling& scaling);

// What the softmax scale 1/sqrt(qk dim) of MLA is multiplied by: the square of yarn's scale for mscale_all_dim
// (modeling_deepseek.py of the published checkpoints).
[[nodiscard]] double mla_softmax_factor(const RopeScaling& scaling);

// cos and sin of every position, computed when a position is first asked for. One thread.
class RopeTable {
 public:
  // For the model's rope dimensions: qk_rope of MLA, else head_dim.
  explicit RopeTable(const ModelConfig& config);

  [[nodiscard]] int half() const { return static_cast<int>(inverse_frequencies_.size()); }
  // Appends rows of positions [begin, begin + n) to cos and sin, (n, half()) each. begin + n <= max_position.
  void gather(int64_t begin, int64_t n, std::vector<float>& cos, std::vector<float>& sin);

 private:
  void grow(int64_t positions);
  std::vector<float> inverse_frequencies_;
  float attention_factor_ = 1;
  int64_t max_position_ = 0;
  std::vector<float> cos_, sin_;  // (positions so far, half)
};

}  // namespace baton::model
