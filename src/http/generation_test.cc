// From the engine's outputs to answers: whole and streamed, of the three endpoints.
#include "http/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <limits>

#include "http/test_support.h"

namespace baton::http {

using engine::FinishReason;

namespace {

namespace json = boost::json;
using ::testing::HasSubstr;
using ::testing::Not;

// One call from its body on; the test plays the engine.
struct Played {
  Played(ApiKind kind, const std::string& body, ModelText* other = nullptr) {
    model = byte_model(4096);
    ModelText& used = other != nullptr ? *other : *model;
    auto parsed = parse_api_request(kind, body, used, engine::Role::kUnified);
    BATON_CHECK(parsed.ok(), "{}", parsed.error().message);
    start_generation(std::move(*parsed), used, engine, metrics, std::make_shared<KeepingWriter>(answer),
                     {{"x-request-id", "q1"}});
  }
  // The events of a streamed answer, without "data: "; each write is one event.
  [[nodiscard]] std::vector<std::string> events() const {
    std::vector<std::string> out;
    std::string_view rest = answer.body;
    while (!rest.empty()) {
      const size_t end = rest.find("\n\n");
      EXPECT_TRUE(rest.starts_with("data: ") && end != std::string_view::npos) << rest;
      out.emplace_back(rest.substr(6, end - 6));
      rest.remove_prefix(end + 2);
    }
    return out;
  }
  [[nodiscard]] json::value event(size_t i) const { return json::parse(events().at(i)); }
  [[nodiscard]] json::value whole() const { return json::parse(answer.body); }

