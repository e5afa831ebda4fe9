// What is wanted of rows of logits, and what comes of it. The engine asks; whoever has the logits answers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "base/result.h"
#include "sampling/sampling_params.h"

namespace baton::sampling {

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};
struct GeneratedToken {
  int32_t id = 0;
  float logprob = 0;              // valid if asked for
  std::vector<TokenLogprob> top;  // best first
  std::vector<float> listed{};    // of Recipe::listed
};
// Of prompt token i given those before it; position 0 has none.
struct PromptLogprob {
  int32_t token = 0;
  std::optional<float> logprob;
  std::vector<TokenLogprob> top;
  std::vector<float> listed{};
};

// What was generated so far: how often each token was, for the penalties, and in which order, for bad_words.
class TokenCounts {
 public:
  void add(int32_t token) {
    ++counts_[token];
    ids_.push_back(token);
  }
  [[nodiscard]] const std::unordered_map<int32_t, int>& counts() const { return counts_; }
  [[nodiscard]] const std::vector<int32_t>& ids() const { return ids_; }

 private:
  std::unordered_map<int32_t, int> counts_;
  std::vector<int32_t> ids_;
};

// How the tokens of one request are drawn and rated. Shared, because steps that use it may outlive the request.
struct Recipe {
  SamplingParams params;
  uint64_t seed = 0;             // the draw of token i depends on (seed, i) alone
  std::vector<int32_t> endings;  // barred while fewer than min_new_tokens are generated
  std::vector<int32_t> prompt;   // its tokens, each once; read with repetition_of_prompt alone
  int logprobs = -1;             // of generated tokens: -1 none, 0 of the token, n also of the n best
  int prompt_logprobs = 0;       // how many of the best are given at each rated position of the prompt
  std::vector<int32_t> listed;   // wherever a logprob is given, those of these tokens too
  // Kept only if penalties or bad_words read it. Whoever draws a token adds it, so that the next one's draw finds it
  // there before the engine has heard of it; the engine adds what was drawn elsewhere, before the first step.
  TokenCounts history;

  [[nodiscard]] bool greedy() const { return params.temperature < 1e-6 || params.top_k == 1; }
  [[nodiscard]] bool penalises() const {
    return params.repetition_penalty != 1 || params.frequency_penalty != 0 || params.presence_penalty != 0;
  }
  [[nodiscard]] bool reads_history() const { return penalises() || !params.bad_words.empty(); }
};

// Of the rows of one segment of a step. A row is rated, or the last one drawn from, or nothing is wanted of it.
struct RowsWanted {
  std::shared_ptr<Recipe> recipe;  // null: nothing is wanted
  int index = 0;                   // how many tokens are generated before the one drawn
  bool draw = false;               // a token from the last row
  std::span<const int32_t> rated;  // (rows) the token to rate given each row's logits, or -1; empty: none
};
// The same of one row.
struct RowWanted {
  Recipe* recipe = nullptr;
  int index = 0;
  bool draw = false;
  int32_t rated = -1;

  [[nodiscard]] bool logprobs() const { return draw ? recipe->logprobs >= 0 : rated >= 0; }
  [[nodiscard]] int tops() const { return draw ? recipe->logprobs : recipe->prompt_logprobs; }
};

// What `rows` want of each row of a segment, whose places in `wanted` say that nothing is.
inline void want_rows(const RowsWanted& rows, std::span<RowWanted> wanted) {
  if (rows.recipe == nullptr) return;
  BATON_CHECK(rows.rated.size() <= wanted.size() && (!rows.draw || !wanted.empty()), "{} rated of {} rows",
              rows.rated.size(), wanted.size());
  for (size_t r = 0; r < rows.rated.size(); ++r) {
    if (rows.rated[r] >= 0) wanted[r] = {rows.recipe.get(), 0, false, rows.rated[r]};
  }
  if (rows.draw) wanted.back() = {rows.recipe.get(), rows.index, true, -1};
}

// What became of a row. kCorrupt: a logit is NaN or +inf (never text from a broken machine); kInvalidArgument: every
// token is barred.
struct RowAnswer {
  std::optional<Error> error;
  GeneratedToken token;  // drawn; or the one that was to be rated, then its id is that token's
};

}  // namespace baton::sampling
