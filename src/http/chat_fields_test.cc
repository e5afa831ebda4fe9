// From the messages of a chat to its prompt: the last message, templates and what they are given.
#include "http/chat_fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "http/test_support.h"

namespace baton::http {
namespace {

using ::testing::StartsWith;

// ChatML in small: every message is closed, and the generation prompt opens one.
std::unique_ptr<ModelText> chat_model(const char* source = nullptr) {
  auto model = byte_model(256);
  model->chat_template = text::ChatTemplate::parse(
                             source != nullptr ? source
                                               : "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}"
                                                 "{% if add_generation_prompt %}[assistant]{% endif %}")
                             .value();
  return model;
}

Result<ApiRequest> chat(const ModelText& model, const std::string& fields) {
  return parse_api_request(ApiKind::kChat, "{" + fields + "}", model, engine::Role::kUnified);
}
// The prompt as text.
std::string prompt_of(const ModelText& model, const std::string& fields) {
  const auto request = chat(model, fields);
  if (!request) return "400 " + request.error().message;
  return model.tokenizer->decode(request->choices[0].engine.prompt, false);
}
const std::string kTwo = R"("messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"well"}])";

TEST(ChatFields, TheLastMessageOfAnAssistant) {
  const auto model = chat_model();
  // SGLang's way: without the field it is the user's.
  EXPECT_EQ(prompt_of(*model, kTwo), "[user]hi[/][user]well[/][assistant]");
  EXPECT_EQ(prompt_of(*model, kTwo + R"(,"continue_final_message":true)"), "[user]hi[/][assistant]well");
  // vLLM's clients switch the generation prompt off beside it, and alone to have the messages as they stand.
  EXPECT_EQ(prompt_of(*model, kTwo + R"(,"continue_final_message":true,"add_generation_prompt":false)"),
            "[user]hi[/][assistant]well");
  EXPECT_EQ(prompt_of(*model, kTwo + R"(,"add_generation_prompt":false)"), "[user]hi[/][assistant]well[/]");
  EXPECT_EQ(prompt_of(*model, kTwo + R"(,"add_generation_prompt":true)"), "[user]hi[/][assistant]well[/][assistant]");
  EXPECT_THAT(prompt_of(*model, kTwo + R"(,"continue_final_message":true,"add_generation_prompt":true)"),
              StartsWith("400 continue_final_message: "));
  // Parts are one text, and another's message goes on where it ends.
  EXPECT_EQ(prompt_of(*model, R"("continue_final_message":true,"messages":[{"role":"assistant","content":)"
                              R"([{"type":"text","text":"a"},{"type":"text","text":"b"}]}])"),
            "[assistant]a b");
  EXPECT_EQ(prompt_of(*model, R"("continue_final_message":true,"messages":[{"role":"user","content":"a"}])"),
            "[user]a");
}

TEST(ChatFields, EchoIsTheLastMessageOfWhoAnswers) {
  const auto model = chat_model();
  const auto echo_of = [&](const std::string& fields) {
    const auto request = chat(*model, fields);
    return request->echo_of(0) == nullptr ? std::string() : request->echo_of(0)->text;
  };
  EXPECT_EQ(echo_of(kTwo + R"(,"echo":true,"continue_final_message":true,"add_generation_prompt":false)"), "well");
  EXPECT_EQ(echo_of(kTwo + R"(,"echo":false)"), "");
  EXPECT_EQ(echo_of(kTwo), "");
  const std::string user = R"("messages":[{"role":"user","content":"hi"}],"echo":true)";
  EXPECT_EQ(echo_of(user), "");
  EXPECT_EQ(echo_of(user + R"(,"add_generation_prompt":false)"), "hi");  // the user's turn goes on
}

TEST(ChatFields, ARequestsOwnTemplateNeedsTrust) {
  auto model = chat_model();
  const std::string own = kTwo + R"(,"chat_template":"<{{ messages|length }}>")";
  const std::string inside = kTwo + R"(,"chat_template_kwargs":{"chat_template":"<{{ messages|length }}>"})";
  EXPECT_THAT(prompt_of(*model, own), StartsWith("400 chat_template: "));
  EXPECT_THAT(prompt_of(*model, inside), StartsWith("400 chat_template: "));
  model->trust_request_chat_template = true;
  EXPECT_EQ(prompt_of(*model, own), "<2>");
  EXPECT_EQ(prompt_of(*model, inside), "<2>");
  EXPECT_THAT(prompt_of(*model, kTwo + R"(,"chat_template":"{% if %}")"), StartsWith("400 chat_template: "));
  EXPECT_THAT(prompt_of(*model, kTwo + ",\"chat_template\":\"" + std::string((256 << 10) + 1, 'x') + "\""),
              StartsWith("400 chat_template: 262145 bytes"));
  // It stands in for one that is missing.
  model->chat_template.reset();
  EXPECT_EQ(prompt_of(*model, own), "<2>");
  EXPECT_THAT(prompt_of(*model, kTwo), StartsWith("400 the model has no chat template"));
}

