#include "model/executor.h"

#include <gtest/gtest.h>

#include "model/verify_model.h"

namespace baton {
namespace {

const std::string kRoot = BATON_SOURCE_DIR;

VerifyOptions options_for(const std::string& directory) {
  VerifyOptions o;
  o.executor.model_path = kRoot + "/" + directory;
  o.executor.compute = Compute::kF32;
  o.executor.kv_dtype = DType::kF32;
  o.executor.page_tokens = 16;
  o.golden_path = o.executor.model_path + "/golden.json";
  o.prompt_tokens_max = 600;
  return o;
}

void expect_equal(const VerifyOptions& o, const std::string& what) {
  const auto report = verify_model(o);
  ASSERT_TRUE(report.ok()) << what << ": " << report.error().message;
  EXPECT_TRUE(report->ok()) << what << ": " << report->to_string();
  printf("%s: %s\n", what.c_str(), report->to_string().c_str());
}

class Goldens : public testing::TestWithParam<const char*> {};

TEST_P(Goldens, OneRank) { expect_equal(options_for(GetParam()), GetParam()); }

TEST_P(Goldens, Layouts) {
  const Layout layouts[] = {{2,1,1,1},{3,1,1,1},{4,1,1,1},{6,1,1,1},{8,1,1,1},{2,2,1,1},{4,2,1,1},{4,4,1,1},{6,2,1,1},{6,3,1,1},{8,2,1,1},{8,4,1,1},{2,1,1,2},{4,2,1,2},{4,1,1,4},{6,3,1,2},{8,2,1,8},{1,1,2,1},{1,1,3,1},{2,1,2,1},{3,1,3,1},{4,2,2,2}};
  const auto config = load_model_config(options_for(GetParam()).executor.model_path);
  ASSERT_TRUE(config.ok());
  for (const Layout& layout : layouts) {
    VerifyOptions o = options_for(GetParam());
    o.prompt_tokens_max = 64;
    o.executor.layout = layout;
    if (!check_model_layout(*config, layout)) { printf("skip %s\n", layout.to_string().c_str()); continue; }
    expect_equal(o, std::string(GetParam()) + " " + layout.to_string());
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Goldens,
                         testing::Values("tests/fixtures/llama3", "tests/fixtures/qwen2", "tests/fixtures/qwen3-moe",
                                         "tests/fixtures/deepseek-v2-lite", "tests/fixtures/deepseek-v3-yarn",
                                         "models/tiny-gqa", "models/tiny-mla"));

}  // namespace
}  // namespace baton
