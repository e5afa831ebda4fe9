// Expected prompts are those of transformers 5.24's render_jinja_template.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <string>

#include "text/chat_template.h"

namespace baton::text {
namespace {

constexpr const char* kPlain =
    "{% for m in messages %}<{{m.role}}>{{m.content}}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif "
    "%}";
constexpr const char* kTrim = "{% for m in messages %}<{{m.role}}>{{m.content | trim}}</s>{% endfor %}";
constexpr const char* kParts =
    "{% for m in messages %}{% if m.content is string %}{{m.content}}{% else %}{% for p in m.content %}[{{p.text}}]{% "
    "endfor %}{% endif %}</s>{% endfor %}";
constexpr const char* kUsersOnly = "{% for m in messages %}{% if m.role=='user' %}{{m.content}}{% endif %}{% endfor %}";
constexpr const char* kUpper = "{% for m in messages %}{{m.content|upper}}{% endfor %}";

boost::json::array conversation(std::string_view last_content) {
  return boost::json::parse(R"([{"role":"user","content":"Hi"},{"role":"assistant","content":)" +
                            std::string(last_content) + "}]")
      .as_array();
}

Result<std::string> continued(const char* source, boost::json::array messages) {
  BATON_ASSIGN(const ChatTemplate parsed, ChatTemplate::parse(source));
  ChatInput input;
  input.messages = std::move(messages);
  input.add_generation_prompt = false;
  input.continue_final_message = true;
  return parsed.render_chat(std::move(input));
}

TEST(ContinueFinalMessage, ThePromptEndsWithItsContent) {
  struct Case {
    const char* source;
    const char* content;
    const char* prompt;
  };
  const Case cases[] = {
      {kPlain, R"("Sure,")", "<user>Hi</s><assistant>Sure,"},
      {kPlain, R"("Sure, ")", "<user>Hi</s><assistant>Sure, "},
      {kPlain, R"("")", "<user>Hi</s><assistant>"},
      {kTrim, R"("Sure,")", "<user>Hi</s><assistant>Sure,"},
      {kTrim, R"("Sure, ")", "<user>Hi</s><assistant>Sure,"},
      {kTrim, R"("")", "<user>Hi</s><assistant>"},
      {kParts, R"([{"type":"text","text":"x"},{"type":"text","text":"y "}])", "Hi</s>[x][y "},
  };
  for (const Case& test : cases) {
    const auto prompt = continued(test.source, conversation(test.content));
    ASSERT_TRUE(prompt.ok()) << prompt.error().message;
    EXPECT_EQ(*prompt, test.prompt) << test.source << test.content;
  }
}

TEST(ContinueFinalMessage, WhatDoesNotShowInThePromptIsRefused) {
  const std::pair<const char*, const char*> cases[] = {{kUsersOnly, R"("Sure,")"},
                                                       {kUpper, R"("Sure,")"},
                                                       {kPlain, "null"},
                                                       {kPlain, "[]"},
                                                       {kPlain, R"([{"image":1}])"}};
  for (const auto& [source, content] : cases) {
    const auto prompt = continued(source, conversation(content));
    ASSERT_FALSE(prompt.ok()) << *prompt;
    EXPECT_EQ(prompt.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(prompt.error().message, testing::HasSubstr("continue_final_message"));
  }
  EXPECT_FALSE(continued(kPlain, {}).ok());
}

TEST(ContinueFinalMessage, WithoutItNothingIsCutOff) {
  ChatInput input;
  input.messages = conversation(R"("Sure,")");
  const auto prompt = ChatTemplate::parse(kPlain)->render_chat(std::move(input));
  EXPECT_EQ(*prompt, "<user>Hi</s><assistant>Sure,</s><assistant>");
}

TEST(TakeFinalAssistant, AsSglang) {
  struct Case {
    const char* messages;
    bool continues;
    const char* taken;  // or nullptr
    const char* left;
  };
  constexpr const char* kUserLast = R"([{"role":"user","content":"Hi"}])";
  constexpr const char* kTextLast = R"([{"role":"user","content":"Hi"},{"role":"assistant","content":"So "}])";
  constexpr const char* kPartsLast = R"([{"role":"assistant","content":[{"type":"text","text":"So"}]}])";
  const Case cases[] = {
      {kUserLast, true, nullptr, kUserLast},
      {kTextLast, true, "So ", kUserLast},
      {kTextLast, false, nullptr, R"([{"role":"user","content":"Hi"},{"role":"user","content":"So "}])"},
      {kPartsLast, true, nullptr, kPartsLast},
      {kPartsLast, false, nullptr, kPartsLast},
      {R"([{"role":"assistant","content":null,"tool_calls":[]}])", false, nullptr, R"([{"role":"user","content":""}])"},
      {"[]", true, nullptr, "[]"},
  };
  for (const Case& test : cases) {
    boost::json::array messages = boost::json::parse(test.messages).as_array();
    const auto taken = take_final_assistant(messages, test.continues);
    EXPECT_EQ(taken.value_or("none"), test.taken == nullptr ? "none" : test.taken) << test.messages;
    EXPECT_EQ(boost::json::serialize(messages), boost::json::serialize(boost::json::parse(test.left)));
  }
}

}  // namespace
}  // namespace baton::text
