// The bundled models and fixtures against what the reference implementation computed for them, in every kind of layout.
#include <gtest/gtest.h>

#include <fstream>

#include "kernels/reference_backend.h"
#include "model/test_instance.h"
#include "model/verify_model.h"

namespace baton::model {
namespace {

struct Model {
  const char* directory;
  int64_t short_prompts;  // of the cases that run in every layout
};

void PrintTo(const Model& model, std::ostream* out) { *out << model.directory; }

VerifyOptions options_for(const Model& model, layout::Layout layout = {}) {
  VerifyOptions o;
  o.executor.model_path = fmt::format("{}/{}", BATON_SOURCE_DIR, model.directory);
  o.executor.compute = kernels::Compute::kF32;
  o.executor.kv_dtype = tensor::DType::kF32;
  o.executor.page_tokens = 16;
  o.executor.layout = layout;
  o.golden_path = o.executor.model_path + "/golden.json";
  return o;
}

void expect_equal(const VerifyOptions& o, int rows_min) {
  const auto report = verify_model(o);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_TRUE(report->ok()) << o.executor.layout.to_string() << " " << report->to_string();
  EXPECT_GE(report->rows, rows_min);
}

class Golden : public testing::TestWithParam<Model> {};

TEST_P(Golden, OneRankEveryCase) { expect_equal(options_for(GetParam()), 52); }

TEST_P(Golden, EveryLayout) {
  const layout::Layout layouts[] = {{2, 1, 1, 1}, {3, 1, 1, 1}, {4, 1, 1, 1}, {6, 1, 1, 1}, {8, 1, 1, 1}, {2, 2, 1, 1},
                                    {4, 2, 1, 1}, {4, 4, 1, 1}, {6, 2, 1, 1}, {6, 3, 1, 1}, {8, 2, 1, 1}, {8, 4, 1, 1},
                                    {2, 1, 1, 2}, {4, 2, 1, 2}, {4, 1, 1, 4}, {6, 3, 1, 2}, {8, 2, 1, 8}, {1, 1, 2, 1},
                                    {1, 1, 3, 1}, {2, 1, 2, 1}, {3, 1, 3, 1}, {4, 2, 2, 2}, {8, 4, 2, 4}};
  int legal = 0;
  for (const layout::Layout& layout : layouts) {
    VerifyOptions o = options_for(GetParam(), layout);
    o.prompt_tokens_max = GetParam().short_prompts;
    const auto config = load_model_config(o.executor.model_path);
    ASSERT_TRUE(config.ok());
    if (!check_model_layout(*config, layout)) continue;
    ++legal;
    expect_equal(o, 26);
  }
  EXPECT_GE(legal, 15);
}

TEST_P(Golden, LongPromptsInChunksOnUnevenRanks) {
  VerifyOptions o = options_for(GetParam(), {6, 2, 2, 1});
  o.chunk_tokens = 192;
  expect_equal(o, 52);
}

TEST_P(Golden, AnyChunkAndPageSize) {
  struct Sizes {
    int chunk, page;
  };
  for (const Sizes& sizes : {Sizes{1, 1}, Sizes{7, 64}, Sizes{50, 1}, Sizes{64, 64}, Sizes{0, 128}}) {
    VerifyOptions o = options_for(GetParam());
    o.prompt_tokens_max = GetParam().short_prompts;
    o.chunk_tokens = sizes.chunk;
    o.executor.page_tokens = sizes.page;
    expect_equal(o, 26);
  }
}

TEST_P(Golden, BothPathsOfLatentAttention) {
  for (const MlaPath path : {MlaPath::kAbsorbed, MlaPath::kExpanded}) {
    VerifyOptions o = options_for(GetParam());
    o.executor.mla_path = path;
    o.prompt_tokens_max = 600;
    o.chunk_tokens = 128;
    expect_equal(o, 52);
  }
}

// A model knows nothing of the processor: with other operations behind the same interface it says the same.
TEST_P(Golden, PlainOperations) {
  for (const layout::Layout& layout : {layout::Layout{}, layout::Layout{4, 2, 2, 2}}) {
    VerifyOptions o = options_for(GetParam(), layout);
    o.executor.backend = kernels::make_reference_backend;
    o.prompt_tokens_max = 64;
    o.chunk_tokens = 37;
    const auto config = load_model_config(o.executor.model_path);
    ASSERT_TRUE(config.ok());
    if (check_model_layout(*config, layout)) expect_equal(o, 26);
  }
}

TEST_P(Golden, Bfloat16) {
  for (const layout::Layout& layout : {layout::Layout{}, layout::Layout{4, 2, 1, 1}}) {
    VerifyOptions o = options_for(GetParam(), layout);
    o.executor.compute = kernels::Compute::kBF16;
    o.executor.kv_dtype = tensor::DType::kBF16;
    const auto report = verify_model(o);
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_TRUE(report->ok()) << report->to_string();
    EXPECT_TRUE(report->mismatches.empty()) << report->to_string();
    EXPECT_EQ(report->routing_differences, 0) << report->to_string();
  }
}

// The KV alone rounds as all of the model in bfloat16 does.
TEST_P(Golden, Bfloat16KvUnderFloat32) {
  VerifyOptions o = options_for(GetParam(), {4, 2, 1, 1});
  o.executor.kv_dtype = tensor::DType::kBF16;
  const auto report = verify_model(o);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_TRUE(report->ok()) << report->to_string();
  EXPECT_EQ(report->tolerance, 3e-2);
  EXPECT_EQ(report->routing_differences, 0) << report->to_string();
}

// A value is 2^-4 at most from what it stands for; 0.06 of a row is the worst that was seen.
TEST_P(Golden, Float8Kv) {
  for (const layout::Layout& layout : {layout::Layout{}, layout::Layout{4, 2, 1, 1}}) {
    VerifyOptions o = options_for(GetParam(), layout);
    o.executor.kv_dtype = tensor::DType::kF8E4M3;
    o.prompt_tokens_max = 600;
    const auto report = verify_model(o);
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_TRUE(report->ok()) << report->to_string();
    EXPECT_EQ(report->tolerance, 8e-2);
    EXPECT_GT(report->worst_error, 1e-2) << "the KV was not float8: " << report->to_string();
    EXPECT_LE(report->routing_differences, 1) << report->to_string();
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         testing::Values(Model{"tests/fixtures/llama3", 200}, Model{"tests/fixtures/qwen2", 200},
                                         Model{"tests/fixtures/qwen3-moe", 200},
                                         Model{"tests/fixtures/deepseek-v2-lite", 200},
                                         Model{"tests/fixtures/deepseek-v3-yarn", 200},
                                         Model{"tests/fixtures/deepseek-v3-fp8", 200}, Model{"models/tiny-gqa", 20},
                                         Model{"models/tiny-mla", 20}));

// In case 0, step 3, layer 1, experts 6 and 15 are 0.0004 apart in float32, and in bfloat16 the other one is chosen;
// the later steps of the case see its KV.
TEST(VerifyModel, ATieOfExpertsIsSeenWithoutTheFloat32Run) {
  VerifyOptions o = options_for({"tests/fixtures/deepseek-v3-yarn", 200});
  o.executor.compute = kernels::Compute::kBF16;
  o.executor.kv_dtype = tensor::DType::kBF16;
  o.own_routing = true;
  const auto report = verify_model(o);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_FALSE(report->ok()) << report->to_string();
  EXPECT_LE(report->rows_over, 8) << report->to_string();
  EXPECT_LE(report->median_error, 1e-2) << report->to_string();
}

TEST(RoutingReference, FollowsTiesAndNothingElse) {
  const std::vector<float> exact{1.0F, 2.0F, 2.01F, 0.5F};
  RoutingReference reference(1e-2);
  std::vector<int32_t> chosen{2, 0};
  EXPECT_FALSE(reference.meet(1, 7, exact, chosen));  // recorded
  reference.follow();

  std::vector<int32_t> same{0, 2};
  EXPECT_FALSE(reference.meet(1, 7, exact, same)) << "the order of experts is not a choice";
  std::vector<int32_t> tie{1, 0};
  EXPECT_TRUE(reference.meet(1, 7, std::vector<float>{1.0F, 2.01F, 2.0F, 0.5F}, tie));
  EXPECT_EQ(tie, chosen);
  std::vector<int32_t> wrong{1, 3};
  EXPECT_FALSE(reference.meet(1, 7, std::vector<float>{1.0F, 2.5F, 2.0F, 1.9F}, wrong));
  EXPECT_EQ(wrong, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(reference.ties(), 1);
  EXPECT_EQ(reference.differences(), 1);
}

// Verification must be able to fail.
TEST(VerifyModel, SeesOneWrongLogitAndOneWrongToken) {
  const TempDir dir;
  VerifyOptions o = options_for({"tests/fixtures/qwen2", 0});
  std::ifstream file(o.golden_path);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  o.golden_path = dir.path() + "/golden.json";
  o.prompt_tokens_max = 10;

  std::string wrong_logit = text;
  const size_t logit = wrong_logit.find("[[") + 2;
  wrong_logit.insert(logit, "1");  // "0.5" is now "10.5", or "-0.5" "1-0.5": make it the former
  if (text[logit] == '-') wrong_logit.replace(logit, 2, "1");
  dir.write("golden.json", wrong_logit);
  auto report = verify_model(o);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_FALSE(report->ok()) << report->to_string();
  EXPECT_EQ(report->worst_at, "case 0, step 0");
  EXPECT_EQ(report->rows_over, 1);

  std::string wrong_token = text;
  const size_t tokens = wrong_token.find("\"greedy_ids\": [") + 15;
  const size_t comma = wrong_token.rfind(',', wrong_token.find(']', tokens));
  const size_t end = wrong_token.find(']', comma);
  wrong_token.replace(comma, end - comma, ", 0");  // the last one: it is compared and never fed before the last row
  dir.write("golden.json", wrong_token);
  report = verify_model(o);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_FALSE(report->ok());
  ASSERT_EQ(report->mismatches.size(), 1U) << report->to_string();
  EXPECT_NE(report->mismatches[0].find("golden 0"), std::string::npos) << report->mismatches[0];

  // bfloat16 may choose otherwise only between tokens that the golden row itself hardly tells apart.
  o.executor.compute = kernels::Compute::kBF16;
  for (const auto& [tolerance, ties] : {std::pair{0.0, 0U}, {3.0, 1U}}) {
    o.tolerance = tolerance;
    report = verify_model(o);
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_EQ(report->ok(), ties == 1) << report->to_string();
    EXPECT_EQ(report->mismatches.size(), 1U);
    EXPECT_EQ(report->token_ties, ties);
  }
}

TEST(VerifyModel, RefusesGoldensThatDoNotFit) {
  const TempDir dir;
  VerifyOptions o = options_for({"tests/fixtures/qwen2", 0});
  o.golden_path = dir.path() + "/golden.json";
  struct Case {
    const char* text;
    const char* expected;
  };
  const Case cases[] = {
      {"{", "not JSON"},
      {"{}", "no cases"},
      {R"({"cases": [7]})", "cases[0]: not an object"},
      {R"({"cases": [{"prompt_ids": [], "greedy_ids": [], "logits_per_step": [[1]]}]})", "0 prompt_ids"},
      {R"({"cases": [{"prompt_ids": [1], "greedy_ids": []}]})", "0 rows"},
      {R"({"cases": [{"prompt_ids": [1], "greedy_ids": [], "logits_per_step": [[1, 2]]}]})", "vocabulary of 320"},
      {R"({"cases": [{"prompt_ids": [999], "greedy_ids": [], "top8_per_step": [{"ids": [1], "logits": [1], "logsumexp": 2}]}]})",
       "vocabulary of 320"},
      {R"({"cases": [{"prompt_ids": [1], "greedy_ids": [], "top8_per_step": [{"ids": [1], "logits": ["x"], "logsumexp": 2}]}]})",
       "not a list of numbers"},
  };
  for (const Case& c : cases) {
    dir.write("golden.json", c.text);
    const auto report = verify_model(o);
    ASSERT_FALSE(report.ok()) << c.text;
    EXPECT_NE(report.error().message.find(c.expected), std::string::npos) << report.error().message;
  }
}

}  // namespace
}  // namespace baton::model
