// Tokens and logprobs between the engine's forms and the wire's.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "wire/frames.h"

namespace baton::engine {

// ---- prefill ----

[[nodiscard]] wire::FirstToken first_token_of(GeneratedToken token, bool ends);
[[nodiscard]] std::vector<wire::PromptRow> rows_of(std::vector<PromptLogprob> logprobs);

// ---- decode ----

// How many of the prompt's tokens have a row.
[[nodiscard]] int64_t rows_wanted(const Request& request);
// At most so many logprobs stand beside that of a token.
[[nodiscard]] size_t beside_wanted(const Request& request);

// kCorrupt when a token is none of the vocabulary's, or the lists are not as the request wants them: never text or
// numbers that only look like an answer.
Result<GeneratedToken> token_from(const wire::FirstToken& first, const Request& request, int vocab);
Result<std::vector<PromptLogprob>> logprobs_from(std::vector<wire::PromptRow> rows, const Request& request, int vocab);

}  // namespace baton::engine
