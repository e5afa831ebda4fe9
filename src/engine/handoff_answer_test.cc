// What two engines say together that are one to the client: first tokens, logprobs, what was cached, and warm-ups.
#include <future>

#include "engine/disaggregation_test.h"

namespace baton::engine {
namespace {

bool same(const std::vector<TokenLogprob>& a, const std::vector<TokenLogprob>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.token == y.token && x.logprob == y.logprob; });
}

// Decode's answer is complete by itself, whoever is in front; prefill's has nothing that could be counted twice.
TEST_F(DisaggregationTest, DecodeTellsEveryLogprobThatAnUndividedInstanceTells) {
  EnginePair pair(simple());
  const auto undivided = pair.make(Role::kUnified, simple().prefill);
  for (const int start : {-1, 0, 13, 29}) {
    for (const int new_tokens : {0, 1, 5}) {
      Request request = request_of("a", random_prompt(static_cast<uint64_t>(8 + start), 30, kVocab), new_tokens);
      request.logprobs = 3;
      request.prompt_logprob_start = start;
      request.token_ids_logprob = {7, 0, kVocab - 1, 7};
      if (start == 13) request.prompt_logprobs = 5;
      Client prefill, decode, expected;
      ASSERT_TRUE(undivided->submit(request, expected.sink()).ok());
      pair.submit(request, prefill, decode);
      ASSERT_TRUE(decode.wait() && prefill.wait() && expected.wait());
      EXPECT_TRUE(prefill.prompt_logprobs().empty());
      const auto& rows = decode.prompt_logprobs();
      ASSERT_EQ(rows.size(), start < 0 ? 0u : 30u - static_cast<size_t>(start));
      ASSERT_EQ(rows.size(), expected.prompt_logprobs().size());
      for (size_t i = 0; i < rows.size(); ++i) {
        const PromptLogprob& right = expected.prompt_logprobs()[i];
        EXPECT_EQ(rows[i].token, right.token);
        EXPECT_EQ(rows[i].logprob, right.logprob);
        EXPECT_TRUE(same(rows[i].top, right.top));
        EXPECT_EQ(rows[i].listed, right.listed);
        EXPECT_EQ(right.listed.size(), right.logprob ? 4u : 0u);
      }
      ASSERT_EQ(decode.tokens().size(), static_cast<size_t>(new_tokens));
      for (size_t i = 0; i < decode.tokens().size(); ++i) {
        const GeneratedToken& token = decode.tokens()[i];
        EXPECT_EQ(token.logprob, expected.tokens()[i].logprob);
        EXPECT_EQ(token.top.size(), 3u);
        EXPECT_TRUE(same(token.top, expected.tokens()[i].top));
        EXPECT_EQ(token.listed, expected.tokens()[i].listed);
        EXPECT_EQ(token.listed.size(), 4u);
      }
      // Asked for none, an instance says what would have come.
      ASSERT_EQ(decode.last().next.has_value(), new_tokens == 0);
      if (new_tokens > 0) continue;
      EXPECT_EQ(decode.last().next->id, FakeExecutor::greedy_text(request.prompt, 1, kVocab)[0]);
      EXPECT_EQ(decode.last().next->id, expected.last().next->id);
      EXPECT_EQ(decode.last().next->listed, expected.last().next->listed);
    }
  }
  pair.expect_idle();
}

// Two legs that were not sent the same: numbers that are missing are never made up.
TEST_F(DisaggregationTest, LogprobsThatOnlyDecodeWasAskedForAreAnError) {
  EnginePair pair(simple());
  Request request = request_of("a", random_prompt(8, 30, kVocab), 5);
  request.disaggregation = pair.address();
  Client prefill, decode;
  ASSERT_TRUE(pair.prefill->submit(request, prefill.sink()).ok());
  request.logprobs = 0;
  request.prompt_logprob_start = 0;
  ASSERT_TRUE(pair.decode->submit(request, decode.sink()).ok());
  ASSERT_TRUE(decode.wait());
  ASSERT_EQ(decode.finish().reason, FinishReason::kAbort);
  EXPECT_NE(decode.finish().error->message.find("send both legs the same request"), std::string::npos);
  EXPECT_TRUE(decode.text().empty());
  ASSERT_TRUE(prefill.wait());
  pair.expect_idle();
}

