// Multi-head latent attention (DeepSeek-V2 report, section 2.1): DeepSeek V2, V2-Lite, V3 and R1.
//
// The KV entry of a token is [normed latent (kv_lora) | turned key part (qk_rope)], one for all heads.
#pragma once

#include "model/layers.h"

namespace baton::model {

// The down-projections, which have no heads: the query's latent (if the model has one) and the KV entry.
Result<std::unique_ptr<AttentionPreparation>> load_mla_preparation(const LayerContext& context);
Result<std::unique_ptr<Attention>> load_mla_attention(const LayerContext& context);

}  // namespace baton::model