TEST(ChatFields, WhatTemplatesAreGiven) {
  const auto model = chat_model(
      "{{ documents[0].title if documents else '-' }} {{ thinking|default('?') }} {{ enable_thinking|default('?') }} "
      "{{ reasoning_effort|default('?') }}");
  const std::string user = R"("messages":[{"role":"user","content":"hi"}])";
  EXPECT_EQ(prompt_of(*model, user), "- ? ? ?");
  EXPECT_EQ(prompt_of(*model, user + R"(,"documents":[{"title":"T"}])"), "T ? ? ?");
  EXPECT_EQ(prompt_of(*model, user + R"(,"reasoning_effort":"none")"), "- False False none");
  EXPECT_EQ(prompt_of(*model, user + R"(,"reasoning_effort":"high")"), "- True True high");
  EXPECT_EQ(prompt_of(*model, user + R"(,"reasoning":{"effort":"low"})"), "- True True low");
  EXPECT_EQ(prompt_of(*model, user + R"(,"reasoning":{"enabled":true})"), "- True True ?");
  EXPECT_EQ(prompt_of(*model, user + R"(,"reasoning_effort":0.5,"chat_template_kwargs":{"thinking":false})"),
            "- False True 0.5");
  for (const char* bad : {"\"most\"", "1.5", "-0.1", "true"})
    EXPECT_THAT(prompt_of(*model, user + ",\"reasoning_effort\":" + bad), StartsWith("400 reasoning_effort: ")) << bad;
}

TEST(ChatFields, IdsStandForTheTemplate) {
  const auto model = chat_model();
  EXPECT_EQ(prompt_of(*model, kTwo + R"(,"input_ids":[65,66])"), "AB");
  EXPECT_THAT(prompt_of(*model, kTwo + R"(,"input_ids":[258])"), StartsWith("400 input_ids: "));
  EXPECT_THAT(prompt_of(*model, R"("input_ids":[65])"), StartsWith("400 messages: "));
}

TEST(ChatFields, IdsThatPrefillMadeStandForTheMessages) {
  const auto model = chat_model();
  const auto prompt = [&](const std::string& params) {
    return prompt_of(*model, kTwo + R"(,"kv_transfer_params":)" + params);
  };
  EXPECT_EQ(prompt(R"({"prompt_token_ids":[65,66],"do_remote_decode":false})"), "AB");
  EXPECT_EQ(prompt(R"({"prompt_token_ids":null})"), prompt_of(*model, kTwo));
  EXPECT_EQ(prompt("{}"), prompt_of(*model, kTwo));
  EXPECT_THAT(prompt(R"({"prompt_token_ids":[258]})"), StartsWith("400 kv_transfer_params.prompt_token_ids: "));
  EXPECT_THAT(prompt(R"({"prompt_token_ids":"ab"})"), StartsWith("400 kv_transfer_params.prompt_token_ids: "));
  EXPECT_THAT(prompt(R"({"prompt_token_ids":[65],"do_remote_prefill":true})"),
              StartsWith("400 kv_transfer_params: do_remote_prefill: "));
  EXPECT_THAT(prompt("[65]"), StartsWith("400 kv_transfer_params: "));
  EXPECT_THAT(
      prompt_of(*model, R"("messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}],)"
                        R"("kv_transfer_params":{"prompt_token_ids":[65]})"),
      StartsWith("400 "));
}

TEST(ChatFields, ACallThatIsRequiredNeedsTools) {
  const auto model = chat_model();
  const std::string user = R"("messages":[{"role":"user","content":"hi"}])";
  for (const char* choice : {"\"required\"", R"({"type":"function","function":{"name":"f"}})", "\"sometimes\"", "7"}) {
    for (const char* tools : {"", R"(,"tools":[])", R"(,"tools":null)"})
      EXPECT_THAT(prompt_of(*model, user + ",\"tool_choice\":" + choice + tools), StartsWith("400 tool_choice: "))
          << choice << tools;
  }
  for (const char* choice : {"\"none\"", "\"auto\"", "null"})
    EXPECT_EQ(prompt_of(*model, user + ",\"tool_choice\":" + choice), "[user]hi[/][assistant]") << choice;
}

TEST(ChatFields, SpecialTokensAreAddedWhereTheyAreAskedFor) {
  auto model = chat_model();
  const std::vector<int32_t> bos = {kTestBos};
  model->tokenizer = std::move(*model->tokenizer).with_special_tokens_around(bos, {});
  const std::string user = R"("messages":[{"role":"user","content":"hi"}])";
  EXPECT_EQ(prompt_of(*model, user), "[user]hi[/][assistant]");
  EXPECT_EQ(prompt_of(*model, user + R"(,"add_special_tokens":true)"), "<s>[user]hi[/][assistant]");
}

}  // namespace
}  // namespace baton::http
