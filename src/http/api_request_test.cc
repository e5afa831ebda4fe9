// Request bodies: every field of the three generation endpoints, its range, null and what is unknown.
#include "http/api_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "http/parse_support.h"

namespace baton::http {

using engine::Role;

namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr ApiKind kAll[] = {ApiKind::kGenerate, ApiKind::kCompletion, ApiKind::kChat};
constexpr ApiKind kOpenAi[] = {ApiKind::kCompletion, ApiKind::kChat};

struct Ranged {
  const char* field;
  std::vector<const char*> good;
  std::vector<const char*> bad;
  const char* range;  // a part of what a 400 says
};
const std::vector<Ranged>& sampling_fields() {
  static const std::vector<Ranged> fields = {
      {"temperature", {"0", "1e-7", "2.5", "1000000000"}, {"-0.1", "\"hot\"", "1e999"}, "[0, inf)"},
      {"top_p", {"1", "0.001"}, {"0", "-1", "1.001", "true"}, "(0, 1]"},
      {"min_p", {"0", "1"}, {"-0.01", "1.01", "[]"}, "[0, 1]"},
      {"top_k", {"-1", "0", "1", "100", "50.0"}, {"-2", "1.5", "\"1\""}, "-1"},
      {"frequency_penalty", {"-2", "2"}, {"-2.01", "2.01", "{}"}, "[-2, 2]"},
      {"presence_penalty", {"-2", "2"}, {"-2.01", "2.01", "\"\""}, "[-2, 2]"},
      {"repetition_penalty", {"0.01", "2"}, {"0", "2.01", "false"}, "(0, 2]"},
      {"seed", {"-5", "0", "9223372036854775807"}, {"9223372036854775808", "0.5", "\"x\""}, "["},
      {"ignore_eos", {"true", "false"}, {"1", "\"true\""}, "true or false"},
      {"skip_special_tokens", {"true", "false"}, {"0", "\"\""}, "true or false"},
      {"min_tokens", {"0", "3"}, {"-1", "\"3\""}, "[0, 2147483647]"},
      {"min_new_tokens", {"0", "3"}, {"-1", "0.5"}, "[0, 2147483647]"},
      {"max_tokens", {"0", "3"}, {"-1", "2147483648", "\"3\""}, "[0, 2147483647]"},
      {"max_new_tokens", {"0", "3"}, {"-1", "[]"}, "[0, 2147483647]"},
      {"max_completion_tokens", {"0", "3"}, {"-1", "{}"}, "[0, 2147483647]"},
      {"stop", {"\"x\"", "[]", "[\"x\",\"y\"]"}, {"1", "[1]", "{}"}, "a string or a list of strings"},
      {"stop_regex",
       {"\"a+\"", "[]", "[\"x\",\"[.!?]\\\\s*$\"]"},
       {"1", "[1]", "{}", "\"(\"", "\"(?m)a.\"", "[\"a\",\"\\\\1\"]"},
       ""},
      {"stop_token_ids",
       {"[]", "[0,257]", "[258]", "[-1,null]", "[18446744073709551615]"},
       {"7", "[\"a\"]", "[1.5]"},
       ""},
      {"allowed_token_ids", {"[0,257]"}, {"[]", "[258]", "[-1]", "7", "[\"a\"]"}, ""},
      {"bad_words", {"[]", "\"x\"", "[\"x\",\"yz\"]"}, {"1", "[1]", "{}", "[\"\"]", "[\" \"]"}, ""},
      {"include_stop_str_in_output", {"true", "false"}, {"1"}, "true or false"},
      {"no_stop_trim", {"true", "false"}, {"1"}, "true or false"},
      {"logit_bias",
       {"{}", "{\"5\":-100,\"257\":100}"},
       {"{\"258\":1}", "{\"5\":101}", "{\"x\":1}", "{\"5\":\"1\"}", "[]"},
       "[-100, 100]"},
      {"n", {"1", "2"}, {"0", "129", "1.5"}, "[1, 128]"},
  };
  return fields;
}

TEST(ApiRequest, EverySamplingFieldHasItsRangeAndA400NamesBoth) {
  for (const ApiKind kind : kAll) {
    for (const Ranged& f : sampling_fields()) {
      const auto with = [&](const char* value) { return body_with(kind, fmt::format("\"{}\":{}", f.field, value)); };
      for (const char* value : f.good) EXPECT_TRUE(parse(kind, with(value)).ok()) << with(value);
      EXPECT_TRUE(parse(kind, with("null")).ok()) << with("null");
      for (const char* value : f.bad) {
        const auto refused = parse(kind, with(value));
        ASSERT_FALSE(refused.ok()) << with(value);
        EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
        // A number that JSON itself cannot hold is refused with the document.
        if (std::string_view(value) == "1e999" && !refused.error().message.starts_with(f.field)) continue;
        EXPECT_THAT(refused.error().message, StartsWith(std::string(f.field) + ": ")) << with(value);
        EXPECT_THAT(refused.error().message, HasSubstr(f.range)) << with(value);
      }
    }
  }
}

TEST(ApiRequest, OtherFieldsHaveTheirsToo) {
  const std::vector<std::pair<std::vector<ApiKind>, Ranged>> cases = {
      {{ApiKind::kGenerate}, {"stream", {"true", "false"}, {"1"}, "true or false"}},
      {{ApiKind::kGenerate},
       {"return_logprob", {"true", "[false]"}, {"1", "\"yes\"", "[true,true]", "[1]"}, "true or false"}},
      {{ApiKind::kGenerate}, {"top_logprobs_num", {"0", "5"}, {"-1", "1001", "\"1\""}, "[0, 1000]"}},
      {{ApiKind::kGenerate}, {"logprob_start_len", {"-1", "0", "[0]"}, {"-2", "0.5", "[-2]"}, "[-1, "}},
      {{ApiKind::kGenerate}, {"top_logprobs_num", {"[5]"}, {"[1,2]", "[]"}, "one entry for each"}},
      {{ApiKind::kGenerate},
       {"token_ids_logprob", {"[]", "[0,257,0]"}, {"[258]", "[-1]", "[18446744073709551615]"}, "out-of-vocabulary"}},
      {{ApiKind::kGenerate},
       {"token_ids_logprob", {}, {"[[0]]", "[[0],[1,2]]", "7", "[true]", "[\"a\"]", "{}"}, "flat list of integers"}},
      {{ApiKind::kGenerate}, {"lora_path", {"[null]"}, {"\"adapter\"", "[\"adapter\"]"}, "not supported"}},
      {{ApiKind::kGenerate}, {"return_text_in_logprobs", {"true"}, {"0"}, "true or false"}},
      {{kOpenAi[0], kOpenAi[1]}, {"stream", {"true", "false"}, {"1"}, "true or false"}},
      {{kOpenAi[0], kOpenAi[1]}, {"stream_options", {"{}"}, {"true"}, "an object"}},
      {{kOpenAi[0], kOpenAi[1]},
       {"stream_options", {}, {"{\"include_usage\":null}", "{\"continuous_usage_stats\":true}"}, "when stream"}},
      {{kOpenAi[0], kOpenAi[1]}, {"prompt_logprobs", {"0", "20"}, {"-1", "21", "true"}, "[0, 20]"}},
      {{kOpenAi[0], kOpenAi[1]}, {"logprob_token_ids", {"[]"}, {"[5]"}, "only with logprobs"}},
      {{kOpenAi[0], kOpenAi[1]}, {"logprob_token_ids", {}, {"[258]", "[-1]"}, "out-of-vocabulary"}},
      {{kOpenAi[0], kOpenAi[1]}, {"return_token_ids", {"true"}, {"1"}, "true or false"}},
      {{kOpenAi[0], kOpenAi[1]}, {"return_cached_tokens_details", {"true"}, {"1"}, "true or false"}},
      {{kOpenAi[0], kOpenAi[1]}, {"truncate_prompt_tokens", {"-1", "64"}, {"-2", "65", "0.5"}, "[-1, 64]"}},
      {{kOpenAi[0], kOpenAi[1]}, {"truncation_side", {"\"left\"", "\"right\""}, {"\"middle\"", "1"}, ""}},
      {{kOpenAi[0], kOpenAi[1]}, {"best_of", {"1"}, {"2", "0"}, ""}},
      {{kOpenAi[0], kOpenAi[1]},
       {"response_format", {"{\"type\":\"text\"}"}, {"{\"type\":\"json_object\"}", "\"text\""}, "text"}},
      {{kOpenAi[0], kOpenAi[1]}, {"user", {"\"me\"", "7"}, {}, ""}},
      {{ApiKind::kCompletion}, {"echo", {"true"}, {"1"}, "true or false"}},
      {{ApiKind::kCompletion}, {"logprobs", {"0", "5"}, {"-1", "true", "1001"}, "[0, 1000]"}},
      {{ApiKind::kCompletion}, {"suffix", {"\"\""}, {"\"x\""}, "not supported"}},
      {{ApiKind::kChat}, {"logprobs", {"true", "false"}, {"1"}, "true or false"}},
      {{ApiKind::kChat}, {"top_logprobs", {"0", "20", "1000"}, {"-1", "1001"}, "[0, 1000]"}},
      {{ApiKind::kChat}, {"tools", {"[]"}, {"[{}]"}, "not supported"}},
      {{ApiKind::kChat}, {"tool_choice", {"\"none\"", "\"auto\""}, {}, ""}},
      {{ApiKind::kChat}, {"chat_template_kwargs", {"{}"}, {"[]"}, "an object"}},
      {{kAll[0], kAll[1], kAll[2]}, {"rid", {"\"r\""}, {"7", "[]", "[\"a\",\"b\"]"}, "a string"}},
      {{kAll[0], kAll[1], kAll[2]}, {"cache_salt", {"\"s\""}, {"7"}, "a string"}},
      {{kAll[0], kAll[1], kAll[2]}, {"priority", {"1"}, {}, ""}},
      {{kAll[0], kAll[1], kAll[2]}, {"routed_dp_rank", {"0"}, {"-1", "\"0\""}, "[0, "}},
      {{kAll[0], kAll[1], kAll[2]}, {"data_parallel_rank", {"0"}, {"-1", "\"0\""}, "[0, "}},
      {{kAll[0], kAll[1], kAll[2]}, {"bootstrap_room", {"7"}, {}, ""}},
      {{kAll[0], kAll[1], kAll[2]}, {"a_field_of_tomorrow", {"1", "{}", "[[]]"}, {}, ""}},
  };
  for (const auto& [kinds, field_case] : cases) {
    const auto& f = field_case;  // clang 14 captures no structured binding
    for (const ApiKind kind : kinds) {
      const auto with = [&](const char* value) {
        const std::string field = fmt::format("\"{}\":{}", f.field, value);
        return kind == ApiKind::kGenerate ? "{\"text\":\"ab\"," + field + "}" : body_with(kind, field);
      };
      for (const char* value : f.good) EXPECT_TRUE(parse(kind, with(value)).ok()) << with(value);
      EXPECT_TRUE(parse(kind, with("null")).ok()) << with("null");
      for (const char* value : f.bad) {
        const auto refused = parse(kind, with(value));
        ASSERT_FALSE(refused.ok()) << with(value);
        EXPECT_THAT(refused.error().message, StartsWith(std::string(f.field) + ": ")) << with(value);
        EXPECT_THAT(refused.error().message, HasSubstr(f.range)) << with(value);
      }
    }
  }
}

TEST(ApiRequest, SamplingReachesTheEngine) {
  const auto check = [](const ApiRequest& request) {
    const engine::SamplingParams& p = request.choices.at(0).engine.sampling;
    EXPECT_EQ(p.temperature, 0.25);
    EXPECT_EQ(p.top_p, 0.5);
    EXPECT_EQ(p.min_p, 0.125);
    EXPECT_EQ(p.top_k, 7);
    EXPECT_EQ(p.frequency_penalty, 1);
    EXPECT_EQ(p.presence_penalty, -1);
    EXPECT_EQ(p.repetition_penalty, 1.5);
    EXPECT_EQ(p.seed, 9U);
    EXPECT_TRUE(p.ignore_eos);
    EXPECT_EQ(p.min_new_tokens, 2);
    EXPECT_EQ(p.max_new_tokens, 5);
    EXPECT_EQ(p.stop_token_ids, std::vector<int32_t>{65});
    EXPECT_EQ(p.logit_bias, (std::map<int32_t, double>{{66, -3.0}}));
    EXPECT_EQ(request.choices.at(0).stops, (std::vector<std::string>{"x", "yz"}));
    EXPECT_FALSE(request.skip_special_tokens);
  };
  const std::string common =
      R"("temperature":0.25,"top_p":0.5,"min_p":0.125,"top_k":7,"frequency_penalty":1,"presence_penalty":-1,"repetition_penalty":1.5,"seed":9,)"
      R"("ignore_eos":true,"stop":["x","","yz"],"stop_token_ids":[65],"logit_bias":{"66":-3},"skip_special_tokens":false,)";
  check(parsed(ApiKind::kGenerate, body_with(ApiKind::kGenerate, common + R"("min_new_tokens":2,"max_new_tokens":5)")));
  check(parsed(ApiKind::kCompletion, body_with(ApiKind::kCompletion, common + R"("min_tokens":2,"max_tokens":5)")));
  check(parsed(ApiKind::kChat, body_with(ApiKind::kChat, common + R"("min_tokens":2,"max_completion_tokens":5)")));
}

TEST(ApiRequest, NoMoreTokensAreRequiredThanAreAskedFor) {
  EXPECT_EQ(parse(ApiKind::kGenerate, body_with(ApiKind::kGenerate, R"("min_new_tokens":6,"max_new_tokens":5)"))
                .error()
                .message,
            "min_new_tokens: 6 is not in [0, 5], the most new tokens that are asked for");
  EXPECT_THAT(parse(ApiKind::kCompletion, body_with(ApiKind::kCompletion, R"("min_tokens":17)")).error().message,
              StartsWith("min_tokens: 17 is not in [0, 16]"));
  // But the context may cut both where nobody asked for a number.
  EXPECT_EQ(parsed(ApiKind::kChat, body_with(ApiKind::kChat, R"("min_tokens":100)"))
                .choices[0]
                .engine.sampling.min_new_tokens,
            64 - 9);
}

TEST(ApiRequest, DefaultsAreThoseOfTheOriginals) {
  EXPECT_EQ(parsed(ApiKind::kGenerate, R"({"text":"a"})").choices[0].engine.sampling.max_new_tokens, 63);  // 128, cut
  EXPECT_EQ(parsed(ApiKind::kCompletion, R"({"prompt":"a"})").choices[0].engine.sampling.max_new_tokens, 16);
  const ApiRequest chat = parsed(ApiKind::kChat, R"({"messages":[{"role":"user","content":"ab"}]})");
  EXPECT_EQ(chat.choices[0].engine.prompt.size(), std::string("user:ab\n").size() + 1);
  EXPECT_EQ(chat.choices[0].engine.prompt.back(), kTestBos);
  EXPECT_EQ(chat.choices[0].engine.sampling.max_new_tokens, 64 - 9);  // the rest of the context
  EXPECT_TRUE(chat.id.starts_with("chatcmpl-"));
}

TEST(ApiRequest, PromptsComeInFourForms) {
  const std::vector<std::tuple<const char*, std::vector<std::vector<int32_t>>, bool>> cases = {
      {R"("ab")", {{97, 98}}, false},
      {R"(["ab","c"])", {{97, 98}, {99}}, true},
      {"[5,6]", {{5, 6}}, false},
      {"[[5],[6,7]]", {{5}, {6, 7}}, true},
  };
  for (const auto& [prompt, ids, batch] : cases) {
    for (const ApiKind kind : {ApiKind::kGenerate, ApiKind::kCompletion}) {
      const std::string name = kind == ApiKind::kCompletion           ? "prompt"
                               : prompt[1] == '"' || prompt[0] == '"' ? "text"
                                                                      : "input_ids";
      const ApiRequest request = parsed(kind, fmt::format("{{\"{}\":{}}}", name, prompt));
      ASSERT_EQ(request.choices.size(), ids.size()) << prompt;
      for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(request.choices[i].engine.prompt, ids[i]) << prompt;
      EXPECT_EQ(request.batch, batch) << prompt;
    }
  }
  const std::vector<std::pair<const char*, const char*>> bad = {
      {R"({})", "prompt"},
      {R"({"prompt":""})", "prompt: "},
      {R"({"prompt":[]})", "prompt: "},
      {R"({"prompt":7})", "prompt: "},
      {R"({"prompt":[258]})", "prompt: token id 258 is out of vocabulary"},
      {R"({"prompt":[[1],"a",7]})", "prompt: "},
      {R"({"prompt":[-1]})", "prompt: "}};
  for (const auto& [body, words] : bad) {
    const auto refused = parse(ApiKind::kCompletion, body);
    ASSERT_FALSE(refused.ok()) << body;
    EXPECT_THAT(refused.error().message, HasSubstr(words)) << body;
  }
  EXPECT_THAT(parse(ApiKind::kGenerate, R"({"text":"a","input_ids":[1]})").error().message,
              HasSubstr("exactly one of"));
}

TEST(ApiRequest, ContextAndCountsAreBounded) {
  const std::string prompt(64, 'x');
  const auto refused = parse(ApiKind::kCompletion, "{\"prompt\":\"" + prompt + "\"}");
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message,
              StartsWith("prompt: the text has more than 63 tokens: the input is longer than the model's context "
                         "length (64 tokens)"));
  std::string many = "[";
  for (size_t i = 0; i < 40; ++i) many += i > 0 ? ",[1]" : "[1]";
  many += "]";
  EXPECT_EQ(parsed(ApiKind::kCompletion, "{\"n\":100,\"prompt\":" + many + "}").choices.size(), 4000U);
  EXPECT_THAT(parse(ApiKind::kCompletion, "{\"n\":128,\"prompt\":" + many + "}").error().message, StartsWith("n: "));
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += '[';
  EXPECT_FALSE(parse(ApiKind::kGenerate, "{\"text\":\"a\",\"x\":" + deep).ok());
}

