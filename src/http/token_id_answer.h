// What answers show of tokens beside their text: ids, and vLLM's form of the prompt's logprobs.
#pragma once

#include <string>

#include "http/api_response.h"

namespace baton::http {

// How the logprobs of the OpenAI endpoints name a token: its text, or "token_id:5" where the call wants that.
[[nodiscard]] std::string token_label(const AnswerContext& context, int32_t id);
// The bytes of that name, for a chat.
[[nodiscard]] std::string label_bytes(const AnswerContext& context, int32_t id);

// Members of one choice's object, each with a comma in front. `from`: the first token that the answer has not shown;
// `first`: it is the choice's first event, or the whole of it.
[[nodiscard]] std::string choice_members(const AnswerContext& context, const ChoiceState& choice, size_t from,
                                         bool first);
// Members of the answer's own object: of a chat, whose prompt all choices share, and of what was cached.
[[nodiscard]] std::string answer_members(const AnswerContext& context, const ChoiceState& choice, bool first);

}  // namespace baton::http
