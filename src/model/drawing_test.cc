// What an executor gives back: tokens that its ranks drew, also where a step is submitted before the one before it is
// collected.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "kernels/reference_backend.h"
#include "model/test_instance.h"

namespace baton::model {
namespace {

using test::TestInstance;

constexpr int kSteps = 8;
const std::vector<int32_t> kPrompt{5, 6, 7, 8, 9, 10, 11};

ExecutorOptions options_of(const layout::Layout& layout) {
  ExecutorOptions options;
  options.model_path = std::string(BATON_SOURCE_DIR) + "/tests/fixtures/qwen2";
  options.compute = kernels::Compute::kF32;
  options.kv_dtype = tensor::DType::kF32;
  options.page_tokens = 16;
  options.layout = layout;
  return options;
}

std::shared_ptr<sampling::Recipe> recipe(double temperature, double penalty, int logprobs) {
  auto recipe = std::make_shared<sampling::Recipe>();
  recipe->params.temperature = temperature;
  recipe->params.frequency_penalty = penalty;
  recipe->seed = 3;
  recipe->logprobs = logprobs;
  return recipe;
}

// Two sequences of the same prompt, one greedy, one not; their tokens. ahead: a step is submitted while the one before
// it is under way.
std::vector<int32_t> generate(const ExecutorOptions& options, bool ahead, double penalty = 0.5,
                              std::array<int, 2> logprobs = {2, 2}) {
  const layout::Layout& layout = options.layout;
  TestInstance instance(options, *load_model_config(options.model_path), 2, false);
  EXPECT_FALSE(instance.failure());
  Executor& executor = instance.executor();
  EXPECT_GE(executor.steps_max(), 2);
  std::vector<int32_t> drawn;
  const auto collect = [&](Ticket ticket) {
    const auto output = executor.collect(ticket);
    ASSERT_TRUE(output.ok());
    for (size_t s = 0; s < 2; ++s) {
      const sampling::RowAnswer& answer = (*output)->answers.at((*output)->first_row.at(s));
      EXPECT_FALSE(answer.error);
      EXPECT_EQ(answer.token.top.size(), static_cast<size_t>(logprobs[s]));
      drawn.push_back(answer.token.id);
    }
  };
  const std::shared_ptr<sampling::Recipe> recipes[] = {recipe(0, penalty, logprobs[0]),
                                                       recipe(20, penalty, logprobs[1])};
  Ticket last = 0;
  for (int step = 0; step < kSteps; ++step) {
    std::vector<kv::Segment> segments;
    std::vector<sampling::RowsWanted> wanted;
    for (int s = 0; s < 2; ++s) {
      const int64_t begin = step == 0 ? 0 : static_cast<int64_t>(kPrompt.size()) + step - 1;
      std::vector<int32_t> tokens = kPrompt;
      if (step > 0) tokens = {ahead ? -7 : drawn[drawn.size() - 2 + static_cast<size_t>(s)]};
      segments.push_back(instance.segment(s, begin, tokens, 1, s % layout.dp));
      if (step > 0 && ahead) segments.back().drawn_by = s;
      wanted.push_back({recipes[s], step, true, {}});
    }
    const Ticket ticket = executor.submit(kv::StepPlan{std::move(segments)}, wanted);
    if (!ahead) {
      collect(ticket);
    } else if (step > 0) {
      collect(last);
    }
    last = ticket;
  }
  if (ahead) collect(last);
  return drawn;
}

TEST(Drawing, WhateverTheLayoutAndHoweverFarAheadTheTokensAreTheSame) {
  const std::vector<int32_t> plain = generate(options_of({1, 1, 1, 1}), false);
  ASSERT_EQ(plain.size(), 2U * kSteps);
  for (const layout::Layout& layout : {layout::Layout{1, 1, 1, 1}, layout::Layout{3, 1, 1, 1},
                                       layout::Layout{4, 2, 1, 1}, layout::Layout{2, 1, 2, 1}}) {
    for (const bool ahead : {false, true}) {
      EXPECT_EQ(generate(options_of(layout), ahead), plain)
          << layout.tp << " " << layout.dp << " " << layout.pp << " " << ahead;
    }
  }
}

// Which begins a step before the tokens of the one before it are known, but where penalties read them.
TEST(Drawing, ADeviceDrawsWhatTheProcessorDraws) {
  for (const double penalty : {0.0, 20.0}) {
    // Logprobs of other tokens are the processor's, beside what the device draws.
    for (const std::array<int, 2> logprobs : {std::array{0, 0}, std::array{0, 2}, std::array{2, 0}}) {
      ExecutorOptions options = options_of({1, 1, 1, 1});
      const std::vector<int32_t> plain = generate(options, false, penalty, logprobs);
      options.backend = kernels::make_reference_backend;
      for (const bool ahead : {false, true}) EXPECT_EQ(generate(options, ahead, penalty, logprobs), plain) << penalty;
    }
  }
}

// Found by the sampler, or by a backend that looks for it itself.
TEST(Drawing, GreedyIsTheBestOfTheLogits) {
  for (const bool by_backend : {false, true}) {
    ExecutorOptions options = options_of({3, 1, 1, 1});
    if (by_backend) options.backend = kernels::make_reference_backend;
    TestInstance instance(options, *load_model_config(options.model_path), 2);
    const StepLogits logits = instance.run({instance.segment(0, 0, kPrompt, 1)});
    const float* row = logits.row(0, 0);
    const auto best = static_cast<int32_t>(std::max_element(row, row + logits.vocab) - row);
    for (const bool biased : {false, true}) {
      const auto wanted = std::make_shared<sampling::Recipe>();
      wanted->params.temperature = 0;
      if (biased) wanted->params.logit_bias[7] = 100;
      const sampling::RowsWanted rows{wanted, 0, true, {}};
      const Ticket ticket = instance.executor().submit({{instance.segment(1, 0, kPrompt, 1)}}, {&rows, 1});
      const auto output = instance.executor().collect(ticket);
      ASSERT_TRUE(output.ok());
      EXPECT_EQ((*output)->answers.at(0).token.id, biased ? 7 : best) << by_backend;
    }
  }
}

// Rows beyond those that are handled at a time.
TEST(Drawing, ALongPromptIsRated) {
  const ExecutorOptions options = options_of({3, 1, 1, 1});
  TestInstance instance(options, *load_model_config(options.model_path), 1);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 200; ++i) tokens.push_back(i * 7 % 300);
  const auto wanted = std::make_shared<sampling::Recipe>();
  wanted->prompt_logprobs = 1;
  wanted->params.temperature = 0;
  const sampling::RowsWanted rows{wanted, 0, true, std::span(tokens).subspan(1)};
  const Ticket ticket = instance.executor().submit({{instance.segment(0, 0, tokens, 200)}}, {&rows, 1});
  const auto output = instance.executor().collect(ticket);
  ASSERT_TRUE(output.ok());
  const StepLogits logits = instance.run({instance.segment(0, 0, tokens, 200)});
  for (int r = 0; r < 200; ++r) {
    const sampling::GeneratedToken& token = (*output)->answers.at(static_cast<size_t>(r)).token;
    const float* row = logits.row(0, r);
    const auto best = static_cast<int32_t>(std::max_element(row, row + logits.vocab) - row);
    if (r == 199) {
      EXPECT_EQ(token.id, best);
      continue;
    }
    EXPECT_EQ(token.id, tokens[static_cast<size_t>(r) + 1]);
    ASSERT_EQ(token.top.size(), 1U);
    EXPECT_EQ(token.top[0].token, best);
    EXPECT_NEAR(token.logprob - token.top[0].logprob, row[token.id] - row[best], 1e-4) << r;
  }
}

}  // namespace
}  // namespace baton::model