  std::unique_ptr<ModelText> model;
  PlayedEngine engine;
  Metrics metrics{{"tiny", engine::Role::kUnified, true}};
  KeptAnswer answer;
};
const std::string kChat = R"("messages":[{"role":"user","content":"hi"}])";
const json::value& at(const json::value& value, const char* pointer) { return value.at_pointer(pointer); }

TEST(Generation, GenerateAnswersWhole) {
  Played p(ApiKind::kGenerate, R"({"text":"abc","rid":"r1","sampling_params":{"max_new_tokens":2}})");
  p.engine.deliver(0, "x");
  EXPECT_EQ(p.answer.status, 0);
  p.engine.deliver(0, "y", finished(FinishReason::kLength));
  EXPECT_EQ(p.answer.status, 200);
  EXPECT_EQ(find_header(p.answer.headers, "x-request-id"), "q1");
  const json::value answer = p.whole();
  EXPECT_EQ(at(answer, "/text"), "xy");
  EXPECT_EQ(at(answer, "/output_ids"), json::array({'x', 'y'}));
  const json::value& meta = at(answer, "/meta_info");
  EXPECT_EQ(at(meta, "/id"), "r1");
  EXPECT_EQ(at(meta, "/finish_reason"), (json::object{{"type", "length"}, {"length", 2}}));
  EXPECT_EQ(at(meta, "/prompt_tokens"), 3);
  EXPECT_EQ(at(meta, "/completion_tokens"), 2);
  for (const char* field : {"cached_tokens", "e2e_latency", "weight_version", "ttft_parts_ms"})
    EXPECT_TRUE(meta.as_object().contains(field)) << field;
}

TEST(Generation, GenerateFinishReasons) {
  const auto finish_of = [](const char* body, std::string_view text, engine::Output::Finish finish) {
    Played p(ApiKind::kGenerate, body);
    p.engine.deliver(0, text, std::move(finish));
    return json::serialize(at(p.whole(), "/meta_info/finish_reason"));
  };
  EXPECT_EQ(finish_of(R"({"text":"a"})", "b!", {FinishReason::kStop, '!', std::nullopt}),
            R"({"type":"stop","matched":33})");
  EXPECT_EQ(finish_of(R"({"text":"a","sampling_params":{"stop":"END"}})", "bEND", finished(FinishReason::kLength)),
            R"({"type":"stop","matched":"END"})");
  EXPECT_EQ(
      finish_of(R"({"text":"a","sampling_params":{"stop_regex":"E(N|M)D"}})", "bEND", finished(FinishReason::kLength)),
      R"({"type":"stop","matched":"E(N|M)D"})");
  EXPECT_EQ(finish_of(R"({"text":"a"})", "b",
                      finished(FinishReason::kAbort, error(ErrorCode::kCancelled, "aborted by \"me\""))),
            R"({"type":"abort","message":"aborted by \"me\""})");
}

TEST(Generation, GenerateStreamsCumulativeText) {
  Played p(ApiKind::kGenerate, R"({"text":"a","stream":true,"lora_path":null})");
  EXPECT_EQ(p.answer.status, 0);  // held until there is a token
  p.engine.deliver(0, "x");
  EXPECT_EQ(p.answer.status, 200);
  EXPECT_EQ(find_header(p.answer.headers, "content-type"), "text/event-stream");
  EXPECT_EQ(p.answer.writes.size(), 1U);
  p.engine.deliver(0, "y");
  p.engine.deliver(0, "z", finished(FinishReason::kLength));
  ASSERT_EQ(p.events().size(), 4U);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(at(p.event(i), "/text"), json::value(std::string("xyz").substr(0, i + 1)));
  EXPECT_TRUE(at(p.event(1), "/meta_info/finish_reason").is_null());
  EXPECT_EQ(p.events().back(), "[DONE]");
  EXPECT_TRUE(p.answer.complete);
}

TEST(Generation, BatchesAnswerInOrderAndStreamWithAnIndex) {
  Played whole(ApiKind::kGenerate, R"({"text":["a","b"]})");
  whole.engine.deliver(1, "2", finished(FinishReason::kLength));
  EXPECT_FALSE(whole.answer.complete);
  whole.engine.deliver(0, "1", finished(FinishReason::kLength));
  EXPECT_EQ(at(whole.whole(), "/0/text"), "1");
  EXPECT_EQ(at(whole.whole(), "/1/text"), "2");
  Played stream(ApiKind::kGenerate, R"({"text":["a","b"],"stream":true})");
  stream.engine.deliver(1, "2", finished(FinishReason::kLength));
  stream.engine.deliver(0, "1", finished(FinishReason::kLength));
  EXPECT_EQ(at(stream.event(0), "/index"), 1);
  EXPECT_EQ(at(stream.event(1), "/index"), 0);
  EXPECT_EQ(stream.events().size(), 3U);  // one [DONE] for all
}

TEST(Generation, ChatAnswersWhole) {
  Played p(ApiKind::kChat, "{" + kChat + "}");
  p.engine.deliver(0, "hello\"\n", finished(FinishReason::kStop));
  const json::value answer = p.whole();
  EXPECT_EQ(at(answer, "/object"), "chat.completion");
  EXPECT_EQ(at(answer, "/model"), "tiny");
  EXPECT_EQ(at(answer, "/choices/0/message/role"), "assistant");
  EXPECT_EQ(at(answer, "/choices/0/message/content"), "hello\"\n");
  EXPECT_EQ(at(answer, "/choices/0/finish_reason"), "stop");
  EXPECT_EQ(at(answer, "/usage/completion_tokens"), 7);
  EXPECT_EQ(at(answer, "/usage/total_tokens").as_int64(), at(answer, "/usage/prompt_tokens").as_int64() + 7);
}

TEST(Generation, ChatStreamsTheRoleWithTheFirstText) {
  Played p(ApiKind::kChat, "{" + kChat + R"(,"stream":true,"stop":"zz","stream_options":{"include_usage":true}})");
  p.engine.deliver(0, "\xC3");  // a half of a character
  p.engine.deliver(0, "\xA9");
  p.engine.deliver(0, "z");  // may begin the stop string
  EXPECT_EQ(p.answer.writes.size(), 1U);
  p.engine.deliver(0, "b");
  p.engine.deliver(0, "c", finished(FinishReason::kLength));
  const auto events = p.events();
  ASSERT_EQ(events.size(), 5U);  // three of text, usage, [DONE]
  EXPECT_EQ(at(p.event(0), "/object"), "chat.completion.chunk");
  const json::object nothing_else{{"reasoning_content", nullptr}, {"tool_calls", nullptr}};
  json::object first = nothing_else, second = nothing_else;
  first.insert({{"role", "assistant"}, {"content", "\xC3\xA9"}});
  second["content"] = "zb";
  EXPECT_EQ(at(p.event(0), "/choices/0/delta"), first);
  EXPECT_EQ(at(p.event(1), "/choices/0/delta"), second);
  EXPECT_EQ(at(p.event(2), "/choices/0/finish_reason"), "length");
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(at(p.event(i), "/choices").as_array().size(), 1U);
    EXPECT_TRUE(at(p.event(i), "/usage").is_null());
  }
  EXPECT_TRUE(at(p.event(3), "/choices").as_array().empty());
  EXPECT_EQ(at(p.event(3), "/usage/completion_tokens"), 5);
  EXPECT_EQ(events[4], "[DONE]");
}