TEST(ApiRequest, SamplingParamsMayBeOneForEachPrompt) {
  const ApiRequest request = parsed(
      ApiKind::kGenerate,
      R"({"text":["a","b"],"sampling_params":[{"max_new_tokens":1,"stop":"x","n":2},{"max_new_tokens":2,"n":2}]})");
  ASSERT_EQ(request.choices.size(), 4U);
  EXPECT_EQ(request.choices[1].engine.sampling.max_new_tokens, 1);
  EXPECT_EQ(request.choices[2].engine.sampling.max_new_tokens, 2);
  EXPECT_EQ(request.choices[1].stops.size(), 1U);
  EXPECT_TRUE(request.choices[2].stops.empty());
  EXPECT_FALSE(parse(ApiKind::kGenerate, R"({"text":["a","b"],"sampling_params":[{}]})").ok());
  EXPECT_THAT(parse(ApiKind::kGenerate, R"({"text":["a","b"],"sampling_params":[{"n":3},{"n":2}]})").error().message,
              StartsWith("n: "));
}

TEST(ApiRequest, EachSampleHasItsOwnRidAndSeed) {
  const ApiRequest request = parsed(ApiKind::kCompletion, R"({"prompt":"a","n":3,"seed":5,"rid":"r"})");
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(request.choices[i].engine.sampling.seed, 5 + i);
    EXPECT_EQ(request.choices[i].engine.rid, fmt::format("r-{}", i));
    EXPECT_EQ(request.choices[i].engine.call, "r");
  }
  EXPECT_EQ(request.id, "r");
  const ApiRequest list = parsed(ApiKind::kGenerate, R"({"text":["a","b"],"rid":["x","y"]})");
  EXPECT_EQ(list.choices[1].engine.rid, "y");
  EXPECT_EQ(list.choices[1].engine.call, "");
  // What an answer shows as its id is what /abort_request takes.
  const ApiRequest fresh = parsed(ApiKind::kChat, R"({"messages":[{"role":"user","content":"a"}],"n":2})");
  EXPECT_THAT(fresh.id, StartsWith("chatcmpl-"));
  EXPECT_EQ(fresh.choices[1].engine.call, fresh.id);
  const ApiRequest one = parsed(ApiKind::kCompletion, R"({"prompt":"a"})");
  EXPECT_EQ(one.choices[0].engine.rid, one.id);
}

