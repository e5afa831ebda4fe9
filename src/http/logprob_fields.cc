#include "http/logprob_fields.h"

#include <algorithm>
#include <limits>

#include "http/choice_fields.h"
#include "http/json.h"

namespace baton::http {
namespace json = boost::json;

namespace {

constexpr size_t kListedLogprobsMax = 4096;
constexpr size_t kChosenLogprobsMax = 128;  // logprob_token_ids

Error not_one_each(std::string_view name, size_t choices) {
  return error(ErrorCode::kInvalidArgument, "{}: a list must have one entry for each of the {} prompts", name, choices);
}

// Of a number for all sequences, or a list of one for each.
Result<std::optional<int64_t>> int_entry(const json::object& body, std::string_view name, int64_t min, int64_t max,
                                         size_t choice, const ApiRequest& request) {
  const json::value* value = find_field(body, name);
  if (value == nullptr || !value->is_array()) return int_field(body, name, min, max);
  const json::value* mine = entry_for(*value, choice, request.choices.size(), request.samples);
  if (mine == nullptr) return not_one_each(name, request.choices.size());
  return int_field(json::object{{name, *mine}}, name, min, max);
}

Result<std::vector<int32_t>> listed_from(const json::value& value, const ModelText& model,
                                         const char* name = "token_ids_logprob", size_t ids_max = kListedLogprobsMax) {
  const Error not_flat =
      error(ErrorCode::kInvalidArgument, "{}: must be a flat list of integers for each prompt", name);
  if (value.is_null()) return std::vector<int32_t>();
  if (!value.is_array()) return not_flat;
  if (value.as_array().size() > ids_max)
    return error(ErrorCode::kInvalidArgument, "{}: {} ids; at most {} are allowed", name, value.as_array().size(),
                 ids_max);
  std::vector<int32_t> ids;
  for (const json::value& entry : value.as_array()) {
    if (!entry.is_int64() && !entry.is_uint64()) return not_flat;
    if (!entry.is_int64() || entry.as_int64() < 0 || entry.as_int64() >= model.vocab)
      return error(ErrorCode::kInvalidArgument, "{}: {} is an out-of-vocabulary token id, not in [0, {}]", name,
                   json::serialize(entry), model.vocab - 1);
    ids.push_back(static_cast<int32_t>(entry.as_int64()));
  }
  return ids;
}

// A list of ids for all sequences, or in a batch a list of such lists; there a bare id is a list of one.
Result<std::vector<int32_t>> listed_entry(const json::object& body, size_t choice, const ModelText& model,
                                          const ApiRequest& request) {
  const json::value* value = find_field(body, "token_ids_logprob");
  if (value == nullptr) return std::vector<int32_t>();
  if (!request.batch) return listed_from(*value, model);
  if (!value->is_array()) return listed_from(json::array{*value}, model);
  const bool nested = std::any_of(value->as_array().begin(), value->as_array().end(),
                                  [](const json::value& entry) { return entry.is_array(); });
  if (!nested) return listed_from(*value, model);
  const json::value* mine = entry_for(*value, choice, request.choices.size(), request.samples);
  if (mine == nullptr) return not_one_each("token_ids_logprob", request.choices.size());
  return listed_from(*mine, model);
}

// vLLM's logprob_token_ids: of these tokens, in the place of the best ones.
Status read_chosen(const json::object& body, const ModelText& model, bool logprobs, ApiRequest* request) {
  constexpr const char* kName = "logprob_token_ids";
  const json::value* value = find_field(body, kName);
  if (value == nullptr) return {};
  BATON_ASSIGN(const std::vector<int32_t> ids, listed_from(*value, model, kName, kChosenLogprobsMax));
  if (ids.empty()) return {};
  if (!logprobs) return error(ErrorCode::kInvalidArgument, "{}: only with logprobs", kName);
  for (ChoiceRequest& choice : request->choices) {
    choice.engine.prompt_logprobs = choice.engine.prompt_tops();  // where the prompt is scored too, it is as without
    choice.engine.logprobs = 0;
    choice.engine.token_ids_logprob = ids;
  }
  return {};
}

Result<bool> return_entry(const json::object& body, size_t choice, const ApiRequest& request) {
  const json::value* want = find_field(body, "return_logprob");
  if (want == nullptr) return false;
  const json::value* mine = entry_for(*want, choice, request.choices.size(), request.samples);
  if (mine != nullptr && mine->is_null()) return false;
  if (mine == nullptr || !mine->is_bool()) {
    return error(ErrorCode::kInvalidArgument,
                 "return_logprob: must be true or false, or a list of one for each of the {} prompts",
                 request.choices.size());
  }
  return mine->as_bool();
}

}  // namespace

// Fields are checked whether or not they will be used.
Status read_generate_logprobs(const json::object& body, const ModelText& model, ApiRequest* request) {
  for (size_t i = 0; i < request->choices.size(); ++i) {
    ChoiceRequest& choice = request->choices[i];
    BATON_ASSIGN(const auto top, int_entry(body, "top_logprobs_num", 0, kTopLogprobsMax, i, *request));
    BATON_ASSIGN(const auto start,
                 int_entry(body, "logprob_start_len", -1, std::numeric_limits<int32_t>::max(), i, *request));
    BATON_ASSIGN(auto listed, listed_entry(body, i, model, *request));
    BATON_ASSIGN(choice.return_logprob, return_entry(body, i, *request));
    if (!choice.return_logprob) continue;
    choice.top_logprobs = static_cast<int>(top.value_or(0));
    choice.engine.logprobs = choice.top_logprobs;
    choice.engine.token_ids_logprob = std::move(listed);
    // Where no new token is wanted, a start behind the prompt means that none of it is scored.
    const bool beyond = start.value_or(-1) >= static_cast<int64_t>(choice.engine.prompt.size());
    if (start && *start >= 0 && !(beyond && choice.engine.sampling.max_new_tokens == 0))
      choice.engine.prompt_logprob_start = static_cast<int>(*start);
  }
  return {};
}

int64_t logprobs_max(const ModelText& model, int64_t otherwise) {
  if (!model.logprobs_max) return otherwise;
  return *model.logprobs_max < 0 ? kTopLogprobsMax : std::min(int64_t{*model.logprobs_max}, kTopLogprobsMax);
}

Status read_completion_logprobs(const json::object& body, const ModelText& model, ApiRequest* request) {
  BATON_ASSIGN(auto echo, bool_field(body, "echo"));
  request->echo = echo.value_or(false);
  BATON_ASSIGN(auto logprobs, int_field(body, "logprobs", 0, logprobs_max(model, kTopLogprobsMax)));
  for (ChoiceRequest& choice : request->choices) {
    if (!logprobs) break;
    choice.return_logprob = true;
    choice.top_logprobs = static_cast<int>(*logprobs);
    choice.engine.logprobs = choice.top_logprobs;
    if (request->echo) choice.engine.prompt_logprob_start = 0;
  }
  return read_chosen(body, model, logprobs.has_value(), request);
}

Status read_chat_logprobs(const json::object& body, const ModelText& model, ApiRequest* request) {
  BATON_ASSIGN(auto logprobs, bool_field(body, "logprobs"));
  BATON_ASSIGN(auto top, int_field(body, "top_logprobs", 0, logprobs_max(model, kTopLogprobsMax)));
  for (ChoiceRequest& choice : request->choices) {
    choice.return_logprob = logprobs.value_or(false);
    if (!choice.return_logprob) continue;
    choice.top_logprobs = static_cast<int>(top.value_or(0));
    choice.engine.logprobs = choice.top_logprobs;
  }
  return read_chosen(body, model, logprobs.value_or(false), request);
}

Status check_prompt_logprobs(const ModelText& model, const ApiRequest& request) {
  // Of one's text: vLLM's form says more of it.
  const size_t logprob_bytes = request.prompt_logprobs >= 0 ? 96 : 32;
  size_t bytes = 0;
  for (const ChoiceRequest& choice : request.choices) {
    const std::vector<int32_t>& prompt = choice.engine.prompt;
    if (const int start = choice.engine.prompt_logprob_start; start >= 0) {
      const size_t scored = prompt.size() - std::min(prompt.size(), static_cast<size_t>(start));
      bytes += scored *
               (static_cast<size_t>(1 + std::max(choice.top_logprobs, choice.engine.prompt_tops())) * logprob_bytes +
                choice.engine.token_ids_logprob.size() * logprob_bytes);
    }
    if (!request.echo || !model.tokenizer) continue;
    for (const int32_t id : prompt) bytes += model.tokenizer->token_bytes(id).size();
  }
  if (bytes <= kAnswerBytesMax) return {};
  return error(
      ErrorCode::kInvalidArgument,
      "n: the logprobs and echoes of {} prompts are {} bytes; at most {} a call, send fewer at a time or ask for "
      "fewer logprobs",
      request.choices.size(), bytes, kAnswerBytesMax);
}

// SGLang leaves special tokens out of what ids stand for.
void make_echoes(const json::object& body, const ModelText& model, ApiRequest* request) {
  const json::value* prompt = find_field(body, "prompt");
  if (prompt == nullptr) return;
  const auto prompts = static_cast<size_t>(request->choices.back().prompt_index) + 1;
  request->echoes.resize(prompts);
  for (const ChoiceRequest& choice : request->choices) {
    const auto p = static_cast<size_t>(choice.prompt_index);
    Echo& echo = request->echoes[p];
    if (!echo.text.empty()) continue;  // another sample of the prompt
    const bool listed = prompt->is_array() && !prompt->as_array().empty() && !prompt->as_array().front().is_number();
    const json::value& mine = listed ? prompt->as_array()[p] : *prompt;
    echo.decoded = !mine.is_string() || choice.prompt_cut;
    if (!echo.decoded) {
      echo.text = std::string(mine.as_string());
    } else if (model.tokenizer) {
      echo.text = model.tokenizer->decode(choice.engine.prompt, true);
    }
  }
}

}  // namespace baton::http