TEST(Generation, UsageIsSentOnlyWhereItIsAskedFor) {
  Played without(ApiKind::kCompletion, R"({"prompt":"a","stream":true})");
  without.engine.deliver(0, "x", finished(FinishReason::kLength));
  EXPECT_THAT(without.answer.body, Not(HasSubstr("\"choices\":[]")));
  Played always(ApiKind::kCompletion, R"({"prompt":"a","stream":true,"stream_options":)"
                                      R"({"include_usage":true,"continuous_usage_stats":true}})");
  always.engine.deliver(0, "x");
  EXPECT_EQ(at(always.event(0), "/usage/completion_tokens"), 1);
}

TEST(Generation, UsageCountsAPromptOnceForItsSamples) {
  Played p(ApiKind::kCompletion, R"({"prompt":["abc","de"],"n":2})");
  for (size_t i = 0; i < 4; ++i) p.engine.deliver(i, "x", finished(FinishReason::kLength));
  EXPECT_EQ(at(p.whole(), "/usage/prompt_tokens"), 5);
  EXPECT_EQ(at(p.whole(), "/usage/completion_tokens"), 4);
  EXPECT_EQ(at(p.whole(), "/choices").as_array().size(), 4U);
}

// Both originals': the three counts alone unless the operator asks for more. What is ours stands beside them.
TEST(Generation, UsageSaysWhatWasCachedWhereItIsReported) {
  const auto usage = [](ModelText* model) {
    Played p(ApiKind::kCompletion, R"({"prompt":"abc"})", model);
    engine::Output last;
    last.tokens.push_back({'x', -0.5F, {}});
    last.cached_tokens = 2;
    last.finish = finished(FinishReason::kLength);
    p.engine.sinks.at(0)(std::move(last));
    EXPECT_TRUE(p.whole().as_object().contains("ttft_parts_ms"));
    return at(p.whole(), "/usage");
  };
  EXPECT_EQ(usage(nullptr),
            json::parse(R"({"prompt_tokens":3,"total_tokens":4,"completion_tokens":1,"prompt_tokens_details":null})"));
  const auto model = byte_model(4096);
  model->report_cached_tokens = true;
  EXPECT_EQ(usage(model.get()).at_pointer("/prompt_tokens_details/cached_tokens"), 2);
}

engine::Output logprobs_output(std::string_view text, std::optional<engine::Output::Finish> finish) {
  engine::Output output;
  for (const char c : text)
    output.tokens.push_back({c, -0.25F, {{c, -0.25F}, {'q', -std::numeric_limits<float>::infinity()}}});
  output.finish = std::move(finish);
  return output;
}

