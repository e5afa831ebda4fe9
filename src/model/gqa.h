// Grouped-query attention (Ainslie et al. 2023): Llama, Qwen2, Qwen3 and Qwen3-MoE.
#pragma once

#include "model/layers.h"

namespace baton::model {

Result<std::unique_ptr<Attention>> load_gqa_attention(const LayerContext& context);

}  // namespace baton::model
