#include "text/tokenizer_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <filesystem>

#include "base/test_dir.h"

namespace baton::text {
namespace {

class ModelDir : public testing::Test {
 protected:
  void write(const std::string& name, std::string_view text) const { temp_.write(name, text); }

  const TempDir temp_;
  const std::filesystem::path dir_ = temp_.path();
};

TEST_F(ModelDir, ReadsEveryForm) {
  write("tokenizer_config.json",
        R"({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null,
    "add_bos_token": true, "add_eos_token": null, "model_max_length": 16384, "chat_template": "{{ x }}", "unknown": [1]})");
  const auto config = load_tokenizer_config(dir_);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->bos_token, "<s>");
  EXPECT_EQ(config->eos_token, "</s>");
  EXPECT_EQ(config->pad_token, std::nullopt);
  EXPECT_TRUE(config->add_bos_token);
  EXPECT_FALSE(config->add_eos_token);
  EXPECT_EQ(config->model_max_length, 16384);
  ASSERT_NE(config->chat_template(), nullptr);
  EXPECT_EQ(*config->chat_template(), "{{ x }}");
}

TEST_F(ModelDir, NamedTemplatesAndTheJinjaFile) {
  write("tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656,
    "chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]})");
  auto config = load_tokenizer_config(dir_);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->model_max_length, std::nullopt);
  EXPECT_EQ(*config->chat_template(), "D");
  EXPECT_EQ(*config->chat_template("tool_use"), "T");
  EXPECT_EQ(config->chat_template("rag"), nullptr);
  write("chat_template.jinja", "J\n");
  config = load_tokenizer_config(dir_);
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(*config->chat_template(), "J\n");
}

TEST_F(ModelDir, WithoutTheFileAllIsEmpty) {
  const auto config = load_tokenizer_config(dir_);
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->bos_token, std::nullopt);
  EXPECT_TRUE(config->chat_templates.empty());
}

TEST_F(ModelDir, WrongTypesAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"bos_token": 1})", "bos_token: a string expected, found a number"},
      {R"({"eos_token": {"text": "x"}})", "eos_token.content: a value expected"},
      {R"({"chat_template": [{"name": "x"}]})", "chat_template[0].template: a value expected"},
      {R"({"model_max_length": -1})", "model_max_length: -1 is below 1"},
      {R"({"add_bos_token": "yes"})", "add_bos_token: a boolean expected, found a string"},
      {R"([])", "top level: an object expected, found an array"},
      {R"({"bos_token": "x")", "not JSON"},
  };
  for (const auto& [json, message] : cases) {
    write("tokenizer_config.json", json);
    const auto config = load_tokenizer_config(dir_);
    ASSERT_FALSE(config.ok()) << json;
    EXPECT_THAT(config.error().message, testing::HasSubstr(message));
  }
}

// As transformers: a map that is there comes before the config, unless the config has an added_tokens_decoder.
TEST_F(ModelDir, SpecialTokensMap) {
  write("tokenizer_config.json", R"({"eos_token": "<e>", "unk_token": "<u>"})");
  write("special_tokens_map.json",
        R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null,
            "additional_special_tokens": ["<a>", {"content": "<b>"}], "extra_special_tokens": {"image_token": "<i>"}})");
  auto config = load_tokenizer_config(dir_);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->bos_token, "<s>");
  EXPECT_EQ(config->eos_token, "</s>");
  EXPECT_EQ(config->unk_token, "<u>");
  std::vector<std::string> specials;
  specials.reserve(config->tokens.specials.size());
  for (const AddedToken& token : config->tokens.specials) specials.push_back(token.content);
  EXPECT_THAT(specials, testing::IsSupersetOf({"<s>", "</s>", "<u>", "<a>", "<b>", "<i>"}));
  write("tokenizer_config.json", R"({"eos_token": "<e>", "added_tokens_decoder": {"9": {"content": "<x>"}}})");
  config = load_tokenizer_config(dir_);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->bos_token, std::nullopt);
  EXPECT_EQ(config->eos_token, "<e>");
  write("special_tokens_map.json", R"({"bos_token": 1})");
  EXPECT_TRUE(load_tokenizer_config(dir_).ok());
  write("tokenizer_config.json", "{}");
  EXPECT_THAT(load_tokenizer_config(dir_).error().message, testing::HasSubstr("special_tokens_map.json: bos_token"));
}

