// How a token's experts are chosen.
#pragma once

#include <cstdint>

namespace baton::kernels {

// From the gate's logits. A score is the softmax or the sigmoid of a logit; TopK says which experts_per_token experts
// are taken:
//
// - kGreedy: those with the best scores.
// - kGroupLimited (DeepSeek-V2): the same, out of the groups_kept groups whose best single score is highest.
// - kNoauxTc (DeepSeek-V3): those with the best score + bias, out of the groups_kept groups whose two best add up to
//   most. Their weight is the score without the bias.
//
// Weights are multiplied by routed_scale. With `normalize` they are first divided by their sum, and then multiplied
// only if scale_normalized (V2's are not).
struct Routing {
  int experts = 0;  // routed; 0: a dense model
  int experts_per_token = 0;
  int groups = 1, groups_kept = 1;
  double routed_scale = 1;
  bool normalize = false;  // norm_topk_prob
  bool scale_normalized = true;
  enum class Score : uint8_t { kSoftmax, kSigmoid } score = Score::kSoftmax;
  enum class TopK : uint8_t { kGreedy, kGroupLimited, kNoauxTc } topk = TopK::kGreedy;
};

}  // namespace baton::kernels
