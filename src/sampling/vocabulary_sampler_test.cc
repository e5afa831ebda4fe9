#include "sampling/vocabulary_sampler.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "base/random.h"
#include "sampling/token_weight.h"

namespace baton::sampling {
namespace {

constexpr int kVocab = 200;

// How the vocabulary is cut in these tests: `count` shards, unlike in size, the second of four or more empty.
std::vector<Interval> cut(int vocab, int count) {
  std::vector<Interval> shards;
  int begin = 0;
  for (int s = 0; s < count; ++s) {
    int end = s + 1 == count ? vocab : vocab * (s + 1) * (s + 2) / (count * (count + 1));
    if (count >= 4 && s == 1) end = begin;
    shards.push_back({begin, end});
    begin = end;
  }
  return shards;
}

struct Draw {
  SamplingParams params;
  uint64_t seed = 0;
  int index = 0;
  TokenCounts generated;
  int logprobs = -1;
  std::vector<int32_t> prompt = {};
  std::vector<int32_t> listed = {};
};

// One row at a time through a VocabularySampler of `shards` ranks, which take turns here.
class Sampler {
 public:
  Sampler(int vocab, std::vector<int32_t> eos_ids, int shards = 3)
      : eos_ids_(std::move(eos_ids)), shards_(cut(vocab, shards)), sampler_(shards_) {}

  Result<GeneratedToken> sample(const float* logits, const Draw& draw) {
    recipe_.params = draw.params;
    recipe_.seed = draw.seed;
    recipe_.endings = draw.params.stop_token_ids;
    if (!draw.params.ignore_eos) recipe_.endings.insert(recipe_.endings.end(), eos_ids_.begin(), eos_ids_.end());
    recipe_.prompt.clear();
    if (draw.params.repetition_of_prompt) {
      const std::set<int32_t> once(draw.prompt.begin(), draw.prompt.end());
      recipe_.prompt.assign(once.begin(), once.end());
    }
    recipe_.logprobs = draw.logprobs;
    recipe_.listed = draw.listed;
    recipe_.history = draw.generated;
    return answer({&recipe_, draw.index, true, -1}, logits);
  }
  Result<GeneratedToken> score(const float* logits, int32_t token, int top) {
    recipe_ = {};
    recipe_.prompt_logprobs = top;
    return answer({&recipe_, 0, false, token}, logits);
  }

 private:
  Result<GeneratedToken> answer(const RowWanted& wanted, const float* logits) {
    const std::span<const RowWanted> rows(&wanted, 1);
    const auto every_rank = [&](auto call) {
      for (size_t r = 0; r < shards_.size(); ++r) {
        (sampler_.*call)(static_cast<int>(r), rows, {0, 1}, logits + shards_[r].begin, 1 << 20);
      }
    };
    for (size_t r = 0; r < shards_.size(); ++r) sampler_.reserve(static_cast<int>(r), 1);
    every_rank(&VocabularySampler::find_best);
    if (VocabularySampler::needs_weights(rows)) every_rank(&VocabularySampler::weigh);
    if (VocabularySampler::needs_picks(rows)) every_rank(&VocabularySampler::pick);
    RowAnswer answer;
    sampler_.finish(rows, {0, 1}, {&answer, 1});
    if (answer.error) return *answer.error;
    return answer.token;
  }

