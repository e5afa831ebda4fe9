#include "model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/test_instance.h"

namespace baton::model {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Result<ModelConfig> parse(const std::string& config, const std::string& generation = "") {
  const TempDir dir;
  dir.write("config.json", config);
  if (!generation.empty()) dir.write("generation_config.json", generation);
  return load_model_config(dir.path());
}

// The fields every config here needs, and `more`.
std::string llama(const std::string& more) {
  return R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 8, "intermediate_size": 128, "max_position_embeddings": 4096)" +
         more + "}";
}
std::string deepseek(const std::string& version, const std::string& more) {
  return R"({"architectures": ["Deepseek)" + version +
         R"(ForCausalLM"], "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 128, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 16)" +
         more + "}";
}

TEST(ModelConfig, PublishedDeepseekV3) {
  const auto c =
      parse(R"({"architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "auto_map": {"AutoConfig": "x"},
    "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
    "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
    "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
    "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
    "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096, "type": "yarn"}, "rope_theta": 10000, "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid", "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16",
    "v_head_dim": 128, "vocab_size": 129280})");
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->architecture, Architecture::kDeepseekV3);
  EXPECT_TRUE(c->is_mla());
  EXPECT_TRUE(c->rope_is_interleaved);
  EXPECT_TRUE(c->fp8_weights);
  EXPECT_EQ(c->fp8_block, 128);
  EXPECT_EQ(c->moe.topk, MoeConfig::TopK::kNoauxTc);
  EXPECT_EQ(c->moe.score, MoeConfig::Score::kSigmoid);
  EXPECT_EQ(c->moe.groups_kept, 4);
  EXPECT_EQ(c->rope.kind, RopeScaling::Kind::kYarn);
  EXPECT_EQ(c->rope.original_max_position, 4096);
  EXPECT_FALSE(c->layer_is_moe[2]);
  EXPECT_TRUE(c->layer_is_moe[3]);
  const layout::KvGeometry g = c->kv_geometry(tensor::DType::kBF16);
  EXPECT_EQ(g, (layout::KvGeometry{61, 1, 576, 0, 2}));
  EXPECT_EQ(g.token_bytes(), 70272U);
}

TEST(ModelConfig, DeepseekV2GatesAndNulls) {
  const auto c = parse(
      deepseek("V2", R"(, "q_lora_rank": null, "n_routed_experts": 16, "n_shared_experts": 2, "num_experts_per_tok": 6,
    "moe_intermediate_size": 24, "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3, "first_k_dense_replace": 1,
    "moe_layer_freq": 2, "routed_scaling_factor": 16.0, "norm_topk_prob": false, "scoring_func": null, "rope_scaling": null)"));
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->q_lora, 0);
  EXPECT_EQ(c->moe.topk, MoeConfig::TopK::kGroupLimited);
  EXPECT_EQ(c->moe.score, MoeConfig::Score::kSoftmax);
  EXPECT_EQ(c->moe.routed_scale, 16.0);
  EXPECT_EQ(c->rope.kind, RopeScaling::Kind::kNone);
  EXPECT_THAT(c->layer_is_moe, ElementsAre(false, false, true, false, true, false));
}

TEST(ModelConfig, LlamaDefaultsBiasesAndStopTokens) {
  const auto c =
      parse(llama(R"(, "num_key_value_heads": null, "attention_bias": true, "mlp_bias": true, "eos_token_id": 2,
    "bos_token_id": 1, "torch_dtype": null, "dtype": "float32")"),
            R"({"eos_token_id": [128001, 2, 319, -1]})");
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->kv_heads, 8);
  EXPECT_EQ(c->head_dim, 8);
  EXPECT_TRUE(c->attention_bias && c->attention_output_bias && c->mlp_bias);
  EXPECT_THAT(c->eos_ids, ElementsAre(2, 319));
  ASSERT_EQ(c->warnings.size(), 1U);
  EXPECT_THAT(c->warnings[0],
              HasSubstr("generation_config.json: eos_token_id has 128001 and 1 more, but ids go from 0 to 319"));
  EXPECT_EQ(c->bos_id, 1);
  EXPECT_EQ(c->torch_dtype, tensor::DType::kF32);
  EXPECT_EQ(c->kv_geometry(tensor::DType::kF32), (layout::KvGeometry{4, 8, 8, 8, 4}));
}

TEST(ModelConfig, StopTokensFromElsewhere) {
  ModelConfig c = *parse(llama(R"(, "eos_token_id": 2)"));
  c.add_eos_ids(std::vector<int32_t>{2, 7, -1, 320, 319, 7});
  EXPECT_THAT(c.eos_ids, ElementsAre(2, 7, 319));
}

