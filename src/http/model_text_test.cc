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

// As in transformers: whatever the files name, and nothing else.
TEST(ModelText, TemplatesSeeEverySpecialToken) {
  const TempDir temp;
  const std::string directory = temp.path("model");
  std::filesystem::copy(BATON_SOURCE_DIR "/models/tiny-gqa", directory);
  std::ofstream(directory + "/tokenizer_config.json")
      << R"({"eos_token":"e","pad_token":"p","additional_special_tokens":["x","y"],"chat_template":)"
      << R"("{{ eos_token }}{{ pad_token }}{{ additional_special_tokens[1] }}{{ bos_token is defined }}"})";
  ModelTextOptions options;
  options.model_path = directory;
  const auto model = load_model_text(options);
  ASSERT_TRUE(model.ok()) << model.error().message;
  (*model)->context_length = 100;
  (*model)->vocab = 1 << 20;
  const auto request = parse_api_request(ApiKind::kChat, R"({"messages":[{"role":"user","content":"a"}]})", **model,
                                         engine::Role::kUnified);
  ASSERT_TRUE(request.ok()) << request.error().message;
  EXPECT_EQ((*model)->tokenizer->decode(request->choices[0].engine.prompt, false), "epyFalse");
}

}  // namespace
}  // namespace baton::http