TEST(Generation, CompletionLogprobsWithEcho) {
  Played p(ApiKind::kCompletion, R"({"prompt":"ab","echo":true,"logprobs":2})");
  engine::Output output = logprobs_output("xyz", finished(FinishReason::kLength));
  output.prompt_logprobs = {{'a', std::nullopt, {}}, {'b', -1.5F, {{'b', -1.5F}}}};
  p.engine.sinks.begin()->second(std::move(output));
  const json::value answer = p.whole();  // JSON even with a logprob of -inf
  EXPECT_EQ(at(answer, "/choices/0/text"), "abxyz");
  const json::value& logprobs = at(answer, "/choices/0/logprobs");
  EXPECT_EQ(at(logprobs, "/tokens"), json::array({"a", "b", "x", "y", "z"}));
  EXPECT_EQ(at(logprobs, "/token_logprobs"), json::array({nullptr, -1.5, -0.25, -0.25, -0.25}));
  EXPECT_EQ(at(logprobs, "/text_offset"), json::array({0, 1, 2, 3, 4}));
  EXPECT_EQ(at(logprobs, "/top_logprobs/2"), (json::object{{"x", -0.25}, {"q", -9999.0}}));
}

TEST(Generation, StreamedOffsetsGoOn) {
  // With echo and without the prompt's logprobs, as on a decode instance, they begin behind the echoed text.
  for (const bool echo : {false, true}) {
    Played p(ApiKind::kCompletion, fmt::format(R"({{"prompt":"ab","logprobs":0,"stream":true,"echo":{}}})", echo));
    p.engine.sinks.begin()->second(logprobs_output("x", std::nullopt));
    p.engine.sinks.begin()->second(logprobs_output("yz", finished(FinishReason::kLength)));
    const int base = echo ? 2 : 0;
    EXPECT_EQ(at(p.event(0), "/choices/0/logprobs/text_offset"), json::array({json::value(base)}));
    EXPECT_EQ(at(p.event(1), "/choices/0/logprobs/text_offset"), json::array({base + 1, base + 2}));
    EXPECT_EQ(at(p.event(0), "/choices/0/text"), echo ? "abx" : "x");
  }
}

TEST(Generation, GenerateLogprobs) {
  Played p(
      ApiKind::kGenerate,
      R"({"text":"ab","return_logprob":true,"logprob_start_len":0,"top_logprobs_num":2,"return_text_in_logprobs":true})");
  engine::Output output = logprobs_output("x", finished(FinishReason::kLength));
  output.prompt_logprobs = {{'a', std::nullopt, {}}, {'b', -1.5F, {{'b', -1.5F}}}};
  p.engine.sinks.begin()->second(std::move(output));
  const json::value answer = p.whole();
  const json::value& meta = at(answer, "/meta_info");
  EXPECT_EQ(json::serialize(at(meta, "/input_token_logprobs")), R"([[null,97,"a"],[-1.5E0,98,"b"]])");
  EXPECT_EQ(json::serialize(at(meta, "/output_token_logprobs")), R"([[-2.5E-1,120,"x"]])");
  EXPECT_EQ(at(meta, "/input_top_logprobs/0"), nullptr);
  EXPECT_EQ(at(meta, "/output_top_logprobs/0").as_array().size(), 2U);
}

// Of a call that says little itself: the i-th token of the prompt and of the text has the logprob -i.
engine::Output scored(size_t prompt, const std::string& text, size_t listed = 0) {
  engine::Output output;
  for (size_t i = 0; i < prompt; ++i)
    output.prompt_logprobs.push_back({'p', -static_cast<float>(i), {}, std::vector<float>(listed, -7)});
  if (prompt > 0) output.prompt_logprobs.front().logprob.reset();
  for (size_t i = 0; i < text.size(); ++i)
    output.tokens.push_back(
        {static_cast<unsigned char>(text[i]), -static_cast<float>(i), {}, std::vector<float>(listed, -8)});
  output.finish = finished(FinishReason::kLength);
  return output;
}