TEST(ApiRequest, LogprobsOfEachEndpoint) {
  const ApiRequest generate =
      parsed(ApiKind::kGenerate,
             R"({"text":["a","b"],"return_logprob":[false,true],"top_logprobs_num":2,"logprob_start_len":0})");
  EXPECT_EQ(generate.choices[0].engine.logprobs, -1);
  EXPECT_EQ(generate.choices[1].engine.logprobs, 2);
  EXPECT_EQ(generate.choices[1].engine.prompt_logprob_start, 0);
  EXPECT_EQ(parsed(ApiKind::kGenerate, R"({"text":"a","return_logprob":true})").choices[0].engine.prompt_logprob_start,
            -1);
  const ApiRequest completion = parsed(ApiKind::kCompletion, R"({"prompt":"a","logprobs":0,"echo":true})");
  EXPECT_EQ(completion.choices[0].engine.logprobs, 0);
  EXPECT_EQ(completion.choices[0].engine.prompt_logprob_start, 0);
  EXPECT_EQ(parsed(ApiKind::kCompletion, R"({"prompt":"a","logprobs":0})").choices[0].engine.prompt_logprob_start, -1);
  const ApiRequest chat = parsed(
      ApiKind::kChat,
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"logprobs":true,"top_logprobs":3})");
  EXPECT_EQ(chat.choices[0].engine.logprobs, 3);
}

