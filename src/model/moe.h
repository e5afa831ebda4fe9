// Mixture of experts: the gate that chooses, and a rank's experts (DeepSeekMoE, Dai et al. 2024; DeepSeek-V3 report,
// section 2.1.2).
#pragma once

#include "model/layers.h"

namespace baton::model {

// Chooses the experts of a row from the gate's logits (experts), by MoeConfig. A score is the softmax or the sigmoid of
// a logit; TopK says which experts_per_token experts are taken:
//
// - kGreedy: those with the best scores.
// - kGroupLimited (V2): the same, out of the groups_kept groups whose best single score is highest.
// - kNoauxTc (V3): those with the best score + bias, out of the groups_kept groups whose two best add up to most. Their
//   weight is the score without the bias.
//
// Weights are multiplied by routed_scale. With `normalize` they are first divided by their sum, and then multiplied
// only if scale_normalized (V2's are not). `bias` is empty unless kNoauxTc. Writes experts_per_token ids, the best
// first (equal ones by number), and their weights.
void choose_experts(const MoeConfig& moe, bool scale_normalized, std::span<const float> logits,
                    std::span<const float> bias, int32_t* expert, float* weight);

// Only the weights, for experts that were chosen otherwise.
void weigh_experts(const MoeConfig& moe, bool scale_normalized, std::span<const float> logits, const int32_t* expert,
                   float* weight);

// The gate of one layer, computed in float32 by the owner of a row.
class ExpertGate {
 public:
  static Result<std::unique_ptr<ExpertGate>> load(const LayerContext& context);
  // Reads `normed`, writes `expert` and `expert_weight`.
  void route(LongInterval rows, Activations& activations) const;

 private:
  MoeConfig moe_;
  bool scale_normalized_ = true;
  int64_t hidden_ = 0;
  int layer_ = 0;
  RoutingReference* reference_ = nullptr;
  kernels::Linear gate_;     // (experts, hidden)
  std::vector<float> bias_;  // (experts)
};

// Experts of the rank's EP group, cut by columns over its ranks, and its columns of the shared experts.
Result<std::unique_ptr<FeedForward>> load_moe_ffn(const LayerContext& context);

}  // namespace baton::model
