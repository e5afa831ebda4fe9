#include "model/model_config.h"

#include <algorithm>
#include <array>
#include <limits>

#include "model/json_fields.h"
#include "model/quantization_config.h"
#include "model/rope_config.h"
#include "sampling/vocabulary_sampler.h"

namespace baton::model {

namespace json = boost::json;

namespace {

constexpr int kWidthMax = 1 << 20;
constexpr int kLayersMax = 1024;
constexpr int kHeadsMax = 4096;
constexpr int kExpertsMax = 4096;
constexpr int kProductMax = 1 << 24;  // rows of a matrix: heads times their width, experts times theirs
constexpr size_t kNameMax = 128;

struct ArchitectureName {
  const char* name;
  Architecture architecture;
};
constexpr std::array<ArchitectureName, 6> kArchitectures{{
    {"DeepseekV2ForCausalLM", Architecture::kDeepseekV2},
    {"DeepseekV3ForCausalLM", Architecture::kDeepseekV3},
    {"LlamaForCausalLM", Architecture::kLlama},
    {"Qwen2ForCausalLM", Architecture::kQwen2},
    {"Qwen3ForCausalLM", Architecture::kQwen3},
    {"Qwen3MoeForCausalLM", Architecture::kQwen3Moe},
}};

Result<ArchitectureName> find_architecture(const JsonFields& fields) {
  std::string named;
  if (const json::value* list = fields.find("architectures"); list != nullptr && list->is_array()) {
    for (const json::value& entry : list->get_array()) {
      if (!entry.is_string() || entry.get_string().size() > kNameMax || named.size() > kNameMax) continue;
      for (const ArchitectureName& a : kArchitectures) {
        if (entry.get_string() == a.name) return a;
      }
      named += named.empty() ? "" : ", ";
      named += entry.get_string();
    }
  }
  std::string supported;
  for (const ArchitectureName& a : kArchitectures)
    supported += fmt::format("{}{}", supported.empty() ? "" : ", ", a.name);
  return error(ErrorCode::kIncompatible, "{}: architecture {} is not supported; supported are {}", fields.where(),
               named.empty() ? "(none)" : named, supported);
}

// The product of two fields, each in its own range already.
void check_product(JsonFields& fields, std::string_view a, int64_t x, std::string_view b, int64_t y) {
  if (x * y <= kProductMax) return;
  fields.fail(error(ErrorCode::kCorrupt, "{}: {} {} times {} {} is {}, must be at most {}", fields.where(), a, x, b, y,
                    x * y, kProductMax));
}

void read_deepseek_moe(JsonFields& fields, ModelConfig& config) {
  MoeConfig& moe = config.moe;
  moe.experts = fields.count("n_routed_experts", 0, kExpertsMax, 0);
  config.layer_is_moe.assign(static_cast<size_t>(config.layers), false);
  if (moe.experts == 0) return;
  moe.shared_experts = fields.count("n_shared_experts", 0, kExpertsMax, 0);
  moe.experts_per_token = fields.count("num_experts_per_tok", 1, moe.experts);
  moe.expert_ffn = fields.count("moe_intermediate_size", 1, kWidthMax);
  check_product(fields, "n_shared_experts", moe.shared_experts, "moe_intermediate_size", moe.expert_ffn);
  moe.routed_scale = fields.number("routed_scaling_factor", 0, 1e6, 1.0);
  moe.normalize = fields.boolean("norm_topk_prob", config.architecture == Architecture::kDeepseekV3);
  const bool v3 = config.architecture == Architecture::kDeepseekV3;
  moe.scale_normalized = v3;
  const std::string score = fields.text("scoring_func", v3 ? "sigmoid" : "softmax");
  const std::string topk = fields.text("topk_method", v3 ? "noaux_tc" : "greedy");
  if (score != "softmax" && score != "sigmoid") {
    fields.fail(error(ErrorCode::kIncompatible, "{}: scoring_func {} is not supported; softmax and sigmoid are",
                      fields.where(), score));
  }
  moe.score = score == "sigmoid" ? MoeConfig::Score::kSigmoid : MoeConfig::Score::kSoftmax;
  if (topk == "greedy") {
    moe.topk = MoeConfig::TopK::kGreedy;
  } else if (topk == "group_limited_greedy") {
    moe.topk = MoeConfig::TopK::kGroupLimited;
  } else if (topk == "noaux_tc") {
    moe.topk = MoeConfig::TopK::kNoauxTc;
  } else {
    fields.fail(error(ErrorCode::kIncompatible,
                      "{}: topk_method {} is not supported; greedy, group_limited_greedy and noaux_tc are",
                      fields.where(), topk));
  }
  if (moe.topk != MoeConfig::TopK::kGreedy) {
    moe.groups = fields.count("n_group", 1, moe.experts, 1);
    moe.groups_kept = fields.count("topk_group", 1, moe.groups, moe.groups);
    if (moe.experts % moe.groups != 0 || moe.experts_per_token > moe.groups_kept * (moe.experts / moe.groups)) {
      fields.fail(error(ErrorCode::kCorrupt, "{}: n_group {}, topk_group {} do not go with {} experts, {} per token",
                        fields.where(), moe.groups, moe.groups_kept, moe.experts, moe.experts_per_token));
    }
  }
  const int first = fields.count("first_k_dense_replace", 0, kLayersMax, 0);
  const int every = fields.count("moe_layer_freq", 1, kLayersMax, 1);
  for (int i = first; i < config.layers; ++i) config.layer_is_moe[static_cast<size_t>(i)] = i % every == 0;
}

void read_deepseek(JsonFields& fields, ModelConfig& config) {
  config.rope_is_interleaved = fields.boolean("rope_interleave", true);
  config.q_lora = fields.count("q_lora_rank", 0, kWidthMax, 0);
  config.kv_lora = fields.count("kv_lora_rank", 1, kWidthMax);
  config.qk_nope = fields.count("qk_nope_head_dim", 1, kWidthMax);
  config.qk_rope = fields.count("qk_rope_head_dim", 2, kWidthMax);
  config.v_head = fields.count("v_head_dim", 1, kWidthMax);
  config.kv_heads = 1;
  config.head_dim = config.qk_nope + config.qk_rope;
  check_product(fields, "num_attention_heads", config.heads, "qk_nope_head_dim + qk_rope_head_dim", config.head_dim);
  check_product(fields, "num_attention_heads", config.heads, "qk_nope_head_dim + v_head_dim",
                config.qk_nope + config.v_head);
  if (config.qk_rope % 2 != 0) {
    fields.fail(error(ErrorCode::kCorrupt, "{}: qk_rope_head_dim {} is odd", fields.where(), config.qk_rope));
  }
  if (fields.boolean("attention_bias", false)) {
    fields.fail(error(ErrorCode::kIncompatible, "{}: attention_bias of {} is not supported", fields.where(),
                      config.architecture_name));
  }
  read_deepseek_moe(fields, config);
}

void read_qwen_moe(JsonFields& fields, ModelConfig& config) {
  MoeConfig& moe = config.moe;
  // Transformers 5 writes it under its second name.
  const bool renamed = fields.find("num_experts") == nullptr && fields.find("num_local_experts") != nullptr;
  moe.experts = fields.count(renamed ? "num_local_experts" : "num_experts", 0, kExpertsMax);
  if (moe.experts == 0) return;
  moe.experts_per_token = fields.count("num_experts_per_tok", 1, moe.experts);
  moe.expert_ffn = fields.count("moe_intermediate_size", 1, kWidthMax);
  moe.normalize = fields.boolean("norm_topk_prob", false);
  const int every = fields.count("decoder_sparse_step", 1, kLayersMax, 1);
  const std::vector<int32_t> dense = fields.ids("mlp_only_layers");
  for (int i = 0; i < config.layers; ++i) {
    const bool only_mlp = std::find(dense.begin(), dense.end(), i) != dense.end();
    config.layer_is_moe[static_cast<size_t>(i)] = !only_mlp && (i + 1) % every == 0;
  }
}

// A window that some layer would use; Baton's attention sees the whole context.
void refuse_sliding_window(JsonFields& fields, const ModelConfig& config) {
  const bool qwen = config.architecture != Architecture::kLlama;
  const int64_t window = fields.integer("sliding_window", 0, kPositionMax, 0);
  const int64_t full_layers = fields.integer("max_window_layers", 0, kLayersMax, qwen ? 28 : 0);
  const bool used = fields.boolean("use_sliding_window", !qwen) && window > 0 && window < config.max_position &&
                    full_layers < config.layers;
  if (used) {
    fields.fail(
        error(ErrorCode::kIncompatible, "{}: sliding_window {} is in use and not supported", fields.where(), window));
  }
}

void read_llama_family(JsonFields& fields, ModelConfig& config) {
  config.kv_heads = fields.count("num_key_value_heads", 1, kHeadsMax, config.heads);
  const bool divides = config.hidden % config.heads == 0;
  config.head_dim =
      fields.count("head_dim", 2, kWidthMax, divides ? std::optional(config.hidden / config.heads) : std::nullopt);
  check_product(fields, "num_attention_heads", config.heads, "head_dim", config.head_dim);
  if (config.heads % config.kv_heads != 0) {
    fields.fail(error(ErrorCode::kCorrupt, "{}: num_attention_heads {} is not a multiple of num_key_value_heads {}",
                      fields.where(), config.heads, config.kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    fields.fail(error(ErrorCode::kCorrupt, "{}: head_dim {} is odd", fields.where(), config.head_dim));
  }
  const bool qwen2 = config.architecture == Architecture::kQwen2;
  config.attention_output_bias = !qwen2 && fields.boolean("attention_bias", false);
  config.attention_bias = qwen2 || config.attention_output_bias;
  config.mlp_bias = config.architecture == Architecture::kLlama && fields.boolean("mlp_bias", false);
  config.qk_norm = config.architecture == Architecture::kQwen3 || config.architecture == Architecture::kQwen3Moe;
  config.layer_is_moe.assign(static_cast<size_t>(config.layers), false);
  if (config.architecture == Architecture::kQwen3Moe) read_qwen_moe(fields, config);
  refuse_sliding_window(fields, config);
}

Status read_generation_config(const std::string& directory, ModelConfig& config) {
  const std::string path = directory + "/generation_config.json";
  if (!file_exists(path)) return {};
  BATON_ASSIGN(const json::object root, read_json_object(path));
  JsonFields fields(root, path);
  config.add_eos_ids(fields.token_ids("eos_token_id", config.vocab, config.warnings));
  return fields.status();
}

void read_common(JsonFields& fields, ModelConfig& config) {
  config.model_type = fields.text("model_type", "");
  config.vocab = fields.count("vocab_size", 1, sampling::kVocabularyMax);
  config.hidden = fields.count("hidden_size", 1, kWidthMax);
  config.layers = fields.count("num_hidden_layers", 1, kLayersMax);
  config.heads = fields.count("num_attention_heads", 1, kHeadsMax);
  config.ffn = fields.count("intermediate_size", 1, 1 << 24);
  config.rms_eps = fields.number("rms_norm_eps", 0, 1, 1e-6);
  config.max_position = fields.integer("max_position_embeddings", 1, kPositionMax, 2048);
  config.tie_embeddings = fields.boolean("tie_word_embeddings", false);
  config.eos_ids = fields.token_ids("eos_token_id", config.vocab, config.warnings);
  const std::vector<int32_t> bos = fields.token_ids("bos_token_id", config.vocab, config.warnings);
  if (!bos.empty()) config.bos_id = bos.front();
  if (const std::string act = fields.text("hidden_act", "silu"); act != "silu") {
    fields.fail(error(ErrorCode::kIncompatible, "{}: hidden_act {} is not supported; silu is", fields.where(), act));
  }
  const std::string dtype = fields.text("torch_dtype", fields.text("dtype", "bfloat16"));
  if (Result<tensor::DType> parsed = tensor::parse_dtype(dtype); parsed) {
    config.torch_dtype = *parsed;
  } else {
    fields.fail(error(ErrorCode::kCorrupt, "{}: torch_dtype: {}", fields.where(), parsed.error().message));
  }
}

}  // namespace

void ModelConfig::add_eos_ids(std::span<const int32_t> ids) {
  for (const int32_t id : ids) {
    const bool is_there = std::find(eos_ids.begin(), eos_ids.end(), id) != eos_ids.end();
    if (id >= 0 && id < vocab && !is_there) eos_ids.push_back(id);
  }
}

layout::KvGeometry ModelConfig::kv_geometry(tensor::DType kv_dtype) const {
  layout::KvGeometry g;
  g.layers = layers;
  g.kv_heads = kv_heads;
  g.k_dim = is_mla() ? kv_lora + qk_rope : head_dim;
  g.v_dim = is_mla() ? 0 : head_dim;
  g.element_size = static_cast<int>(tensor::dtype_size(kv_dtype));
  return g;
}

Result<ModelConfig> load_model_config(const std::string& directory) {
  const std::string path = directory + "/config.json";
  if (!file_exists(path)) {
    return error(ErrorCode::kNotFound, "no {}; the model path must be a Hugging Face directory on this machine", path);
  }
  BATON_ASSIGN(const json::object root, read_json_object(path));
  JsonFields fields(root, path);
  BATON_ASSIGN(const ArchitectureName architecture, find_architecture(fields));
  ModelConfig config;
  config.architecture = architecture.architecture;
  config.architecture_name = architecture.name;
  read_common(fields, config);
  BATON_TRY(fields.status());  // what follows divides by these
  read_rope(fields, config);
  if (config.rope.kind == RopeScaling::Kind::kDynamic) {
    config.warnings.push_back(fmt::format("{}: rope_scaling of type dynamic begins at {} positions, where contexts end",
                                          path, config.max_position));
  }
  const bool deepseek =
      config.architecture == Architecture::kDeepseekV2 || config.architecture == Architecture::kDeepseekV3;
  deepseek ? read_deepseek(fields, config) : read_llama_family(fields, config);
  check_rope_factors(fields, config);
  read_quantization(fields, config);
  BATON_TRY(fields.status());
  BATON_TRY(read_generation_config(directory, config));
  return config;
}

Status check_model_layout(const ModelConfig& config, const layout::Layout& layout) {
  BATON_TRY(layout::check_layout(layout));
  if (layout.attn_tp() > config.heads) {
    return error(ErrorCode::kIncompatible,
                 "{}: {} ranks share the attention of {} heads; use at most --tp-size {} with --dp-size {}",
                 layout.to_string(), layout.attn_tp(), config.heads, config.heads * layout.dp, layout.dp);
  }
  if (layout.pp > config.layers) {
    return error(ErrorCode::kIncompatible, "{}: {} pipeline stages for {} layers; lower --pp-size", layout.to_string(),
                 layout.pp, config.layers);
  }
  if (layout.ep > std::max(1, config.moe.experts)) {
    return error(ErrorCode::kIncompatible, "{}: experts in {} parts, but the model has {}; lower --ep-size",
                 layout.to_string(), layout.ep, config.moe.experts);
  }
  return {};
}

}  // namespace baton::model