TEST(ApiRequest, LogprobsOfEachPromptOfABatch) {
  const ApiRequest lists = parsed(
      ApiKind::kGenerate,
      R"({"text":["aa","bb","cc"],"return_logprob":[true,null,true],"top_logprobs_num":[1,2,null],"logprob_start_len":[-1,0,1],"token_ids_logprob":[[7],null,[8,9]]})");
  EXPECT_EQ(lists.choices[0].engine.logprobs, 1);
  EXPECT_EQ(lists.choices[1].engine.logprobs, -1);
  EXPECT_EQ(lists.choices[2].engine.logprobs, 0);
  EXPECT_EQ(lists.choices[0].engine.prompt_logprob_start, -1);
  EXPECT_EQ(lists.choices[2].engine.prompt_logprob_start, 1);
  EXPECT_EQ(lists.choices[0].engine.token_ids_logprob, std::vector<int32_t>{7});
  EXPECT_EQ(lists.choices[2].engine.token_ids_logprob, (std::vector<int32_t>{8, 9}));
  const auto listed = [](const std::string& value) {
    return parsed(ApiKind::kGenerate, R"({"text":["a","b"],"return_logprob":true,"token_ids_logprob":)" + value + "}")
        .choices[1]
        .engine.token_ids_logprob;
  };
  EXPECT_EQ(listed("[5,6]"), (std::vector<int32_t>{5, 6})) << "for every prompt";
  EXPECT_EQ(listed("5"), std::vector<int32_t>{5});
  EXPECT_EQ(listed("[[5],[6]]"), std::vector<int32_t>{6});
  const std::vector<std::pair<const char*, const char*>> bad = {
      {"[[0],[258]]", "out-of-vocabulary"}, {"[[0]]", "one entry for each"}, {"[[0],[[1]]]", "flat list"}};
  for (const auto& [value, words] : bad) {
    const auto refused =
        parse(ApiKind::kGenerate, std::string(R"({"text":["a","b"],"token_ids_logprob":)") + value + "}");
    ASSERT_FALSE(refused.ok()) << value;
    EXPECT_THAT(refused.error().message, HasSubstr(words));
  }
}