// What transformers 4.57 gives templates of the same files.
TEST_F(ModelDir, TemplatesSeeEverySpecialToken) {
  struct Case {
    const char* config;
    const char* map;
    const char* seen;
  };
  const Case cases[] = {
      {R"({"bos_token":"<s>","eos_token":{"content":"</s>"},"pad_token":"",
           "additional_special_tokens":["<a>",{"content":"<b>"}],"extra_special_tokens":{"image_token":"<i>"}})",
       "{}", R"({"bos_token":"<s>","eos_token":"</s>","additional_special_tokens":["<a>","<b>"],"image_token":"<i>"})"},
      {R"({"eos_token":"<e>","unk_token":"<u>"})",
       R"({"bos_token":"<s>","eos_token":{"content":"</s>"},"pad_token":null,"sep_token":"<p>",
           "additional_special_tokens":["<a>",{"content":"<b>"}]})",
       R"({"eos_token":"</s>","unk_token":"<u>","bos_token":"<s>","sep_token":"<p>","additional_special_tokens":["<a>","<b>"]})"},
      {R"({"eos_token":"<e>","additional_special_tokens":[],"cls_token":"<c>","mask_token":"<m>"})", "{}",
       R"({"eos_token":"<e>","cls_token":"<c>","mask_token":"<m>"})"},
  };
  for (const Case& c : cases) {
    write("tokenizer_config.json", c.config);
    write("special_tokens_map.json", c.map);
    const auto config = load_tokenizer_config(dir_);
    ASSERT_TRUE(config.ok()) << config.error().message;
    EXPECT_EQ(config->special_tokens_map, boost::json::parse(c.seen)) << c.config;
  }
}

TEST_F(ModelDir, AddedTokensDecoder) {
  write("tokenizer_config.json", R"({"added_tokens_decoder": {
    "12": {"content": "<b>", "special": true}, "3": {"content": "<a>", "lstrip": true, "normalized": false}}})");
  const auto config = load_tokenizer_config(dir_);
  ASSERT_TRUE(config.ok()) << config.error().message;
  ASSERT_EQ(config->tokens.added.size(), 2U);
  EXPECT_EQ(config->tokens.added[0].content, "<a>");
  EXPECT_TRUE(config->tokens.added[0].lstrip);
  EXPECT_TRUE(config->tokens.added[1].special);
  for (const char* json :
       {R"({"added_tokens_decoder": []})", R"({"added_tokens_decoder": {"x": {"content": "<a>"}}})",
        R"({"added_tokens_decoder": {"1": "<a>"}})", R"({"added_tokens_decoder": {"-1": {"content": "a"}}})",
        R"({"added_tokens_decoder": {"99999999999": {"content": "a"}}})"}) {
    write("tokenizer_config.json", json);
    EXPECT_THAT(load_tokenizer_config(dir_).error().message, testing::HasSubstr("added_tokens_decoder")) << json;
  }
}

// Checked against transformers 4.57 and 5.24: only Llama's classes and those made from it heed the flag.
TEST_F(ModelDir, AddBosTokenGoesByTheClass) {
  std::filesystem::copy(std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/tokenizers/deepseek.json",
                        dir_ / "tokenizer.json");
  const auto prefix = [&](const std::string& tokenizer_class, const std::string& bos) {
    write("tokenizer_config.json", R"({"add_bos_token": true, "add_eos_token": true, "tokenizer_class": ")" +
                                       tokenizer_class + R"(", "bos_token": )" + bos + "}");
    const auto model = load_model_tokenizer(dir_);
    EXPECT_TRUE(model.ok()) << model.error().message;
    return model->tokenizer.encode("", true).value();
  };
  const std::string bos = "\"<｜begin▁of▁sentence｜>\"";
  for (const char* name : {"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizerFast", "GemmaTokenizer"}) {
    EXPECT_EQ(prefix(name, bos), (std::vector<int32_t>{0})) << name;
    EXPECT_EQ(prefix(name, "null"), (std::vector<int32_t>{})) << name;
  }
  for (const char* name : {"Qwen2Tokenizer", "PreTrainedTokenizerFast", "GPT2TokenizerFast", "TokenizersBackend"}) {
    EXPECT_EQ(prefix(name, bos), (std::vector<int32_t>{})) << name;
    EXPECT_EQ(prefix(name, "null"), (std::vector<int32_t>{})) << name;
  }
}

TEST_F(ModelDir, AddBosTokenIsApplied) {
  std::filesystem::copy(std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/tokenizers/deepseek.json",
                        dir_ / "tokenizer.json");
  write("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "<｜begin▁of▁sentence｜>"})");
  const auto model = load_model_tokenizer(dir_);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ(model->tokenizer.encode("", true).value(), (std::vector<int32_t>{0}));
  EXPECT_EQ(model->tokenizer.encode("", false).value(), (std::vector<int32_t>{}));
  write("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "<s>"})");
  EXPECT_THAT(load_model_tokenizer(dir_).error().message, testing::HasSubstr("add_bos_token wants \"<s>\""));
  // A file whose own template adds a token is left as it is.
  std::filesystem::copy(std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/tokenizers/options.json",
                        dir_ / "tokenizer.json", std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(load_model_tokenizer(dir_)->tokenizer.encode("", true).value().size(), 2u);
}

}  // namespace
}  // namespace baton::text
