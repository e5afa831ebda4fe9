// What a config.json of a supported architecture says, checked.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/routing.h"
#include "layout/layout.h"
#include "tensor/dtype.h"

namespace baton::model {

enum class Architecture : uint8_t { kDeepseekV2, kDeepseekV3, kLlama, kQwen2, kQwen3, kQwen3Moe };

struct RopeScaling {
  enum class Kind : uint8_t { kNone, kLinear, kDynamic, kLlama3, kYarn, kLongrope } kind = Kind::kNone;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  double mscale = 0, mscale_all_dim = 0;             // yarn; 0: not stated
  std::optional<double> attention_factor;            // yarn and longrope, where a config states it
  bool truncate = true;                              // yarn: the ramp begins and ends at whole dimensions
  int64_t original_max_position = 0;
  std::vector<double> dimension_factors;  // longrope: what each pair of dimensions is divided by, (dim/2)
};

struct MoeConfig : kernels::Routing {
  int shared_experts = 0;
  int expert_ffn = 0;
};

struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  std::string architecture_name;  // "DeepseekV3ForCausalLM"
  std::string model_type;         // "deepseek_v3"
  // kv_heads is 1 and head_dim is qk_nope + qk_rope for MLA.
  int vocab = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0;
  double rms_eps = 1e-6, rope_theta = 10000;
  int64_t max_position = 0;
  bool tie_embeddings = false, qk_norm = false;
  bool attention_bias = false;         // of q, k and v
  bool attention_output_bias = false;  // of o_proj
  bool mlp_bias = false;               // of gate, up and down of a dense FFN
  RopeScaling rope;
  bool rope_is_interleaved = false;
  // MLA; kv_lora 0: not MLA. q_lora 0: a full q_proj.
  int q_lora = 0, kv_lora = 0, qk_nope = 0, qk_rope = 0, v_head = 0;
  MoeConfig moe;
  std::vector<bool> layer_is_moe;
  std::vector<int32_t> eos_ids;  // of config.json and generation_config.json together; each below vocab
  std::optional<int32_t> bos_id;
  bool fp8_weights = false;  // quantization_config.h
  int fp8_block = 128;       // side of the blocks that have a scale, where tensors have such
  tensor::DType torch_dtype = tensor::DType::kBF16;
  std::vector<std::string> warnings;  // what the files say and nobody can follow

  // Adds those that are in the vocabulary and are not there yet.
  void add_eos_ids(std::span<const int32_t> ids);
  [[nodiscard]] bool is_mla() const { return kv_lora > 0; }
  // KV of this model with entries of `kv_dtype`.
  [[nodiscard]] layout::KvGeometry kv_geometry(tensor::DType kv_dtype) const;
};

// Reads DIR/config.json (and generation_config.json if there). An unknown architecture names the supported ones; a
// missing or absurd field is named with its value and range. Whatever the files say: sizes and products of sizes that
// anything is made of fit an int, and divisions come out even.
Result<ModelConfig> load_model_config(const std::string& directory);

// Whether the model can run in this layout: attn_tp <= heads, pp <= layers, ep <= experts.
Status check_model_layout(const ModelConfig& config, const layout::Layout& layout);

}  // namespace baton::model
