#include "model/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "model/test_instance.h"
#include "tensor/checkpoint.h"
#include "tensor/matrix_slice.h"

namespace baton::model {

using layout::Layout;

namespace {

using test::TestInstance;
using testing::HasSubstr;

std::string fixture(const std::string& name) { return fmt::format("{}/tests/fixtures/{}", BATON_SOURCE_DIR, name); }

ExecutorOptions options_for(const std::string& path, Layout layout = {}) {
  ExecutorOptions o;
  o.model_path = path;
  o.compute = kernels::Compute::kF32;
  o.kv_dtype = tensor::DType::kF32;
  o.page_tokens = 16;
  o.layout = layout;
  return o;
}

std::vector<float> logits_of(const ExecutorOptions& o, const ModelConfig& config) {
  TestInstance instance(o, config, 2);
  EXPECT_FALSE(instance.failure()) << instance.failure()->message;
  return instance.failure() ? std::vector<float>{} : test::drive(instance, o.layout.dp);
}

// Another layout of the same model gives the same logits up to the order of float32 sums.
void expect_layout_does_not_matter(ExecutorOptions o, const ModelConfig& config,
                                   std::initializer_list<Layout> layouts) {
  o.layout = {};
  const std::vector<float> expected = logits_of(o, config);
  for (const float x : expected) ASSERT_TRUE(std::isfinite(x));
  for (const Layout& layout : layouts) {
    o.layout = layout;
    EXPECT_LE(test::relative_error(logits_of(o, config), expected), 1e-5) << layout.to_string();
  }
}

TEST(Executor, SameBitsOnEveryRun) {
  for (const char* name : {"deepseek-v3-yarn", "qwen3-moe"}) {
    for (const kernels::Compute compute : {kernels::Compute::kF32, kernels::Compute::kBF16}) {
      ExecutorOptions o = options_for(fixture(name), {4, 2, 1, 2});
      o.compute = compute;
      const ModelConfig config = *load_model_config(o.model_path);
      const std::vector<float> first = logits_of(o, config);
      for (int i = 0; i < 3; ++i) EXPECT_EQ(logits_of(o, config), first) << name;
    }
  }
}

TEST(Executor, RowsOfAllTokensEqualRowsOfTheLast) {
  const ExecutorOptions o = options_for(fixture("deepseek-v2-lite"), {3, 1, 1, 1});
  const ModelConfig config = *load_model_config(o.model_path);
  TestInstance instance(o, config, 2);
  const std::vector<int32_t> tokens{5, 6, 7, 8, 9, 10, 11};
  const StepLogits all = instance.run({instance.segment(0, 0, tokens, 7)});
  for (size_t i = 0; i < tokens.size(); ++i) {
    const StepLogits one = instance.run({instance.segment(1, static_cast<int64_t>(i), {tokens[i]}, 1)});
    const std::vector<float> ours(one.row(0, 0), one.row(0, 0) + config.vocab);
    const std::vector<float> theirs(all.row(0, static_cast<int>(i)), all.row(0, static_cast<int>(i)) + config.vocab);
    EXPECT_LE(test::relative_error(ours, theirs), 1e-5) << i;
  }
}

TEST(Executor, SumsOnEveryRankGiveTheSameLogits) {
  // Steps of decode have every row on every rank, prompts of 50 and 37 tokens do not.
  for (const char* name : {"deepseek-v2-lite", "deepseek-v3-yarn", "qwen3-moe", "llama3"}) {
    ExecutorOptions o = options_for(fixture(name));
    const ModelConfig config = *load_model_config(o.model_path);
    o.everywhere_bytes_max = 16 * config.hidden * static_cast<int64_t>(sizeof(float));
    expect_layout_does_not_matter(o, config, {{2, 1, 1, 1}, {4, 1, 2, 1}, {4, 2, 1, 1}});
    if (config.is_mla()) expect_layout_does_not_matter(o, config, {{4, 1, 1, 4}});
  }
}

TEST(Executor, StepsWithoutWorkOrWithoutLogits) {
  const ExecutorOptions o = options_for(fixture("qwen2"), {4, 2, 1, 1});
  TestInstance instance(o, *load_model_config(o.model_path), 2);
  EXPECT_TRUE(instance.run({}).rows.empty());
  const StepLogits silent = instance.run({instance.segment(0, 0, {1, 2, 3}, 0, 1)});
  EXPECT_EQ(silent.rows, std::vector<size_t>{0});
  EXPECT_TRUE(silent.logits.empty());
  // Segments in any order, one with rows behind one without; group 0 has nothing.
  const StepLogits mixed =
      instance.run({instance.segment(0, 3, {4}, 0, 1), instance.segment(1, 0, {1, 2, 3, 4}, 2, 1)});
  EXPECT_EQ(mixed.rows, (std::vector<size_t>{0, 0}));
  EXPECT_EQ(mixed.logits.size(), 2U * 320);
  EXPECT_NE(mixed.row(1, 1)[7], 0.0F);
}

TEST(Executor, DummyWeightsDoNotDependOnTheLayout) {
  const TempDir dir;
  dir.write("config.json",
            R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 203, "hidden_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16, "intermediate_size": 150, "attention_bias": true,
    "mlp_bias": true, "max_position_embeddings": 512})");
  ExecutorOptions o = options_for(dir.path());
  o.load_format = LoadFormat::kDummy;
  o.seed = 7;
  const ModelConfig config = *load_model_config(dir.path());
  expect_layout_does_not_matter(o, config, {{2, 1, 1, 1}, {5, 1, 1, 1}, {6, 2, 3, 1}});
  const std::vector<float> seven = logits_of(o, config);
  o.seed = 8;
  EXPECT_GT(test::relative_error(logits_of(o, config), seven), 0.1);
}

TEST(Executor, DummyDeepseekUnderEveryKindOfParallelism) {
  ExecutorOptions o = options_for(fixture("deepseek-v3-yarn"));
  o.load_format = LoadFormat::kDummy;
  expect_layout_does_not_matter(o, *load_model_config(o.model_path), {{4, 1, 1, 1}, {3, 3, 1, 3}, {8, 4, 3, 2}});
}

TEST(Executor, QuantizationOnLoadDoesNotDependOnTheLayout) {
  // FFN columns of 192 and heads of 24 make slices that begin inside a 128 x 128 block.
  for (const char* name : {"deepseek-v3-yarn", "llama3"}) {
    ExecutorOptions o = options_for(fixture(name));
    const ModelConfig config = *load_model_config(o.model_path);
    const std::vector<float> exact = logits_of(o, config);
    o.quantize_fp8 = true;
    expect_layout_does_not_matter(o, config, {{2, 1, 1, 1}, {3, 1, 1, 1}, {4, 2, 2, 1}});
    const double error = test::relative_error(logits_of(o, config), exact);
    EXPECT_GT(error, 1e-3) << name;  // it did round
    EXPECT_LT(error, 0.6) << name;
  }
}

// How a float8 checkpoint scales: one for so many rows and columns (0: all of them).
struct Float8Form {
  const char* suffix;  // of the scale's name
  int64_t rows, cols;
  int dimensions;  // of the scale
};

test::StoredTensor stored_scales(const std::vector<float>& scales, int64_t rows, int64_t cols, int dimensions) {
  const std::vector<int64_t> shapes[] = {{}, {rows}, {rows, cols}};
  return {"F32", shapes[dimensions],
          std::string(reinterpret_cast<const char*>(scales.data()), scales.size() * sizeof(float))};
}

// Copies the fixture with every projection in float8, and a twin that holds the same values in bfloat16: the scales are
// powers of two, so the twin is exact.
void write_fp8_twins(const std::string& source, const std::string& fp8_dir, const std::string& twin_dir,
                     const Float8Form& form) {
  const tensor::Checkpoint checkpoint = *tensor::Checkpoint::open(source);
  std::map<std::string, test::StoredTensor> fp8, twin;
  for (const std::string& name : checkpoint.names()) {
    const tensor::TensorView view = *checkpoint.tensor(name);
    const test::StoredTensor plain{"BF16", view.shape,
                                   std::string(reinterpret_cast<const char*>(view.data), view.bytes())};
    if (name.find("_proj") == std::string::npos || view.shape.size() != 2) {
      fp8[name] = twin[name] = plain;
      continue;
    }
    const int64_t rows = view.shape[0];
    const int64_t cols = view.shape[1];
    const int64_t block_rows = form.rows == 0 ? rows : form.rows, block_cols = form.cols == 0 ? cols : form.cols;
    std::vector<float> w(static_cast<size_t>(rows * cols));
    tensor::stored_matrix(view, nullptr)->read(0, 0, rows * cols, w.data());
    const int64_t scale_rows = (rows + block_rows - 1) / block_rows, scale_cols = (cols + block_cols - 1) / block_cols;
    std::vector<float> scales(static_cast<size_t>(scale_rows * scale_cols), 0.0F);
    const auto scale_at = [&](int64_t r, int64_t c) -> float& {
      return scales[static_cast<size_t>(r / block_rows * scale_cols + c / block_cols)];
    };
    for (int64_t i = 0; i < rows * cols; ++i) {
      float& largest = scale_at(i / cols, i % cols);
      largest = std::max(largest, std::abs(w[static_cast<size_t>(i)]));
    }
    for (float& s : scales) s = std::exp2(std::ceil(std::log2(s / tensor::kF8E4M3Max)));
    std::string codes, values;
    for (int64_t i = 0; i < rows * cols; ++i) {
      const float scale = scale_at(i / cols, i % cols);
      const tensor::F8E4M3 code = tensor::to_f8e4m3(w[static_cast<size_t>(i)] / scale);
      const tensor::BF16 value = tensor::to_bf16(tensor::to_float(code) * scale);
      codes.push_back(static_cast<char>(code.bits));
      values.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    fp8[name] = {"F8_E4M3", view.shape, codes};
    fp8[name + form.suffix] = stored_scales(scales, scale_rows, scale_cols, form.dimensions);
    // What activations were rounded with has no meaning here.
    fp8[name.substr(0, name.rfind('.')) + ".input_scale"] = stored_scales({0.5F}, 1, 1, 1);
    twin[name] = {"BF16", view.shape, values};
  }
  test::write_safetensors(fp8_dir, fp8);
  test::write_safetensors(twin_dir, twin);
}

TEST(Executor, Float8CheckpointEqualsItsBfloat16Twin) {
  const Float8Form forms[] = {
      {"_scale_inv", 32, 32, 2},                         // DeepSeek
      {"_scale", 0, 0, 0},                               // one a tensor: AutoFP8, modelopt
      {"_scale", 0, 0, 1},                               // the same, as compressed-tensors writes it
      {"_scale", 1, 0, 2},                               // one a row: compressed-tensors, fbgemm_fp8
      {"_scale", 1, 0, 1},       {"_scale", 32, 32, 2},  // compressed-tensors
  };
  for (const Float8Form& form : forms) {
    SCOPED_TRACE(fmt::format("{} {}x{} {}", form.suffix, form.rows, form.cols, form.dimensions));
    const TempDir fp8, twin;
    write_fp8_twins(fixture("deepseek-v3-yarn"), fp8.path(), twin.path(), form);
    ModelConfig config = *load_model_config(fixture("deepseek-v3-yarn"));
    const double rounding = test::relative_error(logits_of(options_for(twin.path()), config),
                                                 logits_of(options_for(fixture("deepseek-v3-yarn")), config));
    EXPECT_GT(rounding, 1e-3);
    for (const Layout& layout : {Layout{}, Layout{3, 1, 1, 1}, Layout{4, 2, 1, 2}}) {
      const std::vector<float> expected = logits_of(options_for(twin.path(), layout), config);
      ModelConfig quantized = config;
      quantized.fp8_weights = true;
      quantized.fp8_block = 32;
      EXPECT_EQ(logits_of(options_for(fp8.path(), layout), quantized), expected) << layout.to_string();
      // --quantization fp8 on top of float8 weights changes nothing.
      ExecutorOptions again = options_for(fp8.path(), layout);
      again.quantize_fp8 = true;
      EXPECT_EQ(logits_of(again, quantized), expected) << layout.to_string();
    }
  }
}

TEST(Executor, LoadingErrorsNameTheTensor) {
  const std::string source = fixture("qwen2");
  const ModelConfig config = *load_model_config(source);
  struct Case {
    const char* tensor;
    bool missing;
    const char* expected;
  };
  const Case cases[] = {
      {"model.layers.1.mlp.up_proj.weight", true, "model.layers.1.mlp.up_proj.weight"},
      {"model.norm.weight", true, "model.norm.weight"},
      {"model.embed_tokens.weight", true, "model.embed_tokens.weight"},
      {"model.layers.2.self_attn.k_proj.bias", true, "model.layers.2.self_attn.k_proj.bias"},
      {"model.layers.0.mlp.down_proj.weight", false,
       "tensor model.layers.0.mlp.down_proj.weight is (1, 96), config.json asks for (96, 256)"},
      {"model.layers.2.input_layernorm.weight", false, "is (1, 96), config.json asks for (96)"},
  };
  const tensor::Checkpoint checkpoint = *tensor::Checkpoint::open(source);
  for (const Case& c : cases) {
    std::map<std::string, test::StoredTensor> tensors;
    for (const std::string& name : checkpoint.names()) {
      const tensor::TensorView view = *checkpoint.tensor(name);
      tensors[name] = {"BF16", view.shape, std::string(reinterpret_cast<const char*>(view.data), view.bytes())};
    }
    ASSERT_EQ(tensors.count(c.tensor), 1U);
    if (c.missing) {
      tensors.erase(c.tensor);
    } else {
      tensors[c.tensor] = {"BF16", {1, 96}, std::string(192, '\0')};
    }
    // Of a later layer than the model has, as DeepSeek-V3's layer for prediction ahead: not looked at.
    tensors["model.layers.3.extra.weight"] = {"BF16", {1}, std::string(2, '\0')};
    const TempDir dir;
    test::write_safetensors(dir.path(), tensors);
    for (const Layout& layout : {Layout{}, Layout{4, 2, 3, 1}}) {
      const TestInstance instance(options_for(dir.path(), layout), config, 1);
      ASSERT_TRUE(instance.failure()) << c.tensor;
      EXPECT_THAT(instance.failure()->message, HasSubstr(c.expected)) << layout.to_string();
    }
  }
}

TEST(Executor, ProgressOnlyRisesAndEndsWhole) {
  for (const Layout& layout : {Layout{}, Layout{6, 1, 1, 1}}) {
    ExecutorOptions o = options_for(fixture("llama3"), layout);
    std::mutex mutex;
    std::vector<std::pair<uint64_t, uint64_t>> seen;
    o.progress = [&](uint64_t done, uint64_t total) {
      std::lock_guard lock(mutex);
      seen.emplace_back(done, total);
    };
    const TestInstance instance(o, *load_model_config(o.model_path), 1);
    ASSERT_GT(seen.size(), 10U);
    for (size_t i = 1; i < seen.size(); ++i) {
      EXPECT_GE(seen[i].first, seen[i - 1].first);
      EXPECT_EQ(seen[i].second, seen[0].second);
    }
    EXPECT_EQ(seen.back().first, seen.back().second);
    EXPECT_LT(seen[seen.size() - 2].first, seen.back().second);
    // All of the file but its embedding, which is mapped.
    EXPECT_NEAR(static_cast<double>(seen[0].second), 1004360 - 320 * 128 * 2, 5000);
  }
}

TEST(Executor, RefusesWhatCannotRun) {
  const ModelConfig config = *load_model_config(fixture("qwen2"));
  ExecutorOptions o = options_for(fixture("qwen2"), {8, 1, 1, 1});
  TestInstance heads(o, config, 0);
  ASSERT_TRUE(heads.failure());
  EXPECT_EQ(heads.failure()->code, ErrorCode::kIncompatible);
  o.layout = {};
  o.kv_dtype = tensor::DType::kF16;
  TestInstance dtype(o, config, 1);
  ASSERT_TRUE(dtype.failure());
  EXPECT_THAT(dtype.failure()->message, HasSubstr("float16"));
  o.kv_dtype = tensor::DType::kF32;
  o.model_path = "/nowhere";
  TestInstance nowhere(o, config, 1);
  ASSERT_TRUE(nowhere.failure());
  EXPECT_EQ(nowhere.failure()->code, ErrorCode::kNotFound);
}

TEST(ChooseMlaPath, DecodeAbsorbsAndLongPromptsExpand) {
  ModelConfig v3;
  v3.kv_lora = 512;
  v3.qk_nope = 128;
  v3.qk_rope = 64;
  v3.v_head = 128;
  struct Case {
    int64_t begin, m;
    MlaPath path;
  };
  const Case cases[] = {
      {1, 1, MlaPath::kAbsorbed},         {4096, 1, MlaPath::kAbsorbed}, {100000, 1, MlaPath::kAbsorbed},
      {100000, 4, MlaPath::kAbsorbed},    {0, 4096, MlaPath::kExpanded}, {4096, 1024, MlaPath::kExpanded},
      {100000, 1024, MlaPath::kExpanded},
  };
  for (const Case& c : cases) EXPECT_EQ(choose_mla_path(v3, c.begin, c.m), c.path) << c.begin << " + " << c.m;
}

}  // namespace
}  // namespace baton::model
