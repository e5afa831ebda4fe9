// Steps that are planned and begun while one is under way.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <atomic>
#include <map>

#include "base/random.h"
#include "engine/test_rig.h"

namespace baton::engine {
namespace {

struct Seen {
  std::atomic<int> ahead{0};   // segments whose token was unknown when they were planned
  std::atomic<int> single{0};  // segments of one token
};

// What `requests` are answered, with or without overlap.
std::vector<std::vector<int32_t>> answers(const std::vector<Request>& requests, bool overlap, RigOptions options,
                                          Seen* seen) {
  Rig rig(options, [&](EngineLoopOptions& loop, FakeExecutorOptions& fake) {
    loop.overlap = overlap;
    loop.scheduler.mixed_chunk = true;
    fake.before_run = [seen](const kv::StepPlan& plan) {
      for (const kv::Segment& segment : plan.segments) {
        seen->ahead += segment.drawn_by >= 0;
        seen->single += segment.tokens.size() == 1;
      }
    };
  });
  std::vector<Client> clients(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_TRUE(rig.submit(requests[i], clients[i]).ok());
  std::vector<std::vector<int32_t>> texts;
  for (Client& client : clients) {
    EXPECT_TRUE(client.wait());
    texts.push_back(client.text());
  }
  expect_all_pages_back(rig);
  return texts;
}

// Greedy and drawn, penalties, stop tokens, barred words and endings, on a pool so small that requests are retracted.
RC_GTEST_PROP(Overlap, TheTextIsTheSameWithAndWithoutIt, (uint64_t seed)) {
  Random random(seed);
  RigOptions options;
  options.pages_per_group = 24 + static_cast<int>(random.below(40));
  options.eos_ids = {3, 4, 5};
  options.layout.pp = 1 + static_cast<int>(random.below(2));
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 8; ++i) {
    const auto length = static_cast<int>(1 + random.below(30));
    Request request =
        request_of("r", random_prompt(seed + i, length, options.vocab), static_cast<int>(random.below(40)));
    SamplingParams& p = request.sampling;
    p.temperature = random.below(2) == 0 ? 0 : 8;
    p.seed = seed + i;
    if (random.below(3) == 0) p.frequency_penalty = 1.5;
    if (random.below(3) == 0) p.bad_words = {{7}, {8, 9}};
    if (random.below(3) == 0) p.min_new_tokens = p.max_new_tokens / 2;
    if (random.below(3) == 0) p.top_k = 20;
    requests.push_back(std::move(request));
  }
  Seen with, without;
  RC_ASSERT(answers(requests, true, options, &with) == answers(requests, false, options, &without));
  RC_ASSERT(without.ahead == 0);
  RC_ASSERT(options.layout.pp == 1 || with.ahead == 0);
}

TEST(Overlap, ASequenceThatStopsWastesOneRowAtTheMost) {
  const auto prompt = random_prompt(4, 10, 100);
  const auto text = FakeExecutor::greedy_text(prompt, 12, 100);
  for (const bool stops : {false, true}) {
    Request request = request_of("a", prompt, 12);
    if (stops) request.sampling.stop_token_ids = {text[9]};
    Seen seen;
    const auto texts = answers({request}, true, {}, &seen);
    const auto end = std::find(text.begin(), text.end(), stops ? text[9] : -1);
    ASSERT_EQ(texts[0], std::vector(text.begin(), end == text.end() ? end : end + 1));
    // The first token comes with the prompt. One that ends by its length is not computed beyond it.
    const auto tokens = static_cast<int>(texts[0].size());
    EXPECT_EQ(seen.single, stops ? tokens : tokens - 1);
    EXPECT_EQ(seen.ahead, seen.single);
  }
}

// Two stages have two steps, each with half of what runs: nobody waits for a token that the other step draws.
TEST(Overlap, InAPipelineWhatRunsIsSharedOut) {
  RigOptions options;
  options.layout.pp = 2;
  std::atomic<size_t> most{0};
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 8; ++i) requests.push_back(request_of("r", random_prompt(i, 3, 100), 40));
  for (const bool overlap : {true, false}) {
    most = 0;
    Rig rig(options, [&](EngineLoopOptions& loop, FakeExecutorOptions& fake) {
      loop.overlap = overlap;
      fake.before_run = [&](const kv::StepPlan& plan) {
        const bool prompts = std::any_of(plan.segments.begin(), plan.segments.end(),
                                         [](const kv::Segment& segment) { return segment.begin == 0; });
        if (!prompts) most = std::max(most.load(), plan.segments.size());
      };
    });
    std::vector<Client> clients(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) ASSERT_TRUE(rig.submit(requests[i], clients[i]).ok());
    for (size_t i = 0; i < requests.size(); ++i) {
      ASSERT_TRUE(clients[i].wait());
      EXPECT_EQ(clients[i].text(), FakeExecutor::greedy_text(requests[i].prompt, 40, 100));
    }
    EXPECT_EQ(most, overlap ? 4U : 8U);
  }
}

// A client leaves while steps that compute for it are under way, over and over: nobody else's text changes.
TEST(Overlap, AClientLeavesInTheMiddleOfAStep) {
  RigOptions options;
  options.pages_per_group = 40;
  Rig rig(options);
  const auto prompt = random_prompt(9, 12, 100);
  const auto text = FakeExecutor::greedy_text(prompt, 60, 100);
  for (int round = 0; round < 20; ++round) {
    Client stays, leaves;
    ASSERT_TRUE(rig.submit(request_of("stays", prompt, 60), stays).ok());
    const auto id = rig.submit(request_of("leaves", random_prompt(static_cast<uint64_t>(round), 20, 100), 60), leaves);
    ASSERT_TRUE(id.ok());
    ASSERT_TRUE(leaves.wait_tokens(static_cast<size_t>(1 + round % 7)));
    rig.engine->abort(*id);
    ASSERT_TRUE(leaves.wait());
    ASSERT_TRUE(stays.wait());
    EXPECT_EQ(stays.text(), text);
  }
  expect_all_pages_back(rig);
}

}  // namespace
}  // namespace baton::engine
