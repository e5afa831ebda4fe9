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

INSTANTIATE_TEST_SUITE_P(Models, Goldens,
                         testing::Values("tests/fixtures/llama3", "tests/fixtures/qwen2", "tests/fixtures/qwen3-moe",
                                         "tests/fixtures/deepseek-v2-lite", "tests/fixtures/deepseek-v3-yarn",
                                         "models/tiny-gqa", "models/tiny-mla"));

}  // namespace
}  // namespace baton
