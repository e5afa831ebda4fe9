// What a config.json says of rotary embeddings.
#pragma once

#include <cstdint>

#include "model/json_fields.h"
#include "model/model_config.h"

namespace baton::model {

inline constexpr int64_t kPositionMax = int64_t{1} << 30;

// Sets config.rope_theta and config.rope, and lengthens config.max_position where positions are interpolated. As
// transformers 5 reads them: rope_scaling, if it holds anything, else rope_parameters. What neither of them has is
// taken from the fields beside them.
void read_rope(JsonFields& fields, ModelConfig& config);

// Longrope has one factor for each pair of dimensions, whose number is read after the rope.
void check_rope_factors(JsonFields& fields, const ModelConfig& config);

}  // namespace baton::model
