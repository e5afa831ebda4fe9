#include "model/sharding.h"

namespace baton::model {

RankShare rank_share(const ModelConfig& config, const layout::Layout& layout, int rank) {
  RankShare s;
  s.layout = layout;
  s.at = layout.coordinates_of(rank);
  s.tp_rank = rank % layout.tp;
  s.layers = layout::stage_layers(config.layers, layout.pp, s.at.pp_stage);
  s.query_heads = layout::rank_query_heads(config.heads, config.kv_heads, layout.attn_tp(), s.at.attn_tp_rank);
  s.kv_heads = layout::rank_kv_heads(config.kv_heads, layout.attn_tp(), s.at.attn_tp_rank);
  s.ffn = layout::balanced_part(config.ffn, layout.tp, s.tp_rank);
  s.shared_ffn = layout::balanced_part(config.moe.shared_experts * config.moe.expert_ffn, layout.tp, s.tp_rank);
  const int ranks_per_expert = layout.tp / layout.ep;
  s.experts = layout::balanced_part(config.moe.experts, layout.ep, s.tp_rank / ranks_per_expert);
  s.expert_ffn = layout::balanced_part(config.moe.expert_ffn, ranks_per_expert, s.tp_rank % ranks_per_expert);
  s.vocab = layout::balanced_part(config.vocab, layout.tp, s.tp_rank);
  return s;
}

}  // namespace baton::model
