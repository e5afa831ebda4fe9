// Request bodies: what fields come to beyond their ranges, where originals agree and where they do not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "http/parse_support.h"

namespace baton::http {

using engine::Role;

namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// SGLang's: both legs count on from one room.
TEST(ApiRequest, OneRoomStandsForOneInARow) {
  const auto rooms = [](const char* fields) {
    std::vector<uint64_t> all;
    for (const Role role : {Role::kPrefill, Role::kDecode}) {
      std::vector<uint64_t> mine;
      for (const ChoiceRequest& choice : parsed(ApiKind::kCompletion, fmt::format("{{{}}}", fields), role).choices)
        mine.push_back(choice.engine.disaggregation->room.value());
      EXPECT_TRUE(all.empty() || all == mine) << fields;
      all = mine;
    }
    return all;
  };
  EXPECT_EQ(rooms(R"("prompt":"a","bootstrap_room":7)"), (std::vector<uint64_t>{7}));
  EXPECT_EQ(rooms(R"("prompt":"a","n":3,"bootstrap_room":7)"), (std::vector<uint64_t>{7, 8, 9}));
  EXPECT_EQ(rooms(R"("prompt":["a","b"],"bootstrap_room":7)"), (std::vector<uint64_t>{7, 8}));
  EXPECT_EQ(rooms(R"("prompt":["a","b"],"n":2,"bootstrap_room":[7,20])"), (std::vector<uint64_t>{7, 8, 20, 21}));
  EXPECT_EQ(rooms(R"("prompt":["a","b"],"n":2,"bootstrap_room":[4,3,2,1])"), (std::vector<uint64_t>{4, 3, 2, 1}));
  EXPECT_EQ(rooms(R"("prompt":"a","n":2,"bootstrap_room":9223372036854775806)"),
            (std::vector<uint64_t>{9223372036854775806U, 9223372036854775807U}));
  EXPECT_THAT(parse(ApiKind::kCompletion, R"({"prompt":["a","b"],"n":2,"bootstrap_room":[7,8]})", Role::kDecode)
                  .error()
                  .message,
              StartsWith("bootstrap_room: 8 stands for two"));
  EXPECT_EQ(rooms(R"("prompt":"a","n":2,"bootstrap_host":"2.2.2.2","bootstrap_room":0)"),
            (std::vector<uint64_t>{0, 0}));
}

TEST(ApiRequest, WhatIsOverTheContextIsRefusedInTheOriginalsWords) {
  const auto message = [](ApiKind kind, const std::string& fields) {
    const auto refused = parse(kind, "{" + fields + "}");
    return refused ? std::string("200") : refused.error().message;
  };
  const std::string chat = R"("messages":[{"role":"user","content":"ab"}])";  // 9 tokens of 64
  for (const char* name : {"max_tokens", "max_completion_tokens"}) {
    const std::string said = message(ApiKind::kChat, fmt::format("{},\"{}\":56", chat, name));
    EXPECT_THAT(said, StartsWith(fmt::format("{}: max_completion_tokens is too large: 56.", name)));
    EXPECT_THAT(said, HasSubstr("exceeds the model's maximum context length of 64 tokens"));
    EXPECT_THAT(said, HasSubstr("at most 55"));
    EXPECT_EQ(message(ApiKind::kChat, fmt::format("{},\"{}\":55", chat, name)), "200");
  }
  EXPECT_THAT(message(ApiKind::kGenerate, R"("text":"ab","sampling_params":{"max_new_tokens":63})"),
              StartsWith("max_new_tokens: max_completion_tokens is too large"));
  // The default of completions is one that was asked for, as in both originals; /generate's is cut, and null has no
  // end.
  EXPECT_THAT(message(ApiKind::kCompletion, "\"prompt\":\"" + std::string(50, 'x') + "\""), StartsWith("max_tokens: "));
  EXPECT_EQ(parsed(ApiKind::kGenerate, R"({"text":"a","sampling_params":{"max_new_tokens":null}})")
                .choices[0]
                .engine.sampling.max_new_tokens,
            63);
  EXPECT_THAT(message(ApiKind::kCompletion, "\"prompt\":\"" + std::string(64, 'x') + "\""),
              HasSubstr("is longer than the model's context length"));
  std::string ids = "1";
  for (int i = 0; i < 63; ++i) ids += ",1";
  EXPECT_THAT(message(ApiKind::kCompletion, "\"prompt\":[" + ids + "]"),
              StartsWith("prompt: the input (64 tokens) is longer than the model's context length (64 tokens"));
}

TEST(ApiRequest, AnOperatorMayHaveItCut) {
  const auto model = byte_model();
  model->allow_auto_truncate = true;
  const auto cut = [&](ApiKind kind, const std::string& body) {
    return parse_api_request(kind, body, *model, Role::kUnified)->choices[0].engine;
  };
  EXPECT_EQ(cut(ApiKind::kCompletion, R"({"prompt":"ab","max_tokens":100})").sampling.max_new_tokens, 62);
  const engine::Request longer =
      cut(ApiKind::kGenerate, "{\"text\":\"" + std::string(60, 'x') + std::string(60, 'y') + "\"}");
  EXPECT_EQ(longer.prompt.size(), 63U);
  EXPECT_EQ(longer.prompt.front(), 'x');
  EXPECT_EQ(longer.sampling.max_new_tokens, 1);
}

// vLLM's flag is of its endpoints; /generate is SGLang's, which has no limit.
TEST(ApiRequest, MaxLogprobsIsALimitWhereItIsGiven) {
  struct Case {
    std::optional<int> given;
    int completion, chat, prompt;  // the most that is taken
  };
  for (const Case& c : {Case{std::nullopt, 1000, 1000, 20},
                        {5, 5, 5, 5},
                        {0, 0, 0, 0},
                        {50, 50, 50, 50},
                        {-1, 1000, 1000, 1000},
                        {5000, 1000, 1000, 1000}}) {
    const auto model = byte_model();
    model->logprobs_max = c.given;
    const auto taken = [&](ApiKind kind, const std::string& body) {
      return parse_api_request(kind, body, *model, engine::Role::kUnified).ok();
    };
    for (const int more : {0, 1}) {
      EXPECT_EQ(taken(ApiKind::kCompletion, fmt::format(R"({{"prompt":"a","logprobs":{}}})", c.completion + more)),
                !more);
      EXPECT_EQ(taken(ApiKind::kChat, fmt::format(R"({{"messages":[{{"role":"user","content":"a"}}],"logprobs":true,)"
                                                  R"("top_logprobs":{}}})",
                                                  c.chat + more)),
                !more);
      EXPECT_EQ(taken(ApiKind::kCompletion, fmt::format(R"({{"prompt":"a","prompt_logprobs":{}}})", c.prompt + more)),
                !more);
    }
    EXPECT_TRUE(taken(ApiKind::kGenerate, R"({"text":"a","return_logprob":true,"top_logprobs_num":1000})"));
  }
}

TEST(ApiRequest, PromptsAreTruncatedAtEitherSide) {
  const auto prompt = [](const std::string& fields) {
    const auto request = parse(ApiKind::kCompletion, "{" + fields + "}");
    return request ? model().tokenizer->decode(request->choices[0].engine.prompt, false) : request.error().message;
  };
  for (const char* text : {R"("prompt":"abcdefgh")", R"("prompt":[97,98,99,100,101,102,103,104])"}) {
    const std::string whole = text;
    EXPECT_EQ(prompt(whole + R"(,"truncate_prompt_tokens":3)"), "fgh");
    EXPECT_EQ(prompt(whole + R"(,"truncate_prompt_tokens":3,"truncation_side":"left")"), "fgh");
    EXPECT_EQ(prompt(whole + R"(,"truncate_prompt_tokens":3,"truncation_side":"right")"), "abc");
    EXPECT_EQ(prompt(whole + R"(,"truncate_prompt_tokens":30)"), "abcdefgh");
    EXPECT_EQ(prompt(whole + R"(,"truncation_side":"right")"), "abcdefgh");
    EXPECT_THAT(prompt(whole + R"(,"truncate_prompt_tokens":0)"), StartsWith("prompt: the prompt has no tokens"));
  }
  // What is echoed is what was read.
  const ApiRequest echoed =
      parsed(ApiKind::kCompletion, R"({"prompt":"abcdefgh","echo":true,"truncate_prompt_tokens":3})");
  EXPECT_EQ(echoed.echo_of(0)->text, "fgh");
  // -1: what leaves room for the answer.
  const std::string longer = "\"prompt\":\"" + std::string(100, 'x') + "end\",\"truncate_prompt_tokens\":-1";
  EXPECT_EQ(prompt(longer), std::string(64 - 16 - 3, 'x') + "end");
  EXPECT_EQ(prompt(longer + R"(,"max_tokens":60)"), "xend");
  EXPECT_THAT(prompt(longer + R"(,"max_tokens":64)"), StartsWith("prompt: the prompt has no tokens"));
}

// In words that vLLM's clients look for.
TEST(ApiRequest, APromptThatIsNoneIsRefused) {
  const std::pair<const char*, const char*> said[] = {
      {R"({"prompt":null,"prompt_embeds":[]})", "Either prompt or prompt_embeds must be provided and non-empty."},
      {R"({"prompt":[]})", "prompt or prompt_embeds"},
      {R"({"prompt":""})", "decoder prompt cannot be empty"},
      {R"({"prompt":[[]]})", "decoder prompt cannot be empty"},
      {R"({"prompt":[-1]})", "greater than or equal to 0"},
      {R"({"prompt":[[5],[-1]]})", "greater than or equal to 0"},
  };
  for (const auto& [body, words] : said) {
    const auto request = parse(ApiKind::kCompletion, body);
    ASSERT_FALSE(request.ok()) << body;
    EXPECT_THAT(request.error().message, HasSubstr(words)) << body;
    EXPECT_THAT(request.error().message, StartsWith("prompt: ")) << body;
  }
}

TEST(ApiRequest, WordsThatMustNotCome) {
  const auto words = [](const char* list) {
    return parsed(ApiKind::kCompletion, fmt::format(R"({{"prompt":"a","bad_words":{}}})", list))
        .choices[0]
        .engine.sampling.bad_words;
  };
  using Words = std::vector<std::vector<int32_t>>;
  // With a space in front a word of bytes has one more, so there is no second way to write it with as many.
  EXPECT_EQ(words(R"(["ab"," c"])"), (Words{{'a', 'b'}, {'c'}}));
  EXPECT_EQ(words("[]"), Words{});
  std::string many = "[\"x\"";
  for (int i = 0; i < 512; ++i) many += ",\"x\"";
  EXPECT_THAT(parse(ApiKind::kCompletion, "{\"prompt\":\"a\",\"bad_words\":" + many + "]}").error().message,
              StartsWith("bad_words: 513 entries"));
  const engine::SamplingParams p =
      parsed(ApiKind::kChat, body_with(ApiKind::kChat, R"("allowed_token_ids":[5,6],"stop_token_ids":[4,999,-3,258])"))
          .choices[0]
          .engine.sampling;
  EXPECT_EQ(p.allowed_token_ids, (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(p.stop_token_ids, std::vector<int32_t>{4});
}

// min_tokens and the OpenAI endpoints' repetition_penalty are vLLM's, /generate is SGLang's.
TEST(ApiRequest, EachOriginalsFieldDoesWhatItDoesThere) {
  const ChoiceRequest vllm =
      parsed(ApiKind::kCompletion, R"({"prompt":"a","min_tokens":5,"repetition_penalty":1.5})").choices[0];
  EXPECT_EQ(vllm.stops_after, 5);
  EXPECT_EQ(vllm.engine.sampling.min_new_tokens, 5);
  EXPECT_TRUE(vllm.engine.sampling.repetition_of_prompt);
  const ChoiceRequest sglang =
      parsed(ApiKind::kGenerate, body_with(ApiKind::kGenerate, R"("min_new_tokens":5)")).choices[0];
  EXPECT_EQ(sglang.stops_after, 0);
  EXPECT_EQ(sglang.engine.sampling.min_new_tokens, 5);
  EXPECT_FALSE(sglang.engine.sampling.repetition_of_prompt);
  EXPECT_EQ(parsed(ApiKind::kGenerate, body_with(ApiKind::kGenerate, R"("min_tokens":5)")).choices[0].stops_after, 5);
}

TEST(ApiRequest, WhatTheAnswerShowsOfTokens) {
  const ApiRequest request = parsed(
      ApiKind::kCompletion,
      R"({"prompt":"ab","prompt_logprobs":2,"return_token_ids":true,"return_tokens_as_token_ids":true,"logprobs":1})");
  EXPECT_EQ(request.prompt_logprobs, 2);
  EXPECT_EQ(request.choices[0].engine.prompt_logprobs, 2);
  EXPECT_EQ(request.choices[0].engine.prompt_logprob_start, 0);
  EXPECT_EQ(request.choices[0].engine.logprobs, 1);
  EXPECT_TRUE(request.return_token_ids && request.return_prompt_token_ids && request.tokens_as_ids);
  EXPECT_THAT(parse(ApiKind::kChat, body_with(ApiKind::kChat, R"("stream":true,"prompt_logprobs":1)")).error().message,
              StartsWith("prompt_logprobs: "));
  EXPECT_TRUE(parse(ApiKind::kChat, body_with(ApiKind::kChat, R"("stream":true,"prompt_logprobs":0)")).ok());
  EXPECT_TRUE(parsed(ApiKind::kGenerate, R"({"text":"a","return_prompt_token_ids":true})").return_prompt_token_ids);
}

TEST(ApiRequest, UsageOfEveryChunkIsPartOfUsage) {
  const auto options = [](const char* value) {
    return parsed(ApiKind::kCompletion, fmt::format(R"({{"prompt":"a","stream":true,"stream_options":{}}})", value));
  };
  EXPECT_FALSE(options(R"({"continuous_usage_stats":true})").continuous_usage);
  EXPECT_TRUE(options(R"({"include_usage":true,"continuous_usage_stats":true})").continuous_usage);
}

TEST(ApiRequest, WhatTheOperatorWantsInEveryAnswer) {
  const auto model = byte_model();
  const auto read = [&](const char* fields) {
    auto request = parse_api_request(ApiKind::kChat, body_with(ApiKind::kChat, fields), *model, engine::Role::kUnified);
    EXPECT_TRUE(request.ok()) << fields;
    return std::tuple(request->include_usage, request->continuous_usage, request->tokens_as_ids);
  };
  const char* silent = R"("stream":true)";
  const char* no = R"("stream":true,"return_tokens_as_token_ids":false,"stream_options":{"include_usage":false})";
  const char* yes = R"("stream":true,"stream_options":{"continuous_usage_stats":true})";
  EXPECT_EQ(read(silent), std::tuple(false, false, false));
  EXPECT_EQ(read(yes), std::tuple(false, false, false));
  model->tokens_as_ids = true;
  model->usage_in_streams = StreamUsage::kLast;
  EXPECT_EQ(read(silent), std::tuple(true, false, true));
  EXPECT_EQ(read(no), std::tuple(true, false, false));
  EXPECT_EQ(read(yes), std::tuple(true, true, true));
  model->usage_in_streams = StreamUsage::kEveryEvent;
  EXPECT_EQ(read(silent), std::tuple(true, true, true));
  EXPECT_EQ(read(no), std::tuple(true, true, false));
}

TEST(ApiRequest, NamesOfCallsAndKeysOfCaches) {
  EXPECT_EQ(parsed(ApiKind::kCompletion, R"({"prompt":"a","request_id":"mine"})").id, "cmpl-mine");
  EXPECT_EQ(parsed(ApiKind::kCompletion, R"({"prompt":"a","request_id":"mine","rid":"r"})").id, "r");
  const ApiRequest salted =
      parsed(ApiKind::kCompletion, R"({"prompt":["a","b"],"n":2,"cache_salt":["x","y"],"extra_key":"k"})");
  EXPECT_EQ(salted.choices[1].engine.cache_salt, std::string("x\0k", 3));
  EXPECT_EQ(salted.choices[2].engine.cache_salt, std::string("y\0k", 3));
  EXPECT_EQ(parsed(ApiKind::kCompletion, R"({"prompt":"a","cache_salt":"x"})").choices[0].engine.cache_salt, "x");
}

TEST(ApiRequest, EveryWrongBiasIsTold) {
  const std::string said =
      parse(ApiKind::kChat, body_with(ApiKind::kChat, R"("logit_bias":{"bad1":50,"5":1,"bad2":20,"258":1})"))
          .error()
          .message;
  for (const char* part : {"logit_bias: ", "'bad1'", "'bad2'", "'258'", "below 258"})
    EXPECT_THAT(said, HasSubstr(part));
  EXPECT_THAT(said, ::testing::Not(HasSubstr("'5'")));
}

TEST(ApiRequest, ASeedBeyondItsBoundsIsToldInPydanticsWords) {
  for (const char* seed : {"9223372036854775808", "-9223372036854775809"}) {
    const std::string said =
        parse(ApiKind::kChat, body_with(ApiKind::kChat, fmt::format("\"seed\":{}", seed))).error().message;
    EXPECT_THAT(said, StartsWith("seed: "));
    EXPECT_THAT(said, HasSubstr("less_than_equal"));
  }
}

}  // namespace
}  // namespace baton::http