std::string lists_of(const json::value& meta) {
  std::string out;
  for (const char* name : {"input_token_logprobs", "input_top_logprobs", "input_token_ids_logprobs",
                           "output_token_logprobs", "output_top_logprobs", "output_token_ids_logprobs"}) {
    if (meta.as_object().contains(name)) out += json::serialize(meta.at(name)) + " ";
  }
  return out;
}

TEST(Generation, GenerateLogprobsOfListedTokens) {
  Played p(ApiKind::kGenerate,
           R"({"text":"ppp","return_logprob":true,"logprob_start_len":0,"token_ids_logprob":[5,9]})");
  EXPECT_EQ(p.engine.requests[0].token_ids_logprob, (std::vector<int32_t>{5, 9}));
  p.engine.sinks.begin()->second(scored(2, "x", 2));
  EXPECT_EQ(lists_of(at(p.whole(), "/meta_info")),
            "[[null,112,null],[-1E0,112,null]] [null,[[-7E0,5,null],[-7E0,9,null]]] [[-0E0,120,null]] "
            "[[[-8E0,5,null],[-8E0,9,null]]] ");
}

// As SGLang: the first row has no logprob wherever it begins, and without a start there is one of the last token.
TEST(Generation, GenerateLogprobsOfAPartOfThePrompt) {
  const auto lists = [](const std::string& fields, engine::Output output) {
    Played p(ApiKind::kGenerate, R"({"text":"abp","return_logprob":true,)" + fields + "}");
    p.engine.sinks.begin()->second(std::move(output));
    return lists_of(at(p.whole(), "/meta_info"));
  };
  engine::Output from_one = scored(2, "x");
  from_one.prompt_logprobs.front().logprob = -3;
  EXPECT_EQ(lists(R"("logprob_start_len":1)", std::move(from_one)),
            "[[null,112,null],[-1E0,112,null]] [[-0E0,120,null]] ");
  EXPECT_EQ(lists(R"("top_logprobs_num":1)", scored(0, "x")), "[[null,112,null]] [null] [[-0E0,120,null]] [[]] ");
  // Nothing new is wanted: what would come next has its row, and the prompt has none that was not asked for.
  engine::Output none = scored(0, "", 1);
  none.next = engine::GeneratedToken{'y', -2, {}, {-8}};
  EXPECT_EQ(
      lists(R"("token_ids_logprob":[5],"logprob_start_len":9,"sampling_params":{"max_new_tokens":0})", std::move(none)),
      "[] [] [[-2E0,121,null]] [[[-8E0,5,null]]] ");
}

// It hands all of them over, and routers put its rows in front of decode's.
TEST(Generation, APrefillLegHasNoRowsToBeCountedTwice) {
  Played p(ApiKind::kGenerate, R"({"text":"ab","return_logprob":true,"top_logprobs_num":2})");
  engine::Output output;
  output.finish = finished(FinishReason::kLength);
  output.handed_over = true;
  p.engine.sinks.begin()->second(std::move(output));
  EXPECT_EQ(lists_of(at(p.whole(), "/meta_info")), "[] [] [] [] ");
}

TEST(Generation, AnEchoIsThePromptAsItCame) {
  const auto text = [](const std::string& prompt) {
    Played p(ApiKind::kCompletion, R"({"echo":true,"prompt":)" + prompt + "}");
    for (size_t i = 0; i < p.engine.requests.size(); ++i) p.engine.deliver(i, "x", finished(FinishReason::kLength));
    std::string all;
    const json::value answer = p.whole();
    for (const json::value& choice : at(answer, "/choices").as_array())
      all += std::string(choice.at("text").as_string()) + "|";
    return all;
  };
  EXPECT_EQ(text(R"("<s>a</s>b")"), "<s>a</s>bx|");
  EXPECT_EQ(text(R"(["<s>a","e\u0301"],"n":2)"), "<s>ax|<s>ax|e\xCC\x81x|e\xCC\x81x|");
  // What ids stand for is without special tokens there, whatever the answer's text is like.
  EXPECT_EQ(text(R"([256,97,257,98],"skip_special_tokens":false)"), "abx|");
  EXPECT_EQ(text("[[256,97],[98]]"), "ax|bx|");
}