// Whoever shows the text must know that its last token is not part of it.
TEST_F(DisaggregationTest, AFirstTokenThatIsTheLastComesWithTheEnd) {
  EnginePair pair(simple());
  for (const bool stops : {true, false}) {
    Request request = request_of("a", random_prompt(7, 20, kVocab), stops ? 9 : 1);
    const int32_t first = FakeExecutor::greedy_text(request.prompt, 1, kVocab)[0];
    if (stops) request.sampling.stop_token_ids = {first};
    request.disaggregation = pair.address();
    Client prefill;
    std::promise<Output> delivered;
    ASSERT_TRUE(pair.prefill->submit(request, prefill.sink()).ok());
    ASSERT_TRUE(pair.decode->submit(request, [&](Output output) { delivered.set_value(std::move(output)); }).ok());
    const Output output = delivered.get_future().get();
    ASSERT_EQ(output.tokens.size(), 1u);
    EXPECT_EQ(output.tokens[0].id, first);
    ASSERT_TRUE(output.finish.has_value());
    EXPECT_EQ(output.finish->matched_token, stops ? std::optional(first) : std::nullopt);
    ASSERT_TRUE(prefill.wait());
  }
  pair.expect_idle();
}

// What was not computed again was found on prefill, whatever decode had.
TEST_F(DisaggregationTest, CachedTokensAreThoseThatPrefillDidNotCompute) {
  EnginePair pair({"", {{1, 1, 1, 1}, 1, 256}, {{1, 1, 1, 1}, 4, 64}});
  const auto prompt = random_prompt(1, 50, kVocab);
  const std::pair<size_t, int> rounds[] = {{10, 0}, {50, 10}, {50, 49}, {30, 29}};
  for (const auto& [length, cached] : rounds) {
    Client prefill, decode;
    pair.submit(request_of("a", {prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(length)}, 1), prefill, decode);
    ASSERT_TRUE(decode.wait() && prefill.wait());
    EXPECT_EQ(decode.last().cached_tokens, cached);
  }
}

// A peer that lies, or runs another model under the same digest: its token is in no vocabulary here.
TEST_F(DisaggregationTest, AFirstTokenThatNamesNothingIsAnErrorAndNeverText) {
  EnginePair::prefill_vocab = 1'000'000;
  EnginePair pair(simple());
  Client prefill, decode;
  pair.submit(request_of("a", random_prompt(3, 20, kVocab), 5), prefill, decode);
  ASSERT_TRUE(decode.wait());
  ASSERT_EQ(decode.finish().reason, FinishReason::kAbort);
  EXPECT_EQ(decode.finish().error->code, ErrorCode::kCorrupt);
  EXPECT_TRUE(decode.text().empty());
  ASSERT_TRUE(prefill.wait());
  pair.expect_idle();
}

TEST_F(DisaggregationTest, AWarmUpNeedsNoPeerAndLeavesNoPages) {
  EnginePair pair(simple());
  for (Engine* engine : {pair.prefill.get(), pair.decode.get()}) {
    Client client;
    Request request = request_of("warm", random_prompt(1, 30, kVocab), 4);
    request.logprobs = 1;
    request.prompt_logprob_start = 0;
    request.token_ids_logprob = {3};
    request.disaggregation = Disaggregation{"2.2.2.2", 0, AttemptId(1), true};
    ASSERT_TRUE(engine->submit(request, client.sink()).ok());
    ASSERT_TRUE(client.wait());
    EXPECT_EQ(client.finish().reason, FinishReason::kLength);
    // Nobody computed the KV that decode's steps ran over: nothing of it is said.
    if (engine == pair.prefill.get()) continue;
    EXPECT_EQ(client.text(), std::vector<int32_t>(4, request.prompt.back()));
    for (const GeneratedToken& token : client.tokens()) {
      EXPECT_EQ(token.logprob, -std::numeric_limits<float>::infinity());
      EXPECT_TRUE(token.top.empty());
      EXPECT_EQ(token.listed, std::vector<float>{-std::numeric_limits<float>::infinity()});
    }
    EXPECT_TRUE(client.prompt_logprobs().empty());
  }
  pair.expect_idle();
  // And nobody else finds it.
  Client prefill, decode;
  pair.submit(request_of("a", random_prompt(1, 30, kVocab), 5), prefill, decode);
  ASSERT_TRUE(decode.wait());
  EXPECT_EQ(decode.text(), FakeExecutor::greedy_text(random_prompt(1, 30, kVocab), 5, kVocab));
  EXPECT_EQ(pair.decode->stats().cached_tokens_total, 0u);
}

TEST_F(DisaggregationTest, AWarmUpEndsAsItIsAskedTo) {
  EnginePair pair(simple());
  for (const int new_tokens : {0, 1}) {
    Client client;
    Request request = request_of("warm", random_prompt(1, 30, kVocab), new_tokens);
    request.disaggregation = Disaggregation{"2.2.2.2", 0, AttemptId(0), true};
    ASSERT_TRUE(pair.decode->submit(request, client.sink()).ok());
    ASSERT_TRUE(client.wait());
    EXPECT_EQ(client.text().size(), static_cast<size_t>(new_tokens));
  }
  pair.expect_idle();
}

}  // namespace
}  // namespace baton::engine
