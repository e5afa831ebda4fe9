#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace baton::text {
namespace {

using testing::HasSubstr;

Result<std::string> render(std::string source, const std::string& context = "{}",
                           const jinja::RenderLimits& limits = {}) {
  BATON_ASSIGN(ChatTemplate parsed, ChatTemplate::parse(std::move(source)));
  return parsed.render(boost::json::parse(context).as_object(), limits);
}

std::string failure(std::string source, const std::string& context = "{}", const jinja::RenderLimits& limits = {}) {
  const auto result = render(std::move(source), context, limits);
  if (result.ok()) return "rendered: " + *result;
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
  return result.error().message;
}

ChatTemplate load(const std::string& name) {
  std::ifstream file(BATON_SOURCE_DIR "/tests/fixtures/chat_templates/" + name + ".jinja");
  auto parsed =
      ChatTemplate::parse(std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>()));
  EXPECT_TRUE(parsed.ok() && !parsed->source().empty()) << name;
  return *parsed;
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_THAT(failure("a\nb\n{{ 'x' + 1 }}"), HasSubstr("line 3: unsupported operand type(s) for +: 'str' and 'int'"));
  EXPECT_THAT(failure("{% if true %}\n\n{{ nope.x }}{% endif %}"), HasSubstr("line 3: 'nope' is undefined"));
  EXPECT_THAT(failure("\n{{ d.a.b }}", R"({"d": {}})"), HasSubstr("line 2: 'dict object' has no attribute 'a'"));
  EXPECT_THAT(failure("{{ raise_exception('no tools here') }}"), HasSubstr("line 1: no tools here"));
  EXPECT_THAT(failure("{% macro m(x) %}\n{{ x.y.z }}\n{% endmacro %}\n{{ m({}) }}"), HasSubstr("line 2: "));
  EXPECT_THAT(failure("\n\n{% if x %}"), HasSubstr("'endif' is missing for the block of line 3"));
  EXPECT_THAT(failure("\n{{ x | nope }}"), HasSubstr("line 2: No filter named 'nope'"));
  EXPECT_THAT(failure("{{ [].append(1) }}"), HasSubstr("access to attribute 'append' of 'list' object is unsafe"));
  EXPECT_THAT(failure("ok \xff"), HasSubstr("not valid UTF-8"));
}

TEST(ChatTemplate, BoundsTheOutput) {
  jinja::RenderLimits limits;
  limits.output_bytes_max = 100;
  EXPECT_EQ(render("{{ 'x' * 100 }}", "{}", limits)->size(), 100U);
  EXPECT_THAT(failure("{{ 'x' * 101 }}", "{}", limits), HasSubstr("at most 100"));
  EXPECT_THAT(failure("{% for i in range(101) %}x{% endfor %}", "{}", limits), HasSubstr("more than 100 bytes"));
  EXPECT_THAT(failure("{% set x %}{% for i in range(101) %}x{% endfor %}{% endset %}", "{}", limits),
              HasSubstr("100 bytes"));
  EXPECT_THAT(failure("{{ 'ab' * 40 ~ 'ab' * 40 }}", "{}", limits), HasSubstr("160 bytes"));
  EXPECT_THAT(failure("{{ ('a' * 50)|replace('a', 'abc') }}", "{}", limits), HasSubstr("at most 100"));
  EXPECT_THAT(failure("{{ ['a' * 60, 'b' * 60]|join }}", "{}", limits), HasSubstr("at most 100"));
  EXPECT_THAT(failure("{{ [1] * 10000000000 }}"), HasSubstr("too large"));
}

TEST(ChatTemplate, BoundsTheWork) {
  const std::string loops = "{% for i in range(5000) %}{% for j in range(5000) %}{% endfor %}{% endfor %}";
  EXPECT_THAT(failure(loops), HasSubstr("more than 268435456 bytes"));
  // Reading or copying a large text counts as many steps: each of these runs for well under a second.
  jinja::RenderLimits small;
  small.steps_max = 100'000;
  for (const char* body :
       {"{% set y = x ~ i %}", "{{ x|length }}", "{{ x.find('b') }}", "{{ x[5] }}", "{{ x[1:2] }}", "{{ 'b' in x }}",
        "{{ x == x }}", "{{ x|lower }}", "{% for c in x %}{% endfor %}", "{{ x|trim|length }}"}) {
    const std::string source =
        "{% set x = 'a' * 1000000 %}{% for i in range(100000) %}" + std::string(body) + "{% endfor %}";
    EXPECT_THAT(failure(source, "{}", small), HasSubstr("100000 steps")) << body;
  }
  EXPECT_THAT(failure("{{ range(100001) }}"), HasSubstr("at most 100000"));
  EXPECT_THAT(failure("{{ range(-170141183460469231731687303715884105727, 170141183460469231731687303715884105727) }}"),
              HasSubstr("overflow"));
  jinja::RenderLimits limits;
  limits.steps_max = 1000;
  EXPECT_TRUE(render("{% for i in range(100) %}{{ i }}{% endfor %}", "{}", limits).ok());
  EXPECT_THAT(failure("{% for i in range(1000) %}{{ i }}{% endfor %}", "{}", limits), HasSubstr("1000 steps"));
}