  std::vector<int32_t> eos_ids_;
  std::vector<Interval> shards_;
  VocabularySampler sampler_;
  Recipe recipe_;
};

std::vector<float> random_logits(uint64_t seed, int vocab = kVocab, double scale = 4) {
  Random random(seed);
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (float& x : logits)
    x = static_cast<float>((random.uniform() + random.uniform() + random.uniform() - 1.5) * scale);
  return logits;
}

// The distribution of the header, written down the slow way: sort everything, keep, renormalise.
std::vector<double> reference_distribution(std::vector<double> x, const SamplingParams& p,
                                           const TokenCounts& generated) {
  for (const auto& [token, bias] : p.logit_bias) x[static_cast<size_t>(token)] += bias;
  for (const auto& [token, count] : generated.counts()) {
    double& v = x[static_cast<size_t>(token)];
    v = v > 0 ? v / p.repetition_penalty : v * p.repetition_penalty;
    v -= p.frequency_penalty * count + p.presence_penalty;
  }
  const double best = *std::max_element(x.begin(), x.end());
  std::vector<double> probability;
  probability.reserve(x.size());
  for (const double v : x) probability.push_back(std::exp((v - best) / p.temperature));
  const double total = std::accumulate(probability.begin(), probability.end(), 0.0);
  for (double& v : probability) v /= total;
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  std::vector<double> kept(x.size(), 0);
  double before = 0, mass = 0;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    const double v = probability[order[rank]];
    const bool keep = (p.top_k == -1 || rank < static_cast<size_t>(p.top_k)) && (p.top_p >= 1 || before < p.top_p) &&
                      v >= p.min_p * probability[order[0]];
    before += v;
    if (keep) mass += kept[order[rank]] = v;
  }
  for (double& v : kept) v /= mass;
  return kept;
}

struct Case {
  const char* name;
  SamplingParams params;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&all](const char* name, auto set) {
    Case c{name, {}};
    set(c.params);
    all.push_back(c);
  };
  add("plain", [](SamplingParams&) {});
  add("cool", [](SamplingParams& p) { p.temperature = 0.3; });
  add("hot", [](SamplingParams& p) { p.temperature = 2.5; });
  add("top_k", [](SamplingParams& p) { p.top_k = 7; });
  add("top_k beyond the first run", [](SamplingParams& p) {
    p.top_k = 150;
    p.temperature = 5;
  });
  add("top_p", [](SamplingParams& p) { p.top_p = 0.6; });
  add("top_p beyond the first run", [](SamplingParams& p) {
    p.top_p = 0.97;
    p.temperature = 20;
  });
  add("min_p", [](SamplingParams& p) { p.min_p = 0.1; });
  add("all three", [](SamplingParams& p) {
    p.top_k = 30;
    p.top_p = 0.8;
    p.min_p = 0.05;
    p.temperature = 1.7;
  });
  add("penalties", [](SamplingParams& p) {
    p.repetition_penalty = 1.5;
    p.frequency_penalty = 0.4;
    p.presence_penalty = -0.7;
  });
  add("bias", [](SamplingParams& p) { p.logit_bias = {{3, 4.0}, {4, -100.0}}; });
  return all;
}

TokenCounts some_history() {
  TokenCounts history;
  for (const int32_t token : {1, 5, 5, 5, 9, 130}) history.add(token);
  return history;
}

// Draws follow the reference distribution: Pearson's chi squared over cells of at least 10 expected draws stays under
// mean + 6 sigma, and what the reference excludes is never drawn.
TEST(Sampler, DrawsFollowTheReferenceDistribution) {
  Sampler sampler(kVocab, {});
  const TokenCounts history = some_history();
  for (const Case& c : cases()) {
    const std::vector<float> logits = random_logits(11);
    const auto expected = reference_distribution({logits.begin(), logits.end()}, c.params, history);
    constexpr int kDraws = 40000;
    std::vector<int> seen(kVocab, 0);
    for (int i = 0; i < kDraws; ++i) {
      const auto token = sampler.sample(logits.data(), {c.params, 77, i, history, -1});
      ASSERT_TRUE(token.ok());
      ++seen[static_cast<size_t>(token->id)];
    }
    double chi = 0;
    int cells = 0;
    for (size_t i = 0; i < kVocab; ++i) {
      EXPECT_TRUE(expected[i] > 0 || seen[i] == 0) << c.name << " token " << i;
      const double count = expected[i] * kDraws;
      if (count < 10) continue;
      chi += (seen[i] - count) * (seen[i] - count) / count;
      ++cells;
    }
    ASSERT_GT(cells, 1) << c.name;
    EXPECT_LT(chi, cells + 6 * std::sqrt(2.0 * cells)) << c.name;
  }
}

TEST(Sampler, GreedyIsTheFirstOfTheBest) {
  Sampler sampler(5, {});
  const float logits[] = {1, 3, 2, 3, -1};
  for (const bool by_top_k : {false, true}) {
    SamplingParams params;
    if (by_top_k) {
      params.top_k = 1;
    } else {
      params.temperature = 0;
    }
    EXPECT_EQ(sampler.sample(logits, {params, 1, 0, TokenCounts(), -1})->id, 1);
  }
}

