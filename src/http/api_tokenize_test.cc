// /tokenize, /detokenize and /tokenizer_info as clients of SGLang and vLLM know them, without a socket.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>

#include "base/test_dir.h"
#include "http/api_server.h"
#include "http/model_text.h"
#include "http/test_support.h"

namespace baton::http {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;

class Tokenize : public testing::Test {
 protected:
  void SetUp() override {
    model_ = byte_model();
    model_->chat_template = text::ChatTemplate::parse(
                                "{{ tools | length if tools }}{% for m in messages %}{{ m.role }}:{{ m.content }};"
                                "{% endfor %}{% if add_generation_prompt %}>{% endif %}{{ extra }}")
                                .value();
    server_.set_ready(engine_, *model_, metrics_);
  }

  KeptAnswer ask(const std::string& path, std::string body) {
    KeptAnswer answer;
    HttpRequest request;
    request.method = body.empty() ? "GET" : "POST";
    request.path = path;
    request.body = std::move(body);
    server_.handle(std::move(request), std::make_shared<KeepingWriter>(answer));
    return answer;
  }
  json::value reply(const std::string& path, const std::string& body = "") {
    const KeptAnswer answer = ask(path, body);
    EXPECT_EQ(answer.status, 200) << answer.body;
    return json::parse(answer.body);
  }
  // The text that the messages became: tokens are bytes here.
  std::string prompt_of(const std::string& body) {
    const json::value answer = reply("/tokenize", body);
    std::string text;
    for (const json::value& id : answer.at("tokens").as_array()) text += static_cast<char>(id.to_number<int>());
    EXPECT_EQ(answer.at("count"), text.size());
    return text;
  }

  std::unique_ptr<ModelText> model_;
  PlayedEngine engine_;
  Metrics metrics_{{"tiny", engine::Role::kUnified, true}};
  ApiServer server_{ApiServer::Options{"", "1.2.3"}};
};

TEST_F(Tokenize, APrompt) {
  EXPECT_EQ(reply("/tokenize", R"({"prompt":"a<s>","add_special_tokens":null})"),
            json::parse(R"({"tokens":[97,256],"count":2,"max_model_len":64,"token_strs":null})"));
  EXPECT_EQ(reply("/v1/tokenize", R"({"text":"b "})").at("tokens"), json::parse("[98,32]"));
  EXPECT_EQ(reply("/tokenize", R"({"prompt":""})").at("count"), 0);
}

TEST_F(Tokenize, TokensAsTheFileSpellsThem) {
  EXPECT_EQ(reply("/tokenize", R"({"prompt":"a b<s>","return_token_strs":true})").at("token_strs"),
            json::parse(R"(["a","Ġ","b","<s>"])"));
}

TEST_F(Tokenize, AListOfPrompts) {
  EXPECT_EQ(reply("/tokenize", R"({"prompt":["ab","","c"],"return_token_strs":true})"),
            json::parse(R"({"tokens":[[97,98],[],[99]],"count":[2,0,1],"max_model_len":64,)"
                        R"("token_strs":[["a","b"],[],["c"]]})"));
  EXPECT_EQ(reply("/tokenize", R"({"prompt":[]})").at("tokens"), json::array());
}

TEST_F(Tokenize, Messages) {
  const std::string user = R"("messages":[{"role":"user","content":"Hi"}])";
  const std::string both = R"("messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"So"}])";
  EXPECT_EQ(prompt_of("{" + user + "}"), "user:Hi;>");
  EXPECT_EQ(prompt_of("{" + user + R"(,"add_generation_prompt":false})"), "user:Hi;");
  EXPECT_EQ(prompt_of("{" + user + R"(,"tools":[{"type":"function","function":{"name":"f"}}]})"), "1user:Hi;>");
  EXPECT_EQ(prompt_of("{" + user + R"(,"chat_template_kwargs":{"extra":"!"}})"), "user:Hi;>!");
  // As vLLM, whose requests say add_generation_prompt.
  EXPECT_EQ(prompt_of("{" + both + R"(,"add_generation_prompt":false})"), "user:Hi;assistant:So;");
  EXPECT_EQ(prompt_of("{" + both + R"(,"add_generation_prompt":false,"continue_final_message":true})"),
            "user:Hi;assistant:So");
  // As SGLang.
  EXPECT_EQ(prompt_of("{" + both + "}"), "user:Hi;user:So;>");
  EXPECT_EQ(prompt_of("{" + both + R"(,"continue_final_message":true})"), "user:Hi;>So");
  EXPECT_EQ(prompt_of("{" + user + R"(,"continue_final_message":true})"), "user:Hi");
}

