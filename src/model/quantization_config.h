// What a config.json says of quantized weights.
#pragma once

#include "model/json_fields.h"
#include "model/model_config.h"

namespace baton::model {

// Sets config.fp8_weights and config.fp8_block. Float8 e4m3 with a scale for each tensor, row or square block is
// supported, as written by "fp8" (DeepSeek, AutoFP8), "fbgemm_fp8", "modelopt" and "compressed-tensors"; which of them
// a tensor has shows in the shape of its scale. Activations are not rounded, so what is said of them has no meaning
// here.
void read_quantization(JsonFields& fields, ModelConfig& config);

}  // namespace baton::model
