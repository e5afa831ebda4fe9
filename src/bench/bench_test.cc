#include <gtest/gtest.h>

#include "bench/bench_report.h"
#include "bench/numpy_random.h"
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
  good.ttft_parts = {{"prefill", 60}, {"transfer", 30}};
  BenchSample bad;
  bad.failure = "x";
  const BenchFigures f = summarize({good, bad}, 2.0);
  EXPECT_EQ(f.completed, 1);
  EXPECT_EQ(f.failed, 1);
  EXPECT_DOUBLE_EQ(f.request_throughput, 0.5);
  EXPECT_DOUBLE_EQ(f.tpot_mean, 100);
  EXPECT_DOUBLE_EQ(f.concurrency, 0.25);
  EXPECT_NEAR(f.ttft_parts_mean.at("router"), 10, 1e-9);
  const std::string text = report_text({}, f);
  for (const char* label : {"Successful requests:                     1",
                            "Mean TTFT (ms):", "P95 ITL (ms):", "Failed requests:", "TTFT part transfer (ms):"}) {
    EXPECT_NE(text.find(label), std::string::npos) << label;
  }
}

}  // namespace
}  // namespace baton::bench