TEST(Generation, AnEventHasWhatIsNewIfTheServerIsToldSo) {
  const auto model = byte_model(4096);
  model->incremental_streaming = true;
  Played p(ApiKind::kGenerate, R"({"text":"a","stream":true,"sampling_params":{"stop":"zz"}})", model.get());
  p.engine.deliver(0, "xy");
  p.engine.deliver(0, "z");  // may begin the stop string
  p.engine.deliver(0, "b", finished(FinishReason::kLength));
  ASSERT_EQ(p.events().size(), 3U);
  EXPECT_EQ(at(p.event(0), "/text"), "xy");
  EXPECT_EQ(at(p.event(1), "/text"), "zb");
  EXPECT_EQ(at(p.event(1), "/output_ids"), (json::array{'z', 'b'}));
  EXPECT_EQ(at(p.event(1), "/meta_info/completion_tokens"), 4);
  Played whole(ApiKind::kGenerate, R"({"text":"a"})", model.get());
  whole.engine.deliver(0, "x");
  whole.engine.deliver(0, "y", finished(FinishReason::kLength));
  EXPECT_EQ(at(whole.whole(), "/text"), "xy");
}

TEST(Generation, TextOffsetsCountCharactersOfTheReturnedText) {
  for (const bool stream : {false, true}) {
    Played p(ApiKind::kCompletion,
             fmt::format(R"({{"prompt":"<s>\u00e9z","echo":true,"logprobs":0,"stop":"END","stream":{}}})", stream));
    engine::Output output = scored(4, "\xE6\x97\xA5z");  // 日
    output.finish.reset();
    output.tokens.push_back({kTestBos, -1, {}});  // left out of the text
    p.engine.sinks.begin()->second(std::move(output));
    p.engine.deliver(0, "aEND");
    const json::value answer = stream ? p.event(0) : p.whole();
    const json::value& logprobs = at(answer, "/choices/0/logprobs");
    json::array offsets = at(logprobs, "/text_offset").as_array();
    if (stream) {
      const json::value last = p.event(1);
      for (const json::value& offset : at(last, "/choices/0/logprobs/text_offset").as_array())
        offsets.push_back(offset);
      EXPECT_EQ(at(answer, "/choices/0/text"), "<s>\xC3\xA9z\xE6\x97\xA5z");
    } else {
      EXPECT_EQ(at(answer, "/choices/0/text"), "<s>\xC3\xA9z\xE6\x97\xA5za");
    }
    // <s>, both halves of é, z; the three parts of 日, z, <s>, a; the stop string begins where the text ends.
    EXPECT_EQ(offsets, json::array({0, 3, 3, 4, 5, 5, 5, 6, 7, 7, 8, 8, 8})) << stream;
  }
}

TEST(Generation, AnEventWithoutTokensHasNoLogprobs) {
  for (const auto& [kind, body] : {std::pair{ApiKind::kCompletion, std::string(R"({"prompt":"a","logprobs":1)")},
                                   std::pair{ApiKind::kChat, "{" + kChat + R"(,"logprobs":true)"}}) {
    Played p(kind, body + R"(,"stream":true})");
    p.engine.deliver(0, "x");
    p.engine.deliver(0, "", finished(FinishReason::kLength));
    EXPECT_FALSE(at(p.event(0), "/choices/0/logprobs").is_null());
    EXPECT_TRUE(at(p.event(1), "/choices/0/logprobs").is_null());
  }
}

