// The gated FFN of a dense layer: down(silu(gate(x)) * up(x)).
#pragma once

#include "model/layers.h"

namespace baton::model {

// A rank's columns of one gated FFN of any width: a dense layer's, an expert's, the shared experts'.
class GatedFfn {
 public:
  // `prefix` is the module's name in the layer ("mlp", "mlp.experts.3"). Without columns it stays empty.
  static Result<GatedFfn> load(const LayerContext& c, const std::string& prefix, int width, Interval columns,
                               bool bias);

  [[nodiscard]] bool empty() const { return weights_.down == nullptr; }
  [[nodiscard]] const kernels::GatedWeights& weights() const { return weights_; }
  // out (m, hidden) = down(...) of x (m, hidden); zero when empty.
  void apply(kernels::Backend& ops, const kernels::Matrix& x, RankBuffers& scratch, const kernels::Matrix& out) const;

 private:
  int64_t columns_ = 0;
  kernels::GatedWeights weights_;  // of these columns
  kernels::Constants<float> gate_up_bias_, down_bias_;
};

Result<std::unique_ptr<FeedForward>> load_dense_ffn(const LayerContext& context);

}  // namespace baton::model
