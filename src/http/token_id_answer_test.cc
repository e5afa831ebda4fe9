// Ids and the prompt's logprobs in answers, whole and streamed.
#include "http/token_id_answer.h"

#include <gtest/gtest.h>

#include "http/generation.h"
#include "http/test_support.h"

namespace baton::http {

using engine::FinishReason;

namespace {

namespace json = boost::json;

// Plays "xy" as the answer of each sequence of a call.
std::string answer_of(ApiKind kind, const std::string& fields, ModelText* other = nullptr,
                      const std::vector<engine::PromptLogprob>& scored = {}, int cached = 0) {
  const auto own = byte_model(4096);
  ModelText& model = other != nullptr ? *other : *own;
  const std::string prompt = kind == ApiKind::kChat         ? R"("messages":[{"role":"user","content":"p"}],)"
                             : kind == ApiKind::kCompletion ? R"("prompt":"pq",)"
                                                            : R"("text":"pq",)";
  auto parsed = parse_api_request(kind, "{" + prompt + fields + "}", model, engine::Role::kUnified);
  BATON_CHECK(parsed.ok(), "{}", parsed.error().message);
  PlayedEngine played;
  Metrics metrics{{"tiny", engine::Role::kUnified, true}};
  KeptAnswer answer;
  const size_t sequences = parsed->choices.size();
  start_generation(std::move(*parsed), model, played, metrics, std::make_shared<KeepingWriter>(answer), {});
  for (size_t i = 0; i < sequences; ++i) {
    engine::Output output;
    output.tokens.push_back({'x', -0.5F, {}});
    output.prompt_logprobs = scored;
    played.sinks.at(i)(std::move(output));
    engine::Output last;
    last.tokens.push_back({'y', -0.5F, {}});
    last.cached_tokens = cached;
    last.finish = finished(FinishReason::kLength);
    const engine::OutputSink sink = played.sinks.extract(i).mapped();
    sink(std::move(last));
  }
  return answer.body;
}
json::value whole(ApiKind kind, const std::string& fields) { return json::parse(answer_of(kind, fields)); }
std::vector<json::value> events(ApiKind kind, const std::string& fields, int cached = 0) {
  const std::string body = answer_of(kind, fields + R"(,"stream":true)", nullptr, {}, cached);
  std::vector<json::value> all;
  for (size_t at = 0; at < body.size();) {
    const size_t end = body.find("\n\n", at);
    const std::string event = body.substr(at + 6, end - at - 6);
    if (event != "[DONE]") all.push_back(json::parse(event));
    at = end + 2;
  }
  return all;
}
const json::value* at(const json::value& value, const char* pointer) {
  boost::system::error_code none;
  return value.find_pointer(pointer, none);
}

TEST(TokenIdAnswer, Completions) {
  const json::value asked = whole(ApiKind::kCompletion, R"("return_token_ids":true)");
  EXPECT_EQ(*at(asked, "/choices/0/token_ids"), json::array({'x', 'y'}));
  EXPECT_EQ(*at(asked, "/choices/0/prompt_token_ids"), json::array({'p', 'q'}));
  // vLLM's clients look at the members of answers that did not ask for them.
  const json::value plain = whole(ApiKind::kCompletion, R"("n":1)");
  for (const char* name : {"token_ids", "prompt_token_ids", "prompt_logprobs", "stop_reason"})
    EXPECT_TRUE(at(plain, (std::string("/choices/0/") + name).c_str())->is_null()) << name;
  const std::vector<json::value> chunks = events(ApiKind::kCompletion, R"("return_token_ids":true)");
  ASSERT_EQ(chunks.size(), 2U);
  EXPECT_EQ(*at(chunks[0], "/choices/0/prompt_token_ids"), json::array({'p', 'q'}));
  EXPECT_EQ(*at(chunks[0], "/choices/0/token_ids"), json::array({'x'}));
  EXPECT_EQ(at(chunks[1], "/choices/0/prompt_token_ids"), nullptr);
  EXPECT_EQ(*at(chunks[1], "/choices/0/token_ids"), json::array({'y'}));
}

TEST(TokenIdAnswer, WhereCachedTokensCameFrom) {
  const std::string asked = R"("return_cached_tokens_details":true)";
  const json::value details = json::parse(R"({"cached_tokens_details":{"device":3,"host":0}})");
  for (const ApiKind kind : {ApiKind::kCompletion, ApiKind::kChat}) {
    EXPECT_EQ(*at(json::parse(answer_of(kind, asked, nullptr, {}, 3)), "/sglext"), details);
    EXPECT_EQ(at(json::parse(answer_of(kind, R"("n":1)", nullptr, {}, 3)), "/sglext"), nullptr);
    EXPECT_EQ(at(whole(kind, asked), "/sglext"), nullptr);
    const std::vector<json::value> chunks = events(kind, asked, 3);
    ASSERT_EQ(chunks.size(), 2U);
    EXPECT_EQ(at(chunks[0], "/sglext"), nullptr);
    EXPECT_EQ(*at(chunks[1], "/sglext"), details);
    EXPECT_FALSE(chunks[1].at("choices").as_array().empty());
  }
}

TEST(TokenIdAnswer, Chats) {
  const json::array prompt = {'u', 's', 'e', 'r', ':', 'p', '\n', kTestBos};
  const json::value asked = whole(ApiKind::kChat, R"("return_token_ids":true,"n":2)");
  EXPECT_EQ(*at(asked, "/prompt_token_ids"), prompt);
  EXPECT_EQ(*at(asked, "/choices/1/token_ids"), json::array({'x', 'y'}));
  // SGLang's name has the prompt's in the choice.
  EXPECT_EQ(*at(whole(ApiKind::kChat, R"("return_prompt_token_ids":true)"), "/choices/0/prompt_token_ids"), prompt);
  const json::value plain = whole(ApiKind::kChat, R"("n":1)");
  EXPECT_TRUE(at(plain, "/prompt_token_ids")->is_null());
  EXPECT_TRUE(at(plain, "/prompt_logprobs")->is_null());
  EXPECT_TRUE(at(plain, "/choices/0/token_ids")->is_null());
  EXPECT_EQ(at(plain, "/choices/0/prompt_token_ids"), nullptr);
  const std::vector<json::value> chunks = events(ApiKind::kChat, R"("return_token_ids":true)");
  EXPECT_EQ(*at(chunks[0], "/prompt_token_ids"), prompt);
  EXPECT_EQ(at(chunks[1], "/prompt_token_ids"), nullptr);
}

TEST(TokenIdAnswer, Generate) {
  EXPECT_EQ(*at(whole(ApiKind::kGenerate, R"("return_prompt_token_ids":true)"), "/prompt_token_ids"),
            json::array({'p', 'q'}));
  EXPECT_EQ(at(whole(ApiKind::kGenerate, R"("rid":"r")"), "/prompt_token_ids"), nullptr);
}

TEST(TokenIdAnswer, PromptLogprobs) {
  const std::vector<engine::PromptLogprob> scored = {
      {'p', std::nullopt, {}}, {'q', -2.0F, {{'a', -0.5F}, {'q', -2.0F}}}, {'r', -3.0F, {{'a', -0.5F}, {'b', -1.0F}}}};
  const char* expected =
      R"([null,{"113":{"logprob":-2,"rank":2,"decoded_token":"q"},"97":{"logprob":-0.5,"rank":1,"decoded_token":"a"}},)"
      R"({"114":{"logprob":-3,"rank":null,"decoded_token":"r"},"97":{"logprob":-0.5,"rank":1,"decoded_token":"a"},)"
      R"("98":{"logprob":-1,"rank":2,"decoded_token":"b"}}])";
  const std::string fields = R"("prompt_logprobs":2)";
  EXPECT_EQ(*at(json::parse(answer_of(ApiKind::kCompletion, fields, nullptr, scored)), "/choices/0/prompt_logprobs"),
            json::parse(expected));
  const json::value chat = json::parse(answer_of(ApiKind::kChat, fields, nullptr, scored));
  EXPECT_EQ(*at(chat, "/prompt_logprobs"), json::parse(expected));
  EXPECT_TRUE(at(chat, "/choices/0/logprobs")->is_null());
}

TEST(TokenIdAnswer, LogprobsMayNameTokensByTheirIds) {
  const std::string fields = R"("return_tokens_as_token_ids":true,"logprobs":)";
  EXPECT_EQ(*at(whole(ApiKind::kCompletion, fields + "0"), "/choices/0/logprobs/tokens"),
            (json::array{"token_id:120", "token_id:121"}));
  const json::value chat = whole(ApiKind::kChat, fields + "true");
  EXPECT_EQ(*at(chat, "/choices/0/logprobs/content/0/token"), "token_id:120");
  EXPECT_EQ(at(chat, "/choices/0/logprobs/content/0/bytes")->as_array().size(), 12U);
  EXPECT_EQ(*at(whole(ApiKind::kCompletion, R"("logprobs":0)"), "/choices/0/logprobs/tokens"), (json::array{"x", "y"}));
}

TEST(TokenIdAnswer, TheFingerprintStandsInEveryAnswer) {
  const auto model = byte_model(4096);
  model->fingerprint = "fp_1";
  for (const ApiKind kind : {ApiKind::kCompletion, ApiKind::kChat}) {
    EXPECT_EQ(*at(json::parse(answer_of(kind, R"("n":1)", model.get())), "/system_fingerprint"), "fp_1");
    EXPECT_NE(answer_of(kind, R"("stream":true)", model.get()).find(R"("system_fingerprint":"fp_1")"),
              std::string::npos);
  }
}

TEST(TokenIdAnswer, AChatIsEchoedInFront) {
  const std::string fields =
      R"("messages":[{"role":"assistant","content":"So "}],"echo":true,"continue_final_message":true)";
  const json::value answer = whole(ApiKind::kChat, fields);
  EXPECT_EQ(*at(answer, "/choices/0/message/content"), "So xy");
  const std::vector<json::value> chunks = events(ApiKind::kChat, fields);
  EXPECT_EQ(*at(chunks[0], "/choices/0/delta/content"), "So x");
  EXPECT_EQ(*at(chunks[1], "/choices/0/delta/content"), "y");
}

}  // namespace
}  // namespace baton::http