TEST(ApiRequest, ModelNames) {
  const auto strict = byte_model();
  strict->strict_model_names = true;
  const auto with = [](const char* name) { return fmt::format("{{\"prompt\":\"a\",\"model\":{}}}", name); };
  const auto strictly = [&](const char* name) {
    return parse_api_request(ApiKind::kCompletion, with(name), *strict, Role::kUnified);
  };
  for (const char* name : {"\"tiny\"", "\"/models/tiny\"", "\"default\"", "\"\"", "null"}) {
    EXPECT_TRUE(parse(ApiKind::kCompletion, with(name)).ok()) << name;
    EXPECT_TRUE(strictly(name).ok()) << name;
  }
  // Any is served, and stands in the answer.
  EXPECT_EQ(parsed(ApiKind::kCompletion, with("\"huge\"")).model, "huge");
  EXPECT_EQ(parsed(ApiKind::kChat, body_with(ApiKind::kChat, R"("model":"huge")")).model, "huge");
  EXPECT_EQ(parsed(ApiKind::kCompletion, with("\"\"")).model, "tiny");
  EXPECT_EQ(strictly("\"huge\"").error().code, ErrorCode::kNotFound);
  // An adapter's is not: another model's text would be the answer.
  EXPECT_THAT(parse(ApiKind::kCompletion, with("\"tiny:adapter\"")).error().message,
              StartsWith("model: LoRA adapter 'adapter' was requested, but LoRA is not enabled"));
  const std::string endless = "\"" + std::string(1025, 'x') + "\"";
  EXPECT_THAT(parse(ApiKind::kCompletion, with(endless.c_str())).error().message, StartsWith("model: 1025 bytes"));
}