TEST(Generation, CompletionLogprobsAlwaysHaveTheTokenItself) {
  Played none(ApiKind::kCompletion, R"({"prompt":"pp","echo":true,"logprobs":0})");
  none.engine.sinks.begin()->second(scored(2, "x"));
  EXPECT_EQ(json::serialize(at(none.whole(), "/choices/0/logprobs/top_logprobs")), R"([null,{"p":-1E0},{"x":-0E0}])");
  // Another token than the best, and two whose texts are the same: the better of them counts.
  Played two(ApiKind::kCompletion, R"({"prompt":"p","logprobs":3})");
  engine::Output output;
  output.tokens = {{'z', -9, {{'a', -1}, {0xE6, -2}, {0xE7, -3}}}};
  output.finish = finished(FinishReason::kLength);
  two.engine.sinks.begin()->second(std::move(output));
  EXPECT_EQ(at(two.whole(), "/choices/0/logprobs/top_logprobs/0"),
            (json::object{{"a", -1.0}, {"\xEF\xBF\xBD", -2.0}, {"z", -9.0}}));
  EXPECT_EQ(at(two.whole(), "/choices/0/logprobs/top_logprobs/0").as_object().begin()->key(), "z");
}

TEST(Generation, AFakeTransferSaysSo) {
  auto model = byte_model();
  auto parsed = parse_api_request(ApiKind::kGenerate,
                                  R"({"text":"a","return_logprob":true,"bootstrap_host":"2.2.2.2","bootstrap_room":0})",
                                  *model, engine::Role::kDecode);
  PlayedEngine played;
  Metrics metrics{{"tiny", engine::Role::kDecode, true}};
  KeptAnswer answer;
  start_generation(std::move(*parsed), *model, played, metrics, std::make_shared<KeepingWriter>(answer), {});
  played.deliver(0, "a", finished(FinishReason::kLength));
  const json::value body = json::parse(answer.body);
  EXPECT_EQ(at(body, "/meta_info/fake_transfer"), true);
  EXPECT_EQ(at(body, "/meta_info/input_token_logprobs"), json::array());
}

TEST(Generation, ChatLogprobsHaveBytes) {
  Played p(ApiKind::kChat, "{" + kChat + R"(,"logprobs":true,"top_logprobs":2})");
  p.engine.sinks.begin()->second(logprobs_output("x", finished(FinishReason::kLength)));
  const json::value answer = p.whole();
  const json::value& entry = at(answer, "/choices/0/logprobs/content/0");
  EXPECT_EQ(at(entry, "/token"), "x");
  EXPECT_EQ(at(entry, "/bytes"), json::array({json::value(120)}));
  EXPECT_EQ(at(entry, "/top_logprobs").as_array().size(), 2U);
}

TEST(Generation, APrefillLegAnswersWithLengthZero) {
  Played p(ApiKind::kGenerate, R"({"text":"ab"})");
  engine::Output output;
  output.finish = finished(FinishReason::kLength);
  output.handed_over = true;
  output.ttft.grant_ms = 3;
  output.ttft.prefill_ms = 5;
  p.engine.sinks.begin()->second(std::move(output));
  EXPECT_EQ(at(p.whole(), "/meta_info/finish_reason"), (json::object{{"type", "length"}, {"length", 0}}));
  EXPECT_THAT(p.metrics.render(p.engine.stats(), p.engine.info()),
              HasSubstr("sglang:kv_transfer_bootstrap_ms_count{dp_rank=\"0\",engine_type=\"unified\",model_name="
                        "\"tiny\",tp_rank=\"0\"} 1"));
}

TEST(Generation, WithoutATokenizerEveryTokenIsAnEvent) {
  auto bare = byte_model();
  bare->tokenizer.reset();
  Played p(ApiKind::kGenerate, R"({"input_ids":[5],"stream":true})", bare.get());
  p.engine.deliver(0, "x");
  ASSERT_EQ(p.events().size(), 1U);
  EXPECT_EQ(at(p.event(0), "/output_ids"), json::array({json::value(120)}));
  EXPECT_EQ(at(p.event(0), "/text"), "");
}

