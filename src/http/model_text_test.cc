#include "http/model_text.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/test_dir.h"
namespace baton::http {
namespace {

// A config.json may name another one, or none.
TEST(ModelText, TheTokenizersEosIsAStopToken) {
  const TempDir temp;
  const std::string directory = temp.path("model");
  std::filesystem::copy(BATON_SOURCE_DIR "/models/tiny-gqa", directory);
  std::ofstream(directory + "/tokenizer_config.json") << R"({"eos_token":{"content":"a"}})";
  ModelTextOptions options;
  options.model_path = directory;
  const auto model = load_model_text(options);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ((*model)->eos_ids, (std::vector<int32_t>{(*model)->tokenizer->token_id("a").value()}));
}

}  // namespace
}  // namespace baton::http
