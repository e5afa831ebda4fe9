// What answers show of tokens beside their text: ids, and vLLM's form of the prompt's logprobs.
#pragma once

#include <string>

#include "http/api_response.h"

namespace baton::http {

// Members of one choice's object, each with a comma in front. `from`: the first token that the answer has not shown;
// `first`: it is the choice's first event, or the whole of it.
[[nodiscard]] std::string choice_members(const AnswerContext& context, const ChoiceState& choice, size_t from,
                                         bool first);
// Members of the answer's own object: of a chat, whose prompt all choices share.
[[nodiscard]] std::string answer_members(const AnswerContext& context, const ChoiceState& choice, bool first);

}  // namespace baton::http
