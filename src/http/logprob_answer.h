// The JSON of logprobs in answers.
#pragma once

#include <cstddef>
#include <string>

#include "http/api_response.h"

namespace baton::http {

// Members of /generate's meta_info, each with a comma before it.
void append_generate_logprobs(std::string& out, const AnswerContext& context, const ChoiceState& choice);
// OpenAI's completions form, for tokens [from, end) and, when `first` and echo is on, those of the prompt before them.
[[nodiscard]] std::string completion_logprobs(const AnswerContext& context, const ChoiceState& choice, size_t from,
                                              bool first);
// OpenAI's chat form.
[[nodiscard]] std::string chat_logprobs(const AnswerContext& context, const ChoiceState& choice, size_t from);

}  // namespace baton::http
