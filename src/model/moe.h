// Mixture of experts: the gate that chooses, and a rank's experts (DeepSeekMoE, Dai et al. 2024; DeepSeek-V3 report,
// section 2.1.2).
#pragma once

#include "model/layers.h"

namespace baton::model {

// The gate of one layer, computed in float32 by the owner of a row.
class ExpertGate {
 public:
  static Result<std::unique_ptr<ExpertGate>> load(const LayerContext& context);
  // From `normed`.
  void route(kernels::Backend& backend, LongInterval rows, const Activations& activations, RankBuffers& scratch) const;
  // hidden += sums, normed = rms_norm(hidden), from which it writes `expert` and `expert_weight`.
  void norm_and_route(kernels::Backend& backend, const kernels::Matrix& sums, const kernels::Constants<float>& norm,
                      float eps, LongInterval rows, const Activations& activations, RankBuffers& scratch) const;

 private:
  // Where a second run chose otherwise than the first.
  void follow_reference(kernels::Backend& backend, const kernels::Matrix& logits, int64_t first_row, int32_t* expert,
                        float* weight) const;

  MoeConfig moe_;
  int layer_ = 0;
  RoutingReference* reference_ = nullptr;
  kernels::WeightPtr gate_;         // (experts, hidden)
  kernels::Constants<float> bias_;  // (experts)
};

// Experts of the rank's EP group, cut by columns over its ranks, and its columns of the shared experts.
Result<std::unique_ptr<FeedForward>> load_moe_ffn(const LayerContext& context);

}  // namespace baton::model