TEST(Generation, ErrorsBeforeTheFirstTokenAreStatuses) {
  const std::vector<std::pair<ErrorCode, int>> cases = {{ErrorCode::kUnavailable, 503},
                                                        {ErrorCode::kDeadlineExceeded, 504},
                                                        {ErrorCode::kResourceExhausted, 429},
                                                        {ErrorCode::kCorrupt, 500},
                                                        {ErrorCode::kInvalidArgument, 400}};
  for (const bool stream : {false, true}) {
    for (const auto& [code, status] : cases) {
      Played p(ApiKind::kGenerate, fmt::format(R"({{"text":"a","stream":{}}})", stream));
      p.engine.deliver(0, "", finished(FinishReason::kAbort, error(code, "KV is lost")));
      EXPECT_EQ(p.answer.status, status);
      EXPECT_EQ(at(p.whole(), "/error/message"), "KV is lost");
      EXPECT_EQ(at(p.whole(), "/message"), "KV is lost");
      EXPECT_EQ(at(p.whole(), "/object"), "error");
      EXPECT_EQ(at(p.whole(), "/code"), at(p.whole(), "/error/code"));
      EXPECT_EQ(find_header(p.answer.headers, "x-request-id"), "q1");
    }
  }
}

TEST(Generation, AnErrorInMidStreamIsAnEventAndThenDone) {
  Played p(ApiKind::kCompletion, R"({"prompt":"a","n":2,"stream":true})");
  p.engine.deliver(0, "x");
  p.engine.deliver(0, "",
                   finished(FinishReason::kAbort, error(ErrorCode::kDeadlineExceeded, "the transfer took too long")));
  const auto events = p.events();
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(at(p.event(1), "/error/message"), "the transfer took too long");
  EXPECT_EQ(at(p.event(1), "/error/code"), 504);
  EXPECT_EQ(events[2], "[DONE]");
  EXPECT_TRUE(p.answer.complete);
  EXPECT_THAT(p.engine.aborted, ::testing::Contains(1));  // the other choice ends too
  p.engine.deliver(1, "late");
  EXPECT_EQ(p.events().size(), 3U);
}

TEST(Generation, AStopStringTellsTheEngine) {
  Played p(ApiKind::kGenerate, R"({"text":"a","sampling_params":{"stop":"."}})");
  p.engine.deliver(0, "x.y");
  EXPECT_EQ(p.engine.stopped, std::vector<uint64_t>{0});
  EXPECT_TRUE(p.engine.aborted.empty());
  EXPECT_EQ(at(p.whole(), "/text"), "x");
}

TEST(Generation, AClientThatLeavesAbortsEveryChoice) {
  Played p(ApiKind::kGenerate, R"({"text":["a","b"],"stream":true})");
  p.answer.disconnect();
  EXPECT_EQ(p.engine.aborted, (std::vector<uint64_t>{0, 1}));
}

// A client that gives up and asks again under the same rid is served, and its first call's end leaves the second
// alone.
TEST(Generation, CallsOfOneRidDoNotDisturbEachOther) {
  Played p(ApiKind::kGenerate, R"({"text":"a","rid":"r"})");
  auto again = parse_api_request(ApiKind::kGenerate, R"({"text":"a","rid":"r"})", *p.model, engine::Role::kUnified);
  KeptAnswer second;
  start_generation(std::move(*again), *p.model, p.engine, p.metrics, std::make_shared<KeepingWriter>(second), {});
  p.answer.disconnect();
  EXPECT_EQ(p.engine.aborted, std::vector<uint64_t>{0});
  p.engine.deliver(1, "x", finished(FinishReason::kLength));
  EXPECT_EQ(second.status, 200);
  EXPECT_EQ(json::parse(second.body).at_pointer("/meta_info/id"), "r");
}

}  // namespace
}  // namespace baton::http