TEST(ApiRequest, ADisaggregatedInstanceWantsARoom) {
  const Role role = Role::kDecode;
  EXPECT_THAT(parse(ApiKind::kGenerate, R"({"text":"a"})", role).error().message,
              StartsWith("bootstrap_room: missing"));
  const auto with = [&](const std::string& fields, const char* text = "\"a\"") {
    return parse(ApiKind::kGenerate, fmt::format("{{\"text\":{},{}}}", text, fields), role);
  };
  auto one = with(R"("bootstrap_host":"[::1]","bootstrap_port":null,"bootstrap_room":9223372036854775807)");
  ASSERT_TRUE(one.ok());
  const engine::Disaggregation d = *one->choices[0].engine.disaggregation;
  EXPECT_EQ(d.bootstrap_host, "::1");
  EXPECT_EQ(d.bootstrap_port, 8998);
  EXPECT_EQ(d.room.value(), 9223372036854775807U);
  EXPECT_FALSE(d.fake);
  auto two = with(R"("bootstrap_host":["h1","h2"],"bootstrap_port":[1,null],"bootstrap_room":[5,6])", R"(["a","b"])");
  ASSERT_TRUE(two.ok());
  EXPECT_EQ(two->choices[1].engine.disaggregation->bootstrap_host, "h2");
  EXPECT_EQ(two->choices[1].engine.disaggregation->bootstrap_port, 8998);
  EXPECT_EQ(two->choices[1].engine.disaggregation->room.value(), 6U);
  const auto warm_up = with(R"("bootstrap_host":"2.2.2.2","bootstrap_room":0)");
  ASSERT_TRUE(warm_up.ok());
  EXPECT_TRUE(warm_up->choices[0].engine.disaggregation->fake);
  const std::vector<std::tuple<const char*, const char*, const char*>> bad = {
      {R"("bootstrap_room":0)", "\"a\"", "bootstrap_room: "},
      {R"("bootstrap_room":-1)", "\"a\"", "bootstrap_room: "},
      {R"("bootstrap_room":9223372036854775808)", "\"a\"", "bootstrap_room: "},
      {R"("bootstrap_room":"7")", "\"a\"", "bootstrap_room: "},
      {R"("bootstrap_room":[7,7])", R"(["a","b"])", "bootstrap_room: 7 stands for two"},
      {R"("bootstrap_room":9223372036854775807)", R"(["a","b"])", "bootstrap_room: "},
      {R"("bootstrap_room":[1,2,3])", R"(["a","b"])", "bootstrap_room: "},
      {R"("bootstrap_room":7,"bootstrap_port":0)", "\"a\"", "bootstrap_port: "},
      {R"("bootstrap_room":7,"bootstrap_port":65536)", "\"a\"", "bootstrap_port: "},
      {R"("bootstrap_room":7,"bootstrap_port":"1")", "\"a\"", "bootstrap_port: "},
      {R"("bootstrap_room":7,"bootstrap_host":7)", "\"a\"", "bootstrap_host: "},
  };
  for (const auto& [fields, text, words] : bad) {
    const auto refused = with(fields, text);
    ASSERT_FALSE(refused.ok()) << fields;
    EXPECT_THAT(refused.error().message, StartsWith(words)) << fields;
  }
}

TEST(ApiRequest, DataParallelRanks) {
  const auto rank = [](const char* fields, Role role) {
    return parsed(ApiKind::kGenerate, fmt::format(R"({{"text":"a","bootstrap_room":1,{}}})", fields), role)
        .choices[0]
        .engine.dp_rank;
  };
  EXPECT_EQ(rank(R"("routed_dp_rank":1)", Role::kUnified), 1);
  EXPECT_EQ(rank(R"("data_parallel_rank":2)", Role::kDecode), 2);
  EXPECT_EQ(rank(R"("data_parallel_rank":2,"routed_dp_rank":1)", Role::kDecode), 1);
  // Prefill may have fewer, and has a field of its own.
  EXPECT_EQ(rank(R"("data_parallel_rank":2,"routed_dp_rank":1)", Role::kPrefill), std::nullopt);
  EXPECT_EQ(rank(R"("routed_dp_rank":1,"disagg_prefill_dp_rank":3)", Role::kPrefill), 3);
  EXPECT_EQ(rank(R"("routed_dp_rank":1,"disagg_prefill_dp_rank":3)", Role::kDecode), 1);
}

}  // namespace
}  // namespace baton::http