// Of shards a device says the best token alone; of the whole vocabulary all but logprobs of other tokens.
TEST(Sampler, WhatADeviceMayDraw) {
  const auto draws = [](bool whole, const auto& change, int rated = -1) {
    Recipe recipe;
    recipe.params.temperature = 0;
    recipe.endings = {2};
    change(recipe);
    const RowWanted wanted{&recipe, 0, rated < 0, rated};
    return VocabularySampler::device_draws({&wanted, 1}, whole);
  };
  EXPECT_TRUE(draws(false, [](Recipe&) {}));
  for (const bool whole : {false, true}) {
    EXPECT_FALSE(draws(
        whole, [](Recipe&) {}, 3));
    EXPECT_FALSE(draws(whole, [](Recipe& r) { r.logprobs = 1; }));
    EXPECT_EQ(draws(whole, [](Recipe& r) { r.params.temperature = 1; }), whole);
    EXPECT_EQ(draws(whole, [](Recipe& r) { r.logprobs = 0; }), whole);
    EXPECT_EQ(draws(whole, [](Recipe& r) { r.params.logit_bias[3] = 1; }), whole);
    EXPECT_EQ(draws(whole, [](Recipe& r) { r.params.allowed_token_ids = {3}; }), whole);
    EXPECT_EQ(draws(whole, [](Recipe& r) { r.params.bad_words = {{3}}; }), whole);
    EXPECT_EQ(draws(whole, [](Recipe& r) { r.params.presence_penalty = 1; }), whole);
    EXPECT_EQ(draws(whole, [](Recipe& r) { r.params.min_new_tokens = 1; }), whole);
  }
}

TEST(TokenWeight, IsTheExponentialInUnits) {
  EXPECT_EQ(exp_units(0), uint64_t{1} << kUnitBits);
  EXPECT_EQ(exp_units(-std::numeric_limits<float>::infinity()), 0U);
  EXPECT_EQ(weight_of(-std::numeric_limits<float>::infinity(), 3, 0), 0U);
  uint64_t last = exp_units(0);
  for (float x = 0; x > -30; x -= 1e-4F) {
    const double expected = std::exp(static_cast<double>(x)) * 0x1p39;
    const uint64_t weight = exp_units(x);
    ASSERT_NEAR(static_cast<double>(weight), expected, 0.51 + expected * 2e-7) << x;
    ASSERT_LE(weight, last + last / (1 << 22));
    last = weight;
  }
}

// At the ends of the ranges that requests may ask for, a draw is still one of the tokens that may be drawn.
TEST(Sampler, ExtremesDrawWhatMayBeDrawn) {
  Sampler sampler(kVocab, {0, 7});
  const std::vector<float> logits = random_logits(3);
  TokenCounts generated;
  for (const int32_t token : {11, 12, 13}) generated.add(token);
  for (const double temperature : {1e-5, 1.0, 1e300}) {
    for (const double repetition : {1e-300, 1e-30, 1.0}) {
      for (const double top_p : {1e-300, 0.5, 1.0}) {
        for (const int min_new : {0, 8}) {
          SamplingParams p;
          p.temperature = temperature;
          p.repetition_penalty = repetition;
          p.top_p = top_p;
          p.min_new_tokens = min_new;
          p.logit_bias[50] = 100;
          for (uint64_t seed = 0; seed < 20; ++seed) {
            const auto token = sampler.sample(logits.data(), {p, seed, 1, generated, -1});
            ASSERT_TRUE(token.ok());
            ASSERT_GE(token->id, 0);
            ASSERT_LT(token->id, kVocab);
            ASSERT_TRUE(min_new == 0 || (token->id != 0 && token->id != 7));
          }
        }
      }
    }
  }
}

TEST(Sampler, PenaltiesMoveTheGreedyChoice) {
  Sampler sampler(3, {});
  const float logits[] = {2.0f, 1.9f, -1.0f};
  TokenCounts history;
  history.add(0);
  SamplingParams params;
  params.temperature = 0;
  const auto choice = [&] { return sampler.sample(logits, {params, 1, 1, history, -1})->id; };
  EXPECT_EQ(choice(), 0);
  params.presence_penalty = 0.2;
  EXPECT_EQ(choice(), 1);
  params.presence_penalty = 0;
  params.frequency_penalty = 0.06;
  EXPECT_EQ(choice(), 0);
  history.add(0);
  EXPECT_EQ(choice(), 1);
  params.frequency_penalty = 0;
  params.repetition_penalty = 1.1;
  EXPECT_EQ(choice(), 1);
  params.repetition_penalty = 1;
  params.logit_bias = {{2, 5.0}};
  EXPECT_EQ(choice(), 2);
}