TEST_F(Tokenize, RefusalsNameTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {"{}", "prompt"},
      {R"({"prompt":7})", "prompt"},
      {R"({"prompt":["a",7]})", "prompt"},
      {R"({"prompt":"a","messages":[]})", "prompt"},
      {R"({"messages":[]})", "messages"},
      {R"({"messages":"a"})", "messages"},
      {R"({"prompt":"a","add_special_tokens":"x"})", "add_special_tokens"},
      {R"({"prompt":"a","return_token_strs":"x"})", "return_token_strs"},
      {R"({"messages":[{"role":"user","content":"a"}],"tools":{}})", "tools"},
      {R"({"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":[]})", "chat_template_kwargs"},
      {R"({"messages":[{"role":"user","content":"a"}],"add_generation_prompt":true,"continue_final_message":true})",
       "continue_final_message"},
  };
  for (const auto& [body, field] : cases) {
    const KeptAnswer answer = ask("/tokenize", body);
    EXPECT_EQ(answer.status, 400) << body;
    EXPECT_THAT(answer.body, HasSubstr(field)) << body;
  }
}

TEST_F(Tokenize, AndBack) {
  // vLLM's clients name the model and count on nothing else in the answer.
  EXPECT_EQ(reply("/detokenize", R"({"model":"tiny","tokens":[97,256]})"), json::parse(R"({"prompt":"a<s>"})"));
  EXPECT_EQ(reply("/detokenize", R"({"tokens":[97,256]})"), json::parse(R"({"prompt":"a<s>","text":"a"})"));
  EXPECT_EQ(reply("/detokenize", R"({"model":"tiny","tokens":[97,256],"skip_special_tokens":true})").at("text"), "a");
  EXPECT_EQ(reply("/detokenize", R"({"tokens":[97,256],"skip_special_tokens":false})").at("text"), "a<s>");
  EXPECT_EQ(reply("/v1/detokenize", R"({"model":"tiny","tokens":[97,256]})").at("text"), "a");
  EXPECT_EQ(reply("/detokenize", R"({"model":"tiny","tokens":[[97],[],[98,99]]})").at("text"),
            json::parse(R"(["a","","bc"])"));
  EXPECT_EQ(reply("/detokenize", R"({"tokens":[]})").at("text"), "");
  for (const char* body : {R"({"tokens":[258]})", R"({"tokens":[-1]})", R"({"tokens":"a"})", R"({"tokens":[1,"a"]})",
                           R"({"tokens":[[1],2]})", "{}", R"({"tokens":[1],"skip_special_tokens":"x"})"}) {
    EXPECT_EQ(ask("/detokenize", body).status, 400) << body;
  }
}

TEST_F(Tokenize, WithoutATokenizer) {
  model_->tokenizer.reset();
  EXPECT_EQ(ask("/tokenize", R"({"prompt":"a"})").status, 501);
  EXPECT_EQ(ask("/detokenize", R"({"tokens":[1]})").status, 501);
}

TEST_F(Tokenize, TokenizerInfo) {
  const TempDir temp;
  const std::string directory = temp.path("model");
  std::filesystem::copy(BATON_SOURCE_DIR "/models/tiny-gqa", directory);
  const auto info_of = [&](const std::string& config) {
    std::ofstream(directory + "/tokenizer_config.json") << config;
    ModelTextOptions options;
    options.model_path = directory;
    model_ = load_model_text(options).value();
    server_.set_ready(engine_, *model_, metrics_);
    return ask("/tokenizer_info", "").body;
  };
  const json::value info = json::parse(info_of(
      R"({"tokenizer_class":"LlamaTokenizer","unk_token":{"__type":"AddedToken","content":"<unk>"},)"
      R"("additional_special_tokens":["<a>",{"content":"<b>"}],"added_tokens_decoder":{"0":{"content":"<s>","special":true}},)"
      R"("model_max_length":4096,"add_bos_token":false,"name_or_path":"elsewhere"})"));
  EXPECT_EQ(info.at("tokenizer_class"), "LlamaTokenizer");
  EXPECT_EQ(info.at("unk_token"), "<unk>");
  EXPECT_EQ(info.at("additional_special_tokens"), json::parse(R"(["<a>","<b>"])"));
  EXPECT_EQ(info.at("added_tokens_decoder").at("0").at("content"), "<s>");
  EXPECT_EQ(info.at("model_max_length"), 4096);
  EXPECT_EQ(info.at("name_or_path").as_string(), directory);
  for (const char* config :
       {R"({"model_max_length":1e30})", R"({"model_max_length":1000000000000000019884624838656})", "{}"}) {
    const std::string text = info_of(config);
    EXPECT_THAT(text, HasSubstr(R"("model_max_length":1000000000000000019884624838656})")) << config;
    EXPECT_EQ(json::parse(text).at("tokenizer_class"), "PreTrainedTokenizerFast");
  }
}

}  // namespace
}  // namespace baton::http