TEST(ChatTemplate, BoundsTheDepth) {
  EXPECT_THAT(failure("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("recursion depth"));
  EXPECT_THAT(failure("{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}"),
              HasSubstr("nested deeper than 200"));
  EXPECT_THAT(
      failure(
          "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = {'a': ns.x}.items() %}{% endfor %}"),
      HasSubstr("nested deeper than 200"));
  EXPECT_THAT(failure("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}"),
              HasSubstr("namespaces are nested deeper"));
  EXPECT_TRUE(
      render("{% set ns = namespace() %}{% for i in range(20000) %}{% set n2 = namespace(x=ns.x) %}{% set ns.x = n2 %}"
             "{% endfor %}ok")
          .ok());
  EXPECT_THAT(failure("{{ " + std::string(1000, '(') + "1" + std::string(1000, ')') + " }}"),
              HasSubstr("nested deeper"));
  EXPECT_THAT(failure("{{ " + std::string(100000, '-') + "1 }}"), HasSubstr("nested deeper"));
  std::string sum = "{{ 1";
  for (int i = 0; i < 1000; ++i) sum += " + 1";
  EXPECT_THAT(failure(sum + " }}"), HasSubstr("more than 400 levels"));
  std::string blocks;
  for (int i = 0; i < 1000; ++i) blocks += "{% if true %}";
  EXPECT_THAT(failure(blocks), HasSubstr("nested deeper"));
  EXPECT_THAT(failure(std::string((1 << 20) + 1, 'x')), HasSubstr("at most 1048576"));
  boost::json::value deep = 1;
  for (int i = 0; i < 1000; ++i) deep = boost::json::array{std::move(deep)};
  EXPECT_FALSE(ChatTemplate::parse("{{ x }}")->render({{"x", deep}}).ok());
}

TEST(ChatTemplate, CyclesAreFreed) {  // under the address sanitizer a leak fails the test
  EXPECT_TRUE(render("{% set ns = namespace() %}{% set ns.self = ns %}{% macro m() %}{% endmacro %}{% set ns.m = m %}"
                     "{% for i in [1] %}{% set ns.loop = loop %}{{ loop.last }}{% endfor %}")
                  .ok());
}

TEST(ChatTemplate, OneTemplateServesManyThreads) {
  const ChatTemplate parsed = load("qwen3");
  const auto context =
      boost::json::parse(R"({"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": true})");
  std::vector<std::string> out(4);
  std::vector<std::thread> threads;
  threads.reserve(out.size());
  for (std::string& text : out) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) text = *parsed.render(context.as_object());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : out) EXPECT_EQ(text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplate, FindsTheFormOfMessages) {
  struct Case {
    std::string name;
    bool content_parts, arguments_text, null_content, empty_content;
  };
  const Case cases[] = {
      {"deepseek_v2", false, false, false, true}, {"deepseek_v2_5", false, true, true, false},
      {"deepseek_v3", false, true, true, true},   {"deepseek_r1", false, true, true, true},
      {"deepseek_v3_1", false, true, true, true}, {"llama3", false, false, false, true},
      {"llama3_1", false, false, true, true},     {"llama3_2_vision", true, false, false, true},
      {"qwen2", false, false, false, true},       {"qwen2_5", false, false, true, true},
      {"qwen3", false, false, true, true},        {"qwen3_macros", true, false, true, true},
  };
  for (const Case& expected : cases) {
    const MessageForm form = load(expected.name).message_form();
    EXPECT_EQ(form.content_parts, expected.content_parts) << expected.name;
    EXPECT_EQ(form.arguments_text, expected.arguments_text) << expected.name;
    EXPECT_EQ(form.null_content, expected.null_content) << expected.name;
    EXPECT_EQ(form.empty_content, expected.empty_content) << expected.name;
  }
}

TEST(NormaliseMessages, Fields) {
  MessageForm text;
  MessageForm parts;
  parts.content_parts = true;
  MessageForm raw;
  raw.arguments_text = true;
  MessageForm needs_null = raw;
  needs_null.empty_content = false;
  MessageForm needs_empty;
  needs_empty.null_content = false;
  const std::string call = R"([{"function":{"name":"f","arguments":)";
  struct Case {
    MessageForm form;
    std::string in, out;
  };
  const Case cases[] = {
      {text, R"({"role":"User","content":"a","name":null})", R"({"role":"user","content":"a"})"},
      {text, R"({"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]})",
       R"({"role":"user","content":"a b"})"},
      {parts, R"({"role":"user","content":[{"type":"text","text":"a"}]})",
       R"({"role":"user","content":[{"type":"text","text":"a"}]})"},
      {text, R"({"role":"user","content":[]})", R"({"role":"user","content":""})"},
      {text, R"({"role":"assistant","content":null,"tool_calls":[]})", R"({"role":"assistant","content":""})"},
      {text, R"({"role":"assistant"})", R"({"role":"assistant","content":""})"},
      {text, R"({"role":"assistant","tool_calls":)" + call + R"("{\"a\": 1.0}"}}]})",
       R"({"role":"assistant","tool_calls":)" + call + R"({"a":1E0}}}],"content":null})"},
      {raw, R"({"role":"assistant","tool_calls":)" + call + R"({"a":[1,"é"]}}}]})",
       R"({"role":"assistant","tool_calls":)" + call + R"("{\"a\": [1, \"é\"]}"}}],"content":null})"},
      {raw, R"({"role":"assistant","content":"","tool_calls":)" + call + R"("{}"}}]})",
       R"({"role":"assistant","content":"","tool_calls":)" + call + R"("{}"}}]})"},
      {needs_null, R"({"role":"assistant","content":"","tool_calls":)" + call + R"("{}"}}]})",
       R"({"role":"assistant","content":null,"tool_calls":)" + call + R"("{}"}}]})"},
      {needs_empty, R"({"role":"assistant","content":null,"tool_calls":)" + call + R"(""}}]})",
       R"({"role":"assistant","tool_calls":)" + call + R"({}}}],"content":""})"},
  };
  for (const Case& test : cases) {
    const auto result = normalise_messages({boost::json::parse(test.in)}, test.form);
    ASSERT_TRUE(result.ok()) << test.in << result.error().message;
    EXPECT_EQ(boost::json::serialize(result->at(0)), test.out);
  }
}

