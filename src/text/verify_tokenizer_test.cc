#include "text/verify_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/test_dir.h"

namespace baton::text {
namespace {

const std::filesystem::path kRoot = BATON_SOURCE_DIR;

struct GoldenFiles {
  const char* tokenizer;
  const char* golden;
  size_t cases_min;
};

class Golden : public testing::TestWithParam<GoldenFiles> {};

TEST_P(Golden, EveryIdAndTextIsEqual) {
  const auto report = verify_tokenizer(kRoot / GetParam().tokenizer, kRoot / GetParam().golden);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_GE(report->cases, GetParam().cases_min);
  EXPECT_GE(report->comparisons, 2 * report->cases);
  EXPECT_THAT(report->mismatches, testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(
    Files, Golden,
    testing::Values(
        GoldenFiles{"tests/fixtures/tokenizers/deepseek.json", "tests/fixtures/tokenizers/deepseek.golden.json", 200},
        GoldenFiles{"tests/fixtures/tokenizers/llama3.json", "tests/fixtures/tokenizers/llama3.golden.json", 200},
        GoldenFiles{"tests/fixtures/tokenizers/qwen2.json", "tests/fixtures/tokenizers/qwen2.golden.json", 200},
        GoldenFiles{"tests/fixtures/tokenizers/options.json", "tests/fixtures/tokenizers/options.golden.json", 300},
        GoldenFiles{"models/tiny-gqa/tokenizer.json", "models/tiny-gqa/golden.json", 5},
        GoldenFiles{"models/tiny-mla/tokenizer.json", "models/tiny-mla/golden.json", 5}),
    [](const auto& files) { return "n" + std::to_string(files.index); });

TEST(VerifyTokenizer, NamesEveryMismatch) {
  const TempDir temp;
  const std::filesystem::path file = temp.path("wrong.golden.json");
  std::ofstream(file) << R"([{"text": "a", "ids": [70000]}, {"text": "b", "ids": [], "decoded": "x\ny"}])";
  const auto report = verify_tokenizer(kRoot / "tests/fixtures/tokenizers/options.json", file);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->cases, 2u);
  EXPECT_EQ(report->comparisons, 4u);
  EXPECT_THAT(report->mismatches,
              testing::ElementsAre("[0]: encode: expected [70000] found [97]", "[1]: encode: expected [] found [98]",
                                   "[1].decoded: decode: expected \"x\\ny\" found \"\"",
                                   "[1].decoded: decode as a stream: expected \"x\\ny\" found \"\""));
  std::ofstream(file) << R"({"cases": 3})";
  EXPECT_THAT(verify_tokenizer(kRoot / "tests/fixtures/tokenizers/options.json", file).error().message,
              testing::EndsWith("cases: an array expected, found a number"));
}

}  // namespace
}  // namespace baton::text
