#include "engine/endings.h"

#include <algorithm>

namespace baton::engine {

std::optional<Output::Finish> finish_after(const std::vector<int32_t>& eos_ids, int32_t token, int completion_tokens,
                                           const SamplingParams& params) {
  const auto contains = [token](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  if (contains(params.stop_token_ids) || (!params.ignore_eos && contains(eos_ids))) {
    return Output::Finish{FinishReason::kStop, token, std::nullopt};
  }
  if (completion_tokens >= params.max_new_tokens)
    return Output::Finish{FinishReason::kLength, std::nullopt, std::nullopt};
  return std::nullopt;
}

std::vector<int32_t> endings_of(const std::vector<int32_t>& eos_ids, const SamplingParams& params) {
  std::vector<int32_t> endings = params.stop_token_ids;
  if (!params.ignore_eos) endings.insert(endings.end(), eos_ids.begin(), eos_ids.end());
  return endings;
}

}  // namespace baton::engine
