// The scheduler's cost model of a model.
#pragma once

#include "model/model_config.h"
#include "scheduler/cost_model.h"

namespace baton::engine {

// Multiply-adds of one token in prefill, and of it for each token of context: per layer, the projections and the active
// feed-forward weights, and (q k + p v) over all heads. MLA counts in its expanded form, which prefill uses.
[[nodiscard]] scheduler::CostModel cost_of_model(const model::ModelConfig& config);

}  // namespace baton::engine