// vLLM's repetition_penalty, as transformers', counts the prompt: each of its tokens once, and those of the answer no
// second time.
TEST(Sampler, ThePromptCountsWhereItIsAskedFor) {
  Sampler sampler(3, {});
  const float logits[] = {2.0f, 1.5f, 1.2f};
  const std::vector<int32_t> prompt = {0, 0, 0, 1};
  TokenCounts history;
  SamplingParams params;
  params.temperature = 0;
  params.repetition_penalty = 1.5;
  const auto choice = [&] { return sampler.sample(logits, {params, 1, 1, history, -1, prompt})->id; };
  EXPECT_EQ(choice(), 0);
  params.repetition_of_prompt = true;
  EXPECT_EQ(choice(), 0);  // 2 / 1.5 once, not three times
  params.repetition_penalty = 1.9;
  EXPECT_EQ(choice(), 2);
  history.add(0);
  history.add(1);
  params.repetition_penalty = 1.5;
  EXPECT_EQ(choice(), 0);
}

TEST(Sampler, OnlyAllowedTokensAreDrawn) {
  Sampler sampler(kVocab, {});
  SamplingParams params;
  params.allowed_token_ids = {17, 3, 17, 190};
  params.temperature = 5;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const int32_t id = sampler.sample(random_logits(seed).data(), {params, seed, 0, TokenCounts(), -1})->id;
    EXPECT_TRUE(id == 3 || id == 17 || id == 190) << id;
  }
  params.logit_bias = {{5, 100.0}};  // no bias allows what is not
  EXPECT_NE(sampler.sample(random_logits(1).data(), {params, 1, 0, TokenCounts(), -1})->id, 5);
  // The next request is as free as ever.
  const std::vector<float> logits = random_logits(9);
  SamplingParams greedy;
  greedy.temperature = 0;
  EXPECT_EQ(sampler.sample(logits.data(), {greedy, 1, 0, TokenCounts(), -1})->id,
            std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST(Sampler, ABadWordIsBarredWhereItsLastTokenWouldCompleteIt) {
  Sampler sampler(5, {});
  const float logits[] = {0, 1, 2, 3, 4};
  SamplingParams params;
  params.temperature = 0;
  params.bad_words = {{4}, {1, 2, 3}};
  TokenCounts history;
  const auto choice = [&] { return sampler.sample(logits, {params, 1, 0, history, -1})->id; };
  EXPECT_EQ(choice(), 3);
  for (const int32_t token : {1, 2}) history.add(token);
  EXPECT_EQ(choice(), 2);
  history.add(2);  // 1 2 2: another sequence
  EXPECT_EQ(choice(), 3);
  params.bad_words = {{0}, {1}, {2}, {3}, {4}};
  EXPECT_EQ(sampler.sample(logits, {params, 1, 0, history, -1}).error().code, ErrorCode::kInvalidArgument);
}

// Whatever is asked for, as many ranks give the same as one: bits of logprobs, tokens of draws, and ties.
RC_GTEST_PROP(Sampler, HoweverTheVocabularyIsCutTheAnswerIsTheSame, (uint64_t seed)) {
  const auto& all = *rc::gen::elementOf(cases());
  std::vector<float> logits = random_logits(seed);
  if (*rc::gen::arbitrary<bool>()) {
    for (float& x : logits) x = std::round(x);  // many ties
  }
  Draw draw{all.params, seed,       *rc::gen::inRange(0, 50), some_history(), *rc::gen::inRange(-1, 12),
            {1, 2, 3},  {0, 7, 199}};
  draw.params.repetition_of_prompt = *rc::gen::arbitrary<bool>();
  if (*rc::gen::arbitrary<bool>()) draw.params.temperature = 0;
  Sampler whole(kVocab, {8, 150}, 1);
  const auto expected = whole.sample(logits.data(), draw);
  RC_ASSERT(expected.ok());
  for (const int shards : {2, 3, 6, 8}) {
    Sampler cut_up(kVocab, {8, 150}, shards);
    const auto token = cut_up.sample(logits.data(), draw);
    RC_ASSERT(token.ok());
    RC_ASSERT(token->id == expected->id);
    RC_ASSERT(token->logprob == expected->logprob);
    RC_ASSERT(token->listed == expected->listed);
    RC_ASSERT(token->top.size() == expected->top.size());
    for (size_t i = 0; i < token->top.size(); ++i) {
      RC_ASSERT(token->top[i].token == expected->top[i].token);
      RC_ASSERT(token->top[i].logprob == expected->top[i].logprob);
    }
  }
}

RC_GTEST_PROP(Sampler, ADrawDependsOnSeedAndIndexAlone, (uint64_t seed)) {
  const int index = *rc::gen::inRange(0, 100000);
  const std::vector<float> logits = random_logits(3);
  SamplingParams params;
  Sampler first(kVocab, {}), second(kVocab, {});
  const TokenCounts none;
  // What a sampler drew before makes no difference.
  for (int i = 0; i < 3; ++i) RC_ASSERT(second.sample(logits.data(), {params, seed + 1, i, none, -1}).ok());
  RC_ASSERT(first.sample(logits.data(), {params, seed, index, none, -1})->id ==
            second.sample(logits.data(), {params, seed, index, none, -1})->id);
}

TEST(Sampler, SeedsAndIndexesDiffer) {
  Sampler sampler(kVocab, {});
  const std::vector<float> logits(kVocab, 0.0f);
  const TokenCounts none;
  int same_index = 0, same_seed = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto u = static_cast<uint64_t>(i);
    same_index += sampler.sample(logits.data(), {{}, u, i, none, -1})->id ==
                  sampler.sample(logits.data(), {{}, u, i + 1, none, -1})->id;
    same_seed += sampler.sample(logits.data(), {{}, u, i, none, -1})->id ==
                 sampler.sample(logits.data(), {{}, u + 1, i, none, -1})->id;
  }
  // Each is binomial(1000, 1/200): mean 5.
  EXPECT_LT(same_index, 25);
  EXPECT_LT(same_seed, 25);
}

