#include "kernels/cuda/cuda_testing.h"
#include "sampling/vocabulary_sampler.h"

namespace baton::kernels::cuda {
namespace {

using sampling::Recipe;
using sampling::RowAnswer;
using sampling::RowWanted;
using sampling::VocabularySampler;

int below(Random& random, int bound) { return static_cast<int>(random.below(static_cast<uint64_t>(bound))); }

// Spread, or flat, or of few values, so that many are equal; now and then with holes, or one that is not sound.
std::vector<float> random_row(Random& random, int n) {
  const int kind = below(random, 5);
  std::vector<float> row;
  for (int i = 0; i < n; ++i) {
    const double u = random.uniform() + random.uniform() + random.uniform() - 1.5;
    const double value = kind == 0   ? 8 * u
                         : kind == 1 ? 1e-3 * u
                         : kind == 2 ? std::round(3 * u)
                         : kind == 3 ? 0
                                     : 40 * u;
    row.push_back(static_cast<float>(value));
    if (kind == 4 && random.below(8) == 0) row.back() = -INFINITY;
  }
  if (random.below(16) == 0) row[random.below(n)] = random.below(2) == 0 ? NAN : INFINITY;
  if (random.below(16) == 0) std::fill(row.begin(), row.end(), -INFINITY);
  return row;
}

Recipe random_recipe(Random& random, int n) {
  Recipe recipe;
  const auto some = [&] { return random.below(3) == 0; };
  const double temperatures[] = {0, 1e-5, 0.3, 0.8, 1, 3, 1e300}, top_ps[] = {1e-300, 0.1, 0.5, 0.95, 0.9999};
  recipe.seed = random.next();
  recipe.params.temperature = temperatures[random.below(7)];
  if (some()) recipe.params.top_p = top_ps[random.below(5)];
  if (some()) recipe.params.top_k = 1 + below(random, n + 3);
  if (some()) recipe.params.top_k = 1 + below(random, 50);
  if (some()) recipe.params.min_p = random.uniform();
  if (some()) recipe.params.logit_bias[below(random, n)] = 30;
  if (some()) recipe.params.logit_bias[below(random, n)] = -100;
  if (some()) recipe.logprobs = 0;
  for (int i = 0; i < below(random, 40); ++i) recipe.history.add(below(random, n));
  if (some()) recipe.params.repetition_penalty = 0.1 + random.uniform();
  if (some()) recipe.params.frequency_penalty = 2 * random.uniform();
  if (some()) recipe.params.presence_penalty = 1;
  if (some()) recipe.prompt = {below(random, n)};
  if (some()) recipe.params.bad_words = {{below(random, n)}};
  if (some()) recipe.params.min_new_tokens = 5;
  recipe.endings = {below(random, n)};
  if (random.below(6) == 0)
    for (int i = 0; i < 5; ++i) recipe.params.allowed_token_ids.push_back(below(random, n));
  return recipe;
}

std::vector<RowAnswer> by_sampler(VocabularySampler& sampler, std::span<const RowWanted> rows, const float* logits,
                                  int n) {
  const Interval all{0, static_cast<int>(rows.size())};
  sampler.find_best(0, rows, all, logits, n);
  if (VocabularySampler::needs_weights(rows)) sampler.weigh(0, rows, all, logits, n);
  if (VocabularySampler::needs_picks(rows)) sampler.pick(0, rows, all, logits, n);
  std::vector<RowAnswer> answers(rows.size());
  sampler.finish(rows, all, answers);
  return answers;
}

std::vector<RowAnswer> by_card(VocabularySampler& sampler, std::span<const RowWanted> rows,
                               const std::vector<float>& logits, int n) {
  std::vector<sampling::RowDraw> draws;
  std::vector<sampling::LogitEdit> edits;
  for (const RowWanted& wanted : rows) draws.push_back(draw_of(wanted, &edits));
  edits.push_back({});
  const OnCard<float> logits_card(logits);
  const OnCard<sampling::RowDraw> draws_card(draws);
  const OnCard<sampling::LogitEdit> edits_card(edits);
  const OnCard<sampling::RowDrawn> drawn(rows.size());
  const OnCard<int32_t> tokens(rows.size());
  EXPECT_TRUE(draw(nullptr, logits_card.data(), n, static_cast<int64_t>(rows.size()), n, draws_card.data(),
                   edits_card.data(), drawn.data(), tokens.data()));
  const auto answers_card = drawn.read();
  const auto tokens_read = tokens.read();
  for (size_t r = 0; r < rows.size(); ++r) {
    EXPECT_EQ(tokens_read[r], answers_card[r].token);
    sampler.take_drawn(0, static_cast<int>(r), answers_card[r]);
  }
  std::vector<RowAnswer> answers(rows.size());
  sampler.finish(rows, {0, static_cast<int>(rows.size())}, answers);
  return answers;
}

TEST_F(OnACard, DrawsWhatTheProcessorDraws) {
  const uint64_t seed = entropy();
  SCOPED_TRACE(seed);
  Random random(seed);
  for (const int n : {1, 5, 77, 1000, 50021, 102400, 151936}) {
    SCOPED_TRACE(n);
    const int rows = n > 10000 ? 64 : 300;
    std::vector<float> logits;
    std::vector<Recipe> recipes;
    for (int r = 0; r < rows; ++r) {
      const auto row = random_row(random, n);
      logits.insert(logits.end(), row.begin(), row.end());
      recipes.push_back(random_recipe(random, n));
    }
    std::vector<Recipe> same = recipes;
    std::vector<RowWanted> wanted, wanted_of_card;
    for (int r = 0; r < rows; ++r) {
      const int index = below(random, 9);
      wanted.push_back({&recipes[r], index, true, -1});
      wanted_of_card.push_back({&same[r], index, true, -1});
    }
    VocabularySampler sampler({Interval{0, n}});
    sampler.reserve(0, static_cast<size_t>(rows));
    const auto expected = by_sampler(sampler, wanted, logits.data(), n);
    const auto actual = by_card(sampler, wanted_of_card, logits, n);
    for (int r = 0; r < rows; ++r) {
      SCOPED_TRACE(r);
      ASSERT_EQ(actual[r].error.has_value(), expected[r].error.has_value());
      if (expected[r].error) {
        EXPECT_EQ(actual[r].error->message, expected[r].error->message);
        continue;
      }
      EXPECT_EQ(actual[r].token.id, expected[r].token.id) << recipes[r].params.temperature;
      EXPECT_EQ(actual[r].token.logprob, expected[r].token.logprob);
    }
  }
}

}  // namespace
}  // namespace baton::kernels::cuda
