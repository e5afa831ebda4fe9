// The JSON of answers: pure functions from what was generated to text.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "http/api_request.h"
#include "http/choice_state.h"

namespace baton::http {

struct AnswerContext {
  const ApiRequest& call;
  const ModelText& model;
  int64_t created = 0;   // Unix seconds
  double elapsed_s = 0;  // since the request came
};

// The answer as a whole, every choice finished.
[[nodiscard]] std::string whole_answer(const AnswerContext& context, const std::vector<ChoiceState>& choices);
// "data: {...}\n\n" with what is new in the choice since its last event; counts it as sent.
[[nodiscard]] std::string stream_event(const AnswerContext& context, ChoiceState& choice);
// The extra chunk of stream_options.include_usage.
[[nodiscard]] std::string usage_event(const AnswerContext& context, const std::vector<ChoiceState>& choices);

}  // namespace baton::http
