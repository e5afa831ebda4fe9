#include "sampling/row_draw.h"

#include <algorithm>
#include <limits>

#include "base/random.h"
#include "sampling/recipe.h"
#include "sampling/token_weight.h"

namespace baton::sampling {
namespace {

// The uniform number of token `index`: a function of (seed, index), so it does not matter where or in which batch it is
// drawn.
double uniform_of(uint64_t seed, int index) {
  Random stream(seed);
  Random mixed(stream.next() ^ (static_cast<uint64_t>(index) * 0xd1342543de82ef95));
  return mixed.uniform();
}

void add_biases(const SamplingParams& params, std::vector<LogitEdit>* edits) {
  for (const auto& [token, bias] : params.logit_bias)
    edits->push_back({token, LogitEdit::Kind::kBias, static_cast<float>(bias), 0});
}

void add_allowed(const SamplingParams& params, std::vector<LogitEdit>* edits) {
  for (const int32_t token : params.allowed_token_ids) {
    const auto bias = params.logit_bias.find(token);
    edits->push_back(
        {token, LogitEdit::Kind::kAllow, bias == params.logit_bias.end() ? 0 : static_cast<float>(bias->second), 0});
  }
}

void add_penalties(const Recipe& recipe, std::vector<LogitEdit>* edits) {
  const SamplingParams& params = recipe.params;
  const auto repetition = static_cast<float>(params.repetition_penalty);
  for (const int32_t token : recipe.prompt) {
    if (!recipe.history.counts().contains(token)) edits->push_back({token, LogitEdit::Kind::kPenalise, repetition, 0});
  }
  for (const auto& [token, count] : recipe.history.counts())
    edits->push_back({token, LogitEdit::Kind::kPenalise, repetition,
                      static_cast<float>(params.frequency_penalty * count + params.presence_penalty)});
}

void add_bars(const RowWanted& wanted, std::vector<LogitEdit>* edits) {
  const Recipe& recipe = *wanted.recipe;
  const std::vector<int32_t>& ids = recipe.history.ids();
  const auto bar = [&](int32_t token) { edits->push_back({token, LogitEdit::Kind::kBar, 0, 0}); };
  for (const std::vector<int32_t>& word : recipe.params.bad_words) {
    const size_t before = word.size() - 1;
    if (before > ids.size()) continue;
    if (std::equal(word.begin(), word.end() - 1, ids.end() - static_cast<ptrdiff_t>(before))) bar(word.back());
  }
  if (wanted.index >= recipe.params.min_new_tokens) return;
  for (const int32_t token : recipe.endings) bar(token);
}

}  // namespace

RowDraw draw_of(const RowWanted& wanted, std::vector<LogitEdit>* edits) {
  const Recipe& recipe = *wanted.recipe;
  const SamplingParams& params = recipe.params;
  const auto end = [edits] { return static_cast<int32_t>(edits->size()); };
  RowDraw draw;
  draw.edits_begin = end();
  draw.barred = params.allowed_token_ids.empty() ? 0 : 1;
  draw.barred != 0 ? add_allowed(params, edits) : add_biases(params, edits);
  draw.penalties_begin = end();
  if (recipe.penalises()) add_penalties(recipe, edits);
  draw.bars_begin = end();
  add_bars(wanted, edits);
  draw.edits_end = end();
  draw.rates = recipe.logprobs >= 0 ? 1 : 0;
  if (recipe.greedy()) return draw;
  draw.greedy = 0;
  draw.inverse_temperature = static_cast<float>(1 / params.temperature);
  draw.cuts = params.top_k != -1 || params.top_p < 1 ? 1 : 0;
  draw.least_weight =
      std::max<uint64_t>(1, static_cast<uint64_t>(params.min_p * static_cast<double>(uint64_t{1} << kUnitBits)));
  draw.count_max = params.top_k == -1 ? std::numeric_limits<uint64_t>::max() : static_cast<uint64_t>(params.top_k);
  draw.top_p = params.top_p;
  draw.uniform = uniform_of(recipe.seed, wanted.index);
  return draw;
}

}  // namespace baton::sampling