TEST(ModelConfig, EverySpellingOfRopeScaling) {
  struct Case {
    const char* text;
    RopeScaling::Kind kind;
    double factor, theta;
  };
  const Case cases[] = {
      {R"("rope_scaling": {"type": "linear", "factor": 2})", RopeScaling::Kind::kLinear, 2, 10000},
      {R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}, "rope_theta": 500000.0)",
       RopeScaling::Kind::kLlama3, 8, 500000},
      {R"("rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000000.0, "attention_factor": 1.5})",
       RopeScaling::Kind::kYarn, 4, 1000000},
      {R"("rope_parameters": {"rope_type": "default", "rope_theta": 7.0})", RopeScaling::Kind::kNone, 1, 7},
      {R"("rope_parameters": null, "rope_scaling": {"type": "default"})", RopeScaling::Kind::kNone, 1, 10000},
      // Both: transformers 5 takes rope_scaling, and rope_theta from within or beside it.
      {R"("rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "rope_scaling": {"type": "linear", "factor": 8})",
       RopeScaling::Kind::kLinear, 8, 10000},
      {R"("rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 5000, "rope_parameters": {"rope_type": "default"})",
       RopeScaling::Kind::kLinear, 8, 5000},
      {R"("rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 2}, "rope_theta": 5000)",
       RopeScaling::Kind::kLinear, 2, 5000},
      {R"("rope_scaling": {"type": "dynamic", "factor": 2})", RopeScaling::Kind::kDynamic, 2, 10000},
      {R"("rope_scaling": {"type": "yarn"}, "original_max_position_embeddings": 1024)", RopeScaling::Kind::kYarn, 4,
       10000},
  };
  for (const Case& c : cases) {
    const auto config = parse(llama(std::string(", ") + c.text));
    ASSERT_TRUE(config.ok()) << c.text << config.error().message;
    EXPECT_EQ(config->rope.kind, c.kind) << c.text;
    EXPECT_EQ(config->rope.factor, c.factor) << c.text;
    EXPECT_EQ(config->rope_theta, c.theta) << c.text;
  }
  EXPECT_THAT(parse(llama(R"(, "rope_scaling": {"type": "dynamic", "factor": 2})"))->warnings.at(0),
              HasSubstr("dynamic begins at 4096 positions"));
  // The field beside rope_scaling comes first. The context before scaling defaults to that after it.
  EXPECT_EQ(parse(llama(R"(, "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 9},
                           "original_max_position_embeddings": 512)"))
                ->rope.original_max_position,
            512);
  EXPECT_EQ(parse(llama(R"(, "rope_scaling": {"type": "yarn", "factor": 4})"))->rope.original_max_position, 4096);
}

// By the longest context that the model may have, not by each sequence's length.
TEST(ModelConfig, LongropeHasTheFactorsOfItsContexts) {
  const std::string factors = R"("short_factor": [1, 1.5, 2, 2.5], "long_factor": [1, 4, 16, 64])";
  struct Case {
    std::string text;
    std::vector<double> factors;
    double factor;
    std::optional<double> attention;
  };
  const Case cases[] = {
      {R"("rope_scaling": {"type": "longrope", )" + factors + R"(}, "original_max_position_embeddings": 512)",
       {1, 4, 16, 64},
       8,
       std::nullopt},
      {R"("rope_scaling": {"rope_type": "su", "original_max_position_embeddings": 4096, )" + factors + "}",
       {1, 1.5, 2, 2.5},
       1,
       std::nullopt},
      {R"("rope_scaling": {"type": "longrope", "short_mscale": 1.1, "long_mscale": 1.2, )" + factors +
           R"(}, "original_max_position_embeddings": 512)",
       {1, 4, 16, 64},
       8,
       1.2},
      {R"("rope_parameters": {"rope_type": "longrope", "attention_factor": 1.5, "long_mscale": 1.2, "factor": 3,
           "original_max_position_embeddings": 512, )" +
           factors + "}",
       {1, 4, 16, 64},
       8,
       1.5},
  };
  for (const Case& c : cases) {
    const auto config = parse(llama(", " + c.text));
    ASSERT_TRUE(config.ok()) << c.text << config.error().message;
    EXPECT_EQ(config->rope.kind, RopeScaling::Kind::kLongrope) << c.text;
    EXPECT_EQ(config->rope.dimension_factors, c.factors) << c.text;
    EXPECT_EQ(config->rope.factor, c.factor) << c.text;
    EXPECT_EQ(config->rope.attention_factor, c.attention) << c.text;
    EXPECT_EQ(config->max_position, 4096) << c.text;
  }
}