TEST(NormaliseMessages, Refusals) {
  const std::pair<std::string, std::string> cases[] = {
      {R"([])", "messages is empty"},
      {R"(["x"])", "messages[0] is not an object"},
      {R"([{"content":"x"}])", "messages[0].role is not a string"},
      {R"([{"role":"user","content":"x"},{"role":1}])", "messages[1].role is not a string"},
      {R"([{"role":"user","content":5}])", "neither a string nor a list"},
      {R"([{"role":"user","content":[{"type":"image_url","image_url":{}}]}])",
       "messages[0].content[0] has type image_url"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text is not a string"},
      {R"([{"role":"user","content":["x"]}])", "messages[0].content[0] is not an object"},
      {R"([{"role":"assistant","tool_calls":5}])", "tool_calls is not a list"},
      {R"([{"role":"assistant","tool_calls":[{}]}])", "tool_calls[0].function is not an object"},
      {R"([{"role":"assistant","tool_calls":[{"function":{"arguments":"{"}}]}])", "arguments is not valid JSON"},
      {R"([{"role":"assistant","tool_calls":[{"function":{"arguments":"[1]"}}]}])", "arguments is not a JSON object"},
  };
  for (const auto& [messages, expected] : cases) {
    const auto result = normalise_messages(boost::json::parse(messages).as_array(), MessageForm{});
    ASSERT_FALSE(result.ok()) << messages;
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(result.error().message, HasSubstr(expected));
  }
}

TEST(ChatContext, KwargsWinOverSpecialTokensButNotOverMessages) {
  ChatInput input;
  input.messages = {{{"role", "user"}}};
  input.special_tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  input.template_kwargs = {{"eos_token", "END"}, {"enable_thinking", false}, {"messages", 1}};
  EXPECT_EQ(boost::json::serialize(chat_context(std::move(input))),
            R"({"bos_token":"<s>","eos_token":"END","enable_thinking":false,"messages":[{"role":"user"}],"tools":null,)"
            R"("documents":null,"add_generation_prompt":true})");
}

}  // namespace
}  // namespace baton::text