TEST(Sampler, MinNewTokensBarsEveryEnding) {
  Sampler sampler(4, {3});
  const float logits[] = {0, 1, 2, 3};
  SamplingParams params;
  params.temperature = 0;
  params.min_new_tokens = 2;
  params.stop_token_ids = {2};
  const TokenCounts none;
  EXPECT_EQ(sampler.sample(logits, {params, 1, 0, none, -1})->id, 1);
  EXPECT_EQ(sampler.sample(logits, {params, 1, 1, none, -1})->id, 1);
  EXPECT_EQ(sampler.sample(logits, {params, 1, 2, none, -1})->id, 3);
  params.ignore_eos = true;  // then eos is no ending
  EXPECT_EQ(sampler.sample(logits, {params, 1, 0, none, -1})->id, 3);
  params.ignore_eos = false;
  params.stop_token_ids = {0, 1, 2};
  EXPECT_EQ(sampler.sample(logits, {params, 1, 0, none, -1}).error().code, ErrorCode::kInvalidArgument);
}

TEST(Sampler, LogprobsAreOfTheRawLogits) {
  Sampler sampler(kVocab, {});
  const std::vector<float> logits = random_logits(5);
  double total = 0;
  for (const float x : logits) total += std::exp(static_cast<double>(x));
  SamplingParams params;
  params.temperature = 0.5;
  params.logit_bias = {{17, 50.0}};  // forces the token and must not show in its logprob
  const auto token = sampler.sample(logits.data(), {params, 1, 0, TokenCounts(), 3});
  ASSERT_TRUE(token.ok());
  EXPECT_EQ(token->id, 17);
  EXPECT_NEAR(token->logprob, logits[17] - std::log(total), 1e-5);
  ASSERT_EQ(token->top.size(), 3u);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(token->top[i].logprob, sorted[i] - std::log(total), 1e-5);
    EXPECT_EQ(logits[static_cast<size_t>(token->top[i].token)], sorted[i]);
  }
  const auto scored = sampler.score(logits.data(), 40, 0);
  EXPECT_NEAR(scored->logprob, logits[40] - std::log(total), 1e-5);
  EXPECT_TRUE(scored->top.empty());
  EXPECT_EQ(sampler.score(logits.data(), 40, 1000)->top.size(), static_cast<size_t>(kVocab));
}

TEST(Sampler, UnsoundLogitsAreAnErrorAndNotText) {
  Sampler sampler(4, {});
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity}) {
    const float logits[] = {0, 1, bad, 2};
    EXPECT_EQ(sampler.sample(logits, {{}, 1, 0, TokenCounts(), -1}).error().code, ErrorCode::kCorrupt);
    EXPECT_EQ(sampler.score(logits, 0, 0).error().code, ErrorCode::kCorrupt);
  }
  const float none[] = {-infinity, -infinity, -infinity, -infinity};
  EXPECT_EQ(sampler.sample(none, {{}, 1, 0, TokenCounts(), -1}).error().code, ErrorCode::kCorrupt);
  const float one[] = {-infinity, 0, -infinity, -infinity};
  EXPECT_EQ(sampler.sample(one, {{}, 1, 0, TokenCounts(), -1})->id, 1);
}

}  // namespace
}  // namespace baton::sampling
