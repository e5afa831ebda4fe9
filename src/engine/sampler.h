// From a row of logits to a token, and when a sequence ends. Pure: no clock, no state but scratch.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"

namespace baton::engine {

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

// One thread; holds scratch of the vocabulary's size.
//
// What is done to the raw logits x, in this order:
//
// 1. logit_bias is added. Tokens that are not among allowed_token_ids, and those that would complete one of bad_words,
//    are barred.
// 2. Of generated tokens, repetition_penalty r divides a positive x and multiplies any other (Keskar et al. 2019). The
//    prompt does not count, as in SGLang; with repetition_of_prompt it does, as in vLLM.
// 3. frequency_penalty * count + presence_penalty is subtracted (the OpenAI formula).
// 4. While fewer than min_new_tokens are generated, the tokens that would end the sequence are barred.
// 5. softmax(x / temperature) gives probabilities. A token is kept if it is among the top_k most probable, and among
//    the fewest most probable ones whose sum reaches top_p, and has at least min_p times the best one's probability.
//    All three look at the same probabilities.
// 6. What is kept is renormalised, and one is drawn. Ties go to the lower id.
//
// Logprobs are log-softmax of the raw logits: before bias, penalties, temperature and truncation, in prompt and
// completion alike.
class Sampler {
 public:
  Sampler(int vocab, std::vector<int32_t> eos_ids);

  struct Draw {
    const SamplingParams& params;
    uint64_t seed = 0;  // the draw depends on (seed, index) alone
    int index = 0;      // number of tokens generated before this one
    const TokenCounts& generated;
    int logprobs = -1;                     // as Request::logprobs
    std::span<const int32_t> prompt = {};  // read with repetition_of_prompt
    std::span<const int32_t> listed = {};  // as Request::token_ids_logprob
  };
  // `logits`: vocab floats. kCorrupt: a logit is NaN or +inf (never text from a broken machine); kInvalidArgument:
  // every token is barred.
  Result<GeneratedToken> sample(const float* logits, const Draw& draw);

  // The logprob of prompt token `token` given the logits of the position before it, the `top` best (top <= 0: none),
  // and those of the `listed`.
  Result<PromptLogprob> score(const float* logits, int32_t token, int top, std::span<const int32_t> listed = {});

  // Whether a sequence ends with `token`, its `completion_tokens`th (from 1). A stop token wins over the length.
  // stop_token_ids are the client's own words and hold with ignore_eos too.
  [[nodiscard]] std::optional<Output::Finish> finish_after(int32_t token, int completion_tokens,
                                                           const SamplingParams& params) const;

 private:
  void adjust(const float* logits, const Draw& draw);
  void bar_words(const Draw& draw);
  void bar_endings(const SamplingParams& params);
  void penalise(const Draw& draw);
  int32_t draw_from_adjusted(const SamplingParams& params, float best, double uniform);
  std::vector<TokenLogprob> top_logprobs(const float* logits, int count, float log_total);

  const int vocab_;
  const std::vector<int32_t> eos_ids_;
  std::vector<float> adjusted_;  // (vocab)
  std::vector<float> weights_;   // (vocab), exp((x - best) / temperature)
  std::vector<bool> marked_;     // (vocab), all false between calls
  std::vector<int32_t> candidates_;
};

}  // namespace baton::engine