// As SGLang derives it.
TEST(ModelConfig, InterpolatedPositionsReachFurther) {
  const std::pair<const char*, int64_t> cases[] = {
      {R"("rope_scaling": {"type": "linear", "factor": 8})", 32768},
      {R"("rope_scaling": {"type": "linear", "factor": 0.5})", 4096},
      {R"("rope_scaling": {"type": "linear", "factor": 1000000})", int64_t{1} << 30},
      {R"("rope_scaling": {"type": "yarn", "factor": 4})", 16384},
      {R"("rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 1024})", 4096},
      {R"("rope_scaling": {"type": "yarn", "factor": 4}, "original_max_position_embeddings": 1024)", 4096},
      {R"("rope_scaling": {"type": "dynamic", "factor": 4})", 4096},
      {R"("rope_scaling": {"rope_type": "llama3", "factor": 4})", 4096},
      {R"("rope_scaling": {"type": "default"})", 4096},
  };
  for (const auto& [text, max_position] : cases) {
    const auto config = parse(llama(std::string(", ") + text));
    ASSERT_TRUE(config.ok()) << text << config.error().message;
    EXPECT_EQ(config->max_position, max_position) << text;
  }
}

TEST(ModelConfig, SlidingWindowIsRefusedOnlyWhereItIsUsed) {
  const auto qwen = [](const std::string& more) {
    std::string text = llama(more);
    return parse(text.replace(text.find("Llama"), 5, "Qwen2"));
  };
  const auto c = qwen(R"(, "sliding_window": 1024, "use_sliding_window": false, "max_window_layers": 2)");
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_TRUE(c->attention_bias && !c->attention_output_bias && !c->qk_norm);
  EXPECT_TRUE(qwen(R"(, "sliding_window": 1024, "use_sliding_window": true, "max_window_layers": 4)").ok());
  EXPECT_TRUE(qwen(R"(, "sliding_window": 4096, "use_sliding_window": true, "max_window_layers": 2)").ok());
  const auto used = qwen(R"(, "sliding_window": 1024, "use_sliding_window": true, "max_window_layers": 2)");
  ASSERT_FALSE(used.ok());
  EXPECT_THAT(used.error().message, HasSubstr("sliding_window 1024"));
}

TEST(ModelConfig, Qwen3MoeLayers) {
  const auto qwen = [](const std::string& experts) {
    std::string text = llama(R"(, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": true,
    "decoder_sparse_step": 2, "mlp_only_layers": [3], "head_dim": 32)" +
                             experts);
    return parse(text.replace(text.find("Llama"), 5, "Qwen3Moe"));
  };
  for (const char* experts : {R"(, "num_experts": 8)", R"(, "num_local_experts": 8)"}) {
    const auto c = qwen(experts);
    ASSERT_TRUE(c.ok()) << c.error().message;
    EXPECT_TRUE(c->qk_norm && c->moe.normalize);
    EXPECT_EQ(c->moe.experts, 8);
    EXPECT_EQ(c->head_dim, 32);
    EXPECT_THAT(c->layer_is_moe, ElementsAre(false, true, false, false));
  }
  const auto missing = qwen("");
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.error().message, HasSubstr("num_experts"));
}

std::string compressed(const std::string& weights) {
  return R"(, "quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized",
    "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": {)" +
         weights +
         R"(}, "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true}}}})";
}

TEST(ModelConfig, EveryFormOfFloat8) {
  const std::pair<std::string, int> cases[] = {
      {R"(, "quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]})", 64},
      {R"(, "quantization_config": {"quant_method": "fp8", "activation_scheme": "static"})", 128},
      {R"(, "quantization_config": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0})", 128},
      {R"(, "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"})", 128},
      {compressed(R"("num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": true)"), 128},
      {compressed(R"("num_bits": 8, "type": "float", "strategy": "channel")"), 128},
      {compressed(R"("num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 32])"), 32},
  };
  for (const auto& [text, block] : cases) {
    const auto config = parse(llama(text));
    ASSERT_TRUE(config.ok()) << text << config.error().message;
    EXPECT_TRUE(config->fp8_weights);
    EXPECT_EQ(config->fp8_block, block) << text;
  }
}

