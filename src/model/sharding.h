// Which part of every weight a rank holds.
#pragma once

#include "layout/layout.h"
#include "model/model_config.h"

namespace baton::model {

// Intervals of the whole model's dimensions; any but the heads may be empty when there are more ranks than parts.
struct RankShare {
  layout::Layout layout;
  layout::RankCoordinates at;
  int tp_rank = 0;       // in the stage
  Interval layers;       // of the stage
  Interval query_heads;  // of the attention group, as kv_heads
  Interval kv_heads;
  Interval ffn;         // columns of a dense FFN, over tp
  Interval shared_ffn;  // columns of the shared experts together, over tp
  Interval experts;     // routed experts, over ep
  Interval expert_ffn;  // columns of each of them, over the tp/ep ranks of an expert group
  Interval vocab;       // rows of lm_head, over tp
};

[[nodiscard]] RankShare rank_share(const ModelConfig& config, const layout::Layout& layout, int rank);

}  // namespace baton::model
