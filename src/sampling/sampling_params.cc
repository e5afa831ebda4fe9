#include "sampling/sampling_params.h"

#include <cmath>

namespace baton::sampling {

namespace {

struct Range {
  const char* name;
  double value;
  double low, high;
  bool low_is_open;
  const char* text;
};

Status check(const Range& range) {
  const bool above = range.low_is_open ? range.value > range.low : range.value >= range.low;
  if (above && range.value <= range.high) return {};  // a NaN fails both
  return error(ErrorCode::kInvalidArgument, "{} is {}; it must be in {}", range.name, range.value, range.text);
}

Status check_tokens(const char* name, int32_t token, int vocab) {
  if (token >= 0 && token < vocab) return {};
  return error(ErrorCode::kInvalidArgument, "{} names token {}; the vocabulary has {} tokens", name, token, vocab);
}

}  // namespace

Status validate(const SamplingParams& params, int vocab) {
  constexpr double kInfinity = HUGE_VAL;
  if (params.max_new_tokens < 0) {
    return error(ErrorCode::kInvalidArgument, "max_new_tokens is {}; it must be at least 0", params.max_new_tokens);
  }
  if (params.min_new_tokens < 0 || params.min_new_tokens > params.max_new_tokens) {
    return error(ErrorCode::kInvalidArgument, "min_new_tokens is {}; it must be in [0, max_new_tokens], here [0, {}]",
                 params.min_new_tokens, params.max_new_tokens);
  }
  if (params.top_k != -1 && params.top_k < 1) {
    return error(ErrorCode::kInvalidArgument, "top_k is {}; it must be at least 1, or -1 for all tokens", params.top_k);
  }
  const Range ranges[] = {
      {"temperature", params.temperature, 0, kInfinity, false, "[0, inf)"},
      {"top_p", params.top_p, 0, 1, true, "(0, 1]"},
      {"min_p", params.min_p, 0, 1, false, "[0, 1]"},
      {"frequency_penalty", params.frequency_penalty, -2, 2, false, "[-2, 2]"},
      {"presence_penalty", params.presence_penalty, -2, 2, false, "[-2, 2]"},
      {"repetition_penalty", params.repetition_penalty, 0, 2, true, "(0, 2]"},
  };
  for (const Range& range : ranges) BATON_TRY(check(range));
  if (std::isinf(params.temperature)) {
    return error(ErrorCode::kInvalidArgument, "temperature is infinite; it must be in [0, inf)");
  }
  for (const int32_t token : params.stop_token_ids) BATON_TRY(check_tokens("stop_token_ids", token, vocab));
  for (const auto& [token, bias] : params.logit_bias) {
    BATON_TRY(check_tokens("logit_bias", token, vocab));
    BATON_TRY(check({"logit_bias", bias, -100, 100, false, "[-100, 100]"}));
  }
  for (const int32_t token : params.allowed_token_ids) BATON_TRY(check_tokens("allowed_token_ids", token, vocab));
  for (const std::vector<int32_t>& word : params.bad_words) {
    if (word.empty()) return error(ErrorCode::kInvalidArgument, "bad_words has a word without tokens");
    for (const int32_t token : word) BATON_TRY(check_tokens("bad_words", token, vocab));
  }
  return {};
}

}  // namespace baton::sampling
