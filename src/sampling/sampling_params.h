// How the tokens of one request are to be chosen, in its client's words.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/result.h"

namespace baton::sampling {

// Ranges are checked by validate(); the names are SGLang's.
struct SamplingParams {
  int max_new_tokens = 128;  // >= 0
  int min_new_tokens = 0;
  double temperature = 1.0;                            // >= 0; below 1e-6 greedy
  double top_p = 1.0;                                  // (0, 1]
  double min_p = 0.0;                                  // [0, 1]
  int top_k = -1;                                      // >= 1, or -1 for all
  double frequency_penalty = 0, presence_penalty = 0;  // [-2, 2]
  double repetition_penalty = 1.0;                     // (0, 2]
  std::optional<uint64_t> seed;                        // the draw of token i depends on (seed, i) alone
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  std::map<int32_t, double> logit_bias;  // added before penalties, [-100, 100]
  // vLLM's names.
  std::vector<int32_t> allowed_token_ids;  // no other may be generated; empty: all
  // Sequences of tokens, none empty, that what is generated must not contain: each one's last token is barred where it
  // would complete it. The prompt is no part of them.
  std::vector<std::vector<int32_t>> bad_words;
  bool repetition_of_prompt = false;  // repetition_penalty counts the prompt's tokens, as in transformers
};
Status validate(const SamplingParams& params, int vocab);

}  // namespace baton::sampling
