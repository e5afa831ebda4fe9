// Mixture of experts: the gate that chooses, and a rank's experts (DeepSeekMoE, Dai et al. 2024; DeepSeek-V3 report,
// section 2.1.2).
#pragma once

#include "model/layers.h"

namespace baton {

// Chooses the experts of a row from the gate's logits (experts), by MoeConfig:
//   score      softmax or sigmoid of the logits
//   greedy     the best experts_per_token scores
//   group-limited (V2)  only experts of the groups_kept groups with the best single score
//   noaux_tc (V3)       score + bias chooses, groups by the sum of their two best; the weight is the score without the
//   bias
// Weights are divided by their sum if `normalize`, and multiplied by routed_scale (of the two V2 does only the first).
// bias is empty unless noaux_tc. Writes experts_per_token ids, the best first (equal ones by number), and weights.
void choose_experts(const MoeConfig& moe, bool scale_normalized, std::span<const float> logits,
                    std::span<const float> bias, int32_t* expert, float* weight);

// Only the weights, for experts that were chosen otherwise.
void weigh_experts(const MoeConfig& moe, bool scale_normalized, std::span<const float> logits, const int32_t* expert,
                   float* weight);

// The gate of one layer, computed in float32 by the owner of a row.
class Router {
 public:
  static Result<std::unique_ptr<Router>> load(const LayerContext& context);
  // Reads `normed`, writes `expert` and `expert_weight`.
  void route(RowRange rows, Activations& activations) const;

 private:
  MoeConfig moe_;
  bool scale_normalized_ = true;
  int64_t hidden_ = 0;
  int layer_ = 0;
  RoutingReference* reference_ = nullptr;
  Linear gate_;              // (experts, hidden)
  std::vector<float> bias_;  // (experts)
};

// Experts of the rank's EP group, cut by columns over its ranks, and its columns of the shared experts.
Result<std::unique_ptr<FeedForward>> load_moe_ffn(const LayerContext& context);

}  // namespace baton
