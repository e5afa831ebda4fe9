#include <gtest/gtest.h>

#include "bench/answer_reader.h"
#include "bench/bench_report.h"
#include "bench/numpy_random.h"
#include "bench/prompt_text.h"
#include "bench/workload.h"

namespace baton::bench {
namespace {

// numpy.random.seed(1); numpy.random.random_sample(3).
TEST(NumpyRandom, DrawsWhatNumpyDraws) {
  NumpyRandom random(1);
  EXPECT_DOUBLE_EQ(random.uniform(), 0.417022004702574);
  EXPECT_DOUBLE_EQ(random.uniform(), 0.7203244934421581);
  EXPECT_DOUBLE_EQ(random.uniform(), 0.00011437481734488664);
  // numpy.random.seed(1); numpy.random.randint(0, 1000, 4)
  NumpyRandom integers(1);
  EXPECT_EQ(integers.randint(0, 1000), 37);
  EXPECT_EQ(integers.randint(0, 1000), 235);
  EXPECT_EQ(integers.randint(0, 1000), 908);
  EXPECT_EQ(integers.randint(0, 1000), 72);
}

TEST(Workload, FixedLengthsUseNoRandomnessAndAvoidSpecialTokens) {
  BenchOptions options;
  options.num_prompts = 500;
  options.input_len = 64;
  options.output_len = 10;
  options.range_ratio = 1;
  options.request_rate = 2;
  const auto prompts = make_workload(options, {100, {0, 1, 2}});
  ASSERT_EQ(prompts.size(), 500u);
  for (const BenchPrompt& prompt : prompts) {
    EXPECT_EQ(prompt.ids.size(), 64u);
    EXPECT_EQ(prompt.output_len, 10);
    for (const int32_t id : prompt.ids) EXPECT_TRUE(id >= 3 && id < 100);
  }
  EXPECT_EQ(prompts.front().arrival_s, 0);
  EXPECT_NEAR(prompts.back().arrival_s, 256.55, 0.01);  // what the anchor table's arrivals span at 2 a second
  EXPECT_NE(prompts[0].ids, prompts[1].ids);
}

TEST(Report, PercentilesAreNumpys) {
  EXPECT_DOUBLE_EQ(percentile({1, 2, 3, 4}, 50), 2.5);
  EXPECT_DOUBLE_EQ(percentile({4, 1, 3, 2}, 99), 3.97);
  EXPECT_DOUBLE_EQ(percentile({}, 50), 0);
}

TEST(Report, FiguresFollowTheDefinitions) {
  BenchSample good;
  good.ok = true;
  good.prompt_tokens = 10;
  good.output_tokens = 5;
  good.ttft_s = 0.1;
  good.latency_s = 0.5;
  good.itl_s = {0.1, 0.1, 0.1, 0.1};
  good.ttft_parts = {{"grant", 0}, {"prefill", 60}, {"transfer", 30}};
  BenchSample bad;
  bad.failure = "x";
  const BenchFigures f = summarize({good, bad}, 2.0);
  EXPECT_EQ(f.completed, 1);
  EXPECT_EQ(f.failed, 1);
  EXPECT_DOUBLE_EQ(f.request_throughput, 0.5);
  EXPECT_DOUBLE_EQ(f.tpot.mean, 100);
  EXPECT_DOUBLE_EQ(f.itl.p95, 100);
  EXPECT_DOUBLE_EQ(f.concurrency, 0.25);
  EXPECT_NEAR(f.ttft_parts_mean.at("router"), 10, 1e-9);
  const std::string text = report_text({}, f);
  for (const char* label :
       {"Successful requests:                     1", "Mean TTFT (ms):", "P90 TTFT (ms):", "P95 E2E Latency (ms):",
        "P95 ITL (ms):", "Failed requests:", "Peak output token throughput (tok/s):    5.00",
        "Peak concurrent requests:                1", "TTFT part transfer (ms):"}) {
    EXPECT_NE(text.find(label), std::string::npos) << label;
  }
}

TEST(Report, WithoutARouterNoPartIsItsOwn) {
  BenchSample sample;
  sample.ok = true;
  sample.ttft_s = 0.1;
  sample.ttft_parts = {{"prefill_queue", 10}, {"prefill", 60}};
  EXPECT_FALSE(summarize({sample}, 1).ttft_parts_mean.contains("router"));
}

TEST(Report, PeaksAreCountedInSecondsOfTheRun) {
  std::vector<BenchSample> samples(3);
  for (size_t i = 0; i < samples.size(); ++i) {
    samples[i].ok = true;
    samples[i].start_s = 5 + 0.4 * static_cast<double>(i);
    samples[i].ttft_s = 0.5;  // at 0.5, 0.9 and 1.3 s after the first was sent
    samples[i].itl_s = {0.25, 0.25};
    samples[i].latency_s = 1;
  }
  const BenchFigures f = summarize(samples, 2);
  EXPECT_EQ(f.output_throughput_peak, 6) << "at 1, 1.15, 1.3, 1.4, 1.55 and 1.8 s";
  EXPECT_EQ(f.concurrency_peak, 3);
}

using Time = AnswerReader::Time;
Time at_ms(int ms) { return Time(std::chrono::milliseconds(ms)); }

TEST(AnswerReader, CountsTokensOfTextAndOfIdsAlike) {
  const std::string text[] = {R"("text":"a")", R"("text":"abc")"},
                    ids[] = {R"("output_ids":[5])", R"("output_ids":[5,6,7])"};
  for (const auto& answer : {text, ids}) {
    AnswerReader reader(BackendKind::kGenerate, true, at_ms(0), 9);
    reader.on_head(200);
    reader.on_data("data: {" + answer[0] + R"(,"meta_info":{"completion_tokens":1,"prompt_tokens":7}})" + "\n\n",
                   at_ms(100));
    reader.on_data("data: {" + answer[1] + R"(,"meta_info":{"completion_tokens":3,"prompt_tokens":7}})" + "\n\n",
                   at_ms(140));
    reader.on_data("data: [DONE]\n\n", at_ms(150));
    const BenchSample sample = reader.on_end({}, at_ms(150));
    EXPECT_TRUE(sample.ok) << sample.failure;
    EXPECT_EQ(sample.prompt_tokens, 9) << "as drawn, whatever the server makes of the text";
    EXPECT_EQ(sample.output_tokens, 3);
    EXPECT_DOUBLE_EQ(sample.ttft_s, 0.1);
    EXPECT_EQ(sample.itl_s, (std::vector<double>{0.02, 0.02}));
    EXPECT_DOUBLE_EQ(sample.latency_s, 0.15);
  }
}

TEST(AnswerReader, AnAnswerWithoutTextIsNoFailureAndOneThatBreaksOffIs) {
  for (const bool whole : {true, false}) {
    AnswerReader reader(BackendKind::kGenerate, true, at_ms(0), 9);
    reader.on_head(200);
    reader.on_data("data: {\"text\":\"\",\"meta_info\":{\"completion_tokens\":2}}\n\n", at_ms(100));
    if (whole) reader.on_data("data: [DONE]\n\n", at_ms(150));
    const BenchSample sample = reader.on_end({}, at_ms(150));
    EXPECT_EQ(sample.ok, whole);
    EXPECT_EQ(sample.output_tokens, 2);
  }
}

TEST(AnswerReader, RefusalsAreToldInTheServersWords) {
  AnswerReader reader(BackendKind::kCompletions, true, at_ms(0), 9);
  reader.on_head(400);
  reader.on_data("{\"error\":\"too long\"}", at_ms(1));
  const BenchSample sample = reader.on_end({}, at_ms(2));
  EXPECT_FALSE(sample.ok);
  EXPECT_EQ(sample.failure, "HTTP 400: {\"error\":\"too long\"}");
}

TEST(PromptText, HasNoMoreTokensThanWereDrawn) {
  const auto tokenizer = text::Tokenizer::load(BATON_SOURCE_DIR "/models/tiny-gqa/tokenizer.json");
  ASSERT_TRUE(tokenizer.ok());
  BenchOptions options;
  options.num_prompts = 20;
  options.input_len = 200;
  for (const BenchPrompt& prompt : make_workload(options, {tokenizer->vocab_size(), {}})) {
    const std::string text = prompt_text(*tokenizer, prompt.ids);
    const auto encoded = tokenizer->encode(text, true);
    ASSERT_TRUE(encoded.ok());
    EXPECT_LE(encoded->size(), std::max<size_t>(prompt.ids.size(), 2));
    EXPECT_GE(encoded->size() * 2, prompt.ids.size());
  }
}

}  // namespace
}  // namespace baton::bench
