// When a sequence ends by itself.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/engine.h"

namespace baton::engine {

// Whether a sequence ends with `token`, its `completion_tokens`th (from 1). A stop token wins over the length.
// stop_token_ids are the client's own words and hold with ignore_eos too.
[[nodiscard]] std::optional<Output::Finish> finish_after(const std::vector<int32_t>& eos_ids, int32_t token,
                                                         int completion_tokens, const SamplingParams& params);
// The tokens that end it.
[[nodiscard]] std::vector<int32_t> endings_of(const std::vector<int32_t>& eos_ids, const SamplingParams& params);

}  // namespace baton::engine