TEST(ModelConfig, BadFieldsAreNamedWithTheirValue) {
  struct Case {
    std::string config;
    const char* expected;
  };
  const std::string moe = R"(, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16)";
  const Case cases[] = {
      {R"([1])", "not an object"},
      {R"({"architectures": ["GPT2LMHeadModel"]})",
       "GPT2LMHeadModel is not supported; supported are DeepseekV2ForCausalLM"},
      {R"({"architectures": null})", "(none) is not supported"},
      {R"({"architectures": ["LlamaForCausalLM"]})", "vocab_size is missing"},
      {R"({"architectures": ["LlamaForCausalLM"], "vocab_size": -3})",
       "vocab_size is -3, must be a whole number from 1"},
      {R"({"architectures": ["LlamaForCausalLM"], "vocab_size": "many"})", "vocab_size is \"many\""},
      {R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 99999999999999999999})", "vocab_size is 1E20"},
      {llama(R"(, "num_key_value_heads": 3)"), "8 is not a multiple of num_key_value_heads 3"},
      {llama(R"(, "head_dim": 7)"), "head_dim 7 is odd"},
      {llama(R"(, "hidden_act": "gelu")"), "hidden_act gelu"},
      {llama(R"(, "rope_scaling": {"type": "ntk", "factor": 2})"), "type ntk is not supported"},
      {llama(R"(, "rope_scaling": {"type": "longrope", "long_factor": [1, 1, 1, 1]})"),
       "original_max_position_embeddings is missing"},
      {llama(R"(, "rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1]},
                  "original_max_position_embeddings": 64)"),
       "long_factor is missing"},
      {llama(
           R"(, "rope_scaling": {"type": "longrope", "long_factor": [1, 1, 1]}, "original_max_position_embeddings": 64)"),
       "longrope has 3 factors for 4 pairs"},
      {llama(
           R"(, "rope_scaling": {"type": "su", "long_factor": [1, 0, 1, 1], "original_max_position_embeddings": 64})"),
       "long_factor is"},
      {llama(R"(, "rope_scaling": {"type": "su", "long_factor": 1, "original_max_position_embeddings": 64})"),
       "long_factor is 1, must be a list"},
      {llama(R"(, "rope_scaling": {"type": "su", "long_factor": [1, 1, 1, 1], "original_max_position_embeddings": 1})"),
       "original_max_position_embeddings is 1"},
      {llama(R"(, "rope_scaling": {"type": "dynamic"})"), "rope_scaling: factor is missing"},
      {llama(R"(, "rope_parameters": {"full_attention": {"rope_type": "default"}})"), "full_attention"},
      {llama(R"(, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5})"),
       "partial_rotary_factor"},
      {llama(R"(, "rope_scaling": {"type": "yarn"})"), "rope_scaling: factor is missing"},
      {llama(R"(, "rope_scaling": {"type": "linear", "factor": 0})"), "factor is 0"},
      {llama(R"(, "partial_rotary_factor": 0.5)"), "partial_rotary_factor"},
      {llama(R"(, "quantization_config": {"quant_method": "awq"})"), "method awq"},
      {llama(R"(, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 64]})"), "no square"},
      {llama(R"(, "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"})"), "method modelopt"},
      {llama(R"(, "quantization_config": {"quant_method": "compressed-tensors"})"), "config_groups is missing"},
      {llama(R"(, "quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"a": {}}})"),
       "has no weights"},
      {llama(compressed(R"("num_bits": 4, "type": "int", "strategy": "group")")), "4 bits, type int, strategy group"},
      {llama(compressed(R"("num_bits": 8, "type": "int", "strategy": "channel")")), "type int"},
      {llama(R"(, "eos_token_id": ["x"])"), "eos_token_id is [\"x\"]"},
      {llama(R"(, "torch_dtype": "int3")"), "int3"},
      {deepseek("V3", moe + R"(, "n_group": 3)"), "n_group 3"},
      {deepseek("V3", moe + R"(, "n_group": 8, "topk_group": 1)"), "topk_group 1"},
      {deepseek("V3", moe + R"(, "topk_method": "magic")"), "topk_method magic"},
      {deepseek("V2", moe + R"(, "scoring_func": "relu")"), "scoring_func relu"},
      {deepseek("V2", R"(, "n_routed_experts": 8, "num_experts_per_tok": 9)"), "num_experts_per_tok is 9"},
  };
  for (const Case& c : cases) {
    const auto config = parse(c.config);
    ASSERT_FALSE(config.ok()) << c.config;
    EXPECT_THAT(config.error().message, HasSubstr(c.expected)) << c.config;
  }
  const auto nowhere = load_model_config("/nowhere");
  ASSERT_FALSE(nowhere.ok());
  EXPECT_EQ(nowhere.error().code, ErrorCode::kNotFound);
}

TEST(ModelConfig, LayoutsThatCannotWork) {
  const ModelConfig c = *parse(llama(""));  // 8 heads, 4 layers, dense
  struct Case {
    layout::Layout layout;
    const char* expected;  // null: works
  };
  const Case cases[] = {
      {{8, 1, 1, 1}, nullptr},
      {{16, 2, 4, 1}, nullptr},
      {{16, 1, 1, 1}, "use at most --tp-size 8"},
      {{1, 1, 5, 1}, "5 pipeline stages for 4 layers"},
      {{2, 1, 1, 2}, "lower --ep-size"},
  };
  for (const Case& k : cases) {
    const Status status = check_model_layout(c, k.layout);
    ASSERT_EQ(status.ok(), k.expected == nullptr) << k.layout.to_string();
    if (!status) {
      EXPECT_THAT(status.error().message, HasSubstr(k.expected));
    }
  }
}

}  // namespace
}  // namespace baton::model
