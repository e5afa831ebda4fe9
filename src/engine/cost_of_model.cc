#include "engine/cost_of_model.h"

namespace baton::engine {
namespace {

double attention_weights(const model::ModelConfig& c) {
  const double hidden = c.hidden, heads = c.heads;
  if (!c.is_mla()) return hidden * c.head_dim * (2 * heads + 2 * c.kv_heads);
  const double q = heads * (c.qk_nope + c.qk_rope);
  const double query = c.q_lora > 0 ? c.q_lora * (hidden + q) : hidden * q;
  const double latent =
      hidden * (c.kv_lora + c.qk_rope) + static_cast<double>(c.kv_lora) * heads * (c.qk_nope + c.v_head);
  return query + latent + heads * c.v_head * hidden;
}

double feed_forward_weights(const model::ModelConfig& c, int layer) {
  const bool is_moe = static_cast<size_t>(layer) < c.layer_is_moe.size() && c.layer_is_moe[static_cast<size_t>(layer)];
  if (!is_moe) return 3.0 * c.hidden * c.ffn;
  return 3.0 * c.hidden * c.moe.expert_ffn * (c.moe.experts_per_token + c.moe.shared_experts);
}

}  // namespace

scheduler::CostModel cost_of_model(const model::ModelConfig& config) {
  scheduler::CostModel cost{0, 0};
  const double per_context = config.is_mla()
                                 ? config.heads * static_cast<double>(config.qk_nope + config.qk_rope + config.v_head)
                                 : config.heads * 2.0 * config.head_dim;
  for (int layer = 0; layer < config.layers; ++layer) {
    cost.token += attention_weights(config) + feed_forward_weights(config, layer);
    cost.token_context += per_context;
  }
  return cost;
}

}  // namespace baton::engine
