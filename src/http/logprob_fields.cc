#include "http/logprob_fields.h"

#include <algorithm>
#include <limits>

#include "http/choice_fields.h"
#include "http/json.h"

namespace baton::http {
namespace json = boost::json;

Status read_generate_logprobs(const json::object& body, ApiRequest* request) {
  BATON_ASSIGN(auto top, int_field(body, "top_logprobs_num", 0, 1000));
  BATON_ASSIGN(auto start, int_field(body, "logprob_start_len", -1, std::numeric_limits<int32_t>::max()));
  const json::value* want = find_field(body, "return_logprob");
  if (want == nullptr) return {};
  const size_t choices = request->choices.size();
  for (size_t i = 0; i < choices; ++i) {
    ChoiceRequest& choice = request->choices[i];
    const json::value* mine = entry_for(*want, i, choices, request->samples);
    if (mine == nullptr || !mine->is_bool()) {
      return error(ErrorCode::kInvalidArgument,
                   "return_logprob: must be true or false, or a list of one for each of the {} prompts", choices);
    }
    choice.return_logprob = mine->as_bool();
    if (!choice.return_logprob) continue;
    choice.top_logprobs = static_cast<int>(top.value_or(0));
    choice.engine.logprobs = choice.top_logprobs;
    if (start.value_or(-1) >= 0) choice.engine.prompt_logprob_start = static_cast<int>(*start);
  }
  return {};
}

Status read_completion_logprobs(const json::object& body, ApiRequest* request) {
  BATON_ASSIGN(auto echo, bool_field(body, "echo"));
  request->echo = echo.value_or(false);
  BATON_ASSIGN(auto logprobs, int_field(body, "logprobs", 0, 1000));
  for (ChoiceRequest& choice : request->choices) {
    if (!logprobs) break;
    choice.return_logprob = true;
    choice.top_logprobs = static_cast<int>(*logprobs);
    choice.engine.logprobs = choice.top_logprobs;
    if (request->echo) choice.engine.prompt_logprob_start = 0;
  }
  return {};
}

Status read_chat_logprobs(const json::object& body, ApiRequest* request) {
  BATON_ASSIGN(auto logprobs, bool_field(body, "logprobs"));
  BATON_ASSIGN(auto top, int_field(body, "top_logprobs", 0, 20));
  for (ChoiceRequest& choice : request->choices) {
    choice.return_logprob = logprobs.value_or(false);
    if (!choice.return_logprob) continue;
    choice.top_logprobs = static_cast<int>(top.value_or(0));
    choice.engine.logprobs = choice.top_logprobs;
  }
  return {};
}

Status check_prompt_logprobs(const ModelText& model, const ApiRequest& request) {
  constexpr size_t kLogprobBytes = 16;
  size_t bytes = 0;
  for (const ChoiceRequest& choice : request.choices) {
    const std::vector<int32_t>& prompt = choice.engine.prompt;
    if (const int start = choice.engine.prompt_logprob_start; start >= 0) {
      const size_t scored = prompt.size() - std::min(prompt.size(), static_cast<size_t>(start));
      bytes += scored * static_cast<size_t>(1 + choice.top_logprobs) * kLogprobBytes;
    }
    if (!request.echo || !model.tokenizer) continue;
    for (const int32_t id : prompt) bytes += model.tokenizer->token_bytes(id).size();
  }
  if (bytes <= kCallBytesMax) return {};
  return error(ErrorCode::kInvalidArgument,
               "n: the logprobs and echoes of {} prompts are {} bytes; at most {} a call, send fewer at a time",
               request.choices.size(), bytes, kCallBytesMax);
}

}  // namespace baton::http
