#include "http/prompt_fields.h"

#include <algorithm>

#include "http/json.h"
#include "http/sampling_fields.h"

namespace baton::http {
namespace json = boost::json;
namespace {

// What cannot fit is not tokenized to its end.
Result<std::vector<int32_t>> encode(const ReadContext& read, std::string_view text, std::string_view name,
                                    bool add_special) {
  const ModelText& model = read.model;
  if (!model.tokenizer)
    return error(ErrorCode::kInvalidArgument, "this server has no tokenizer (--skip-tokenizer-init): send token ids");
  text::EncodeLimits limits;
  limits.stop = read.stop;
  limits.tokens_max = static_cast<size_t>(std::max<int64_t>(model.context_length - 1, 0));
  auto ids = model.tokenizer->encode(text, add_special, limits);
  if (ids || ids.error().code != ErrorCode::kInvalidArgument) return ids;
  return error(ErrorCode::kInvalidArgument,
               "{}: {}; the context length is {}, shorten the prompt or serve with a larger --context-length", name,
               ids.error().message, model.context_length);
}

// Before prompts are copied for each of n samples: what cannot be served costs no more than its body.
Status check_prompt(const std::vector<int32_t>& ids, std::string_view name, const ModelText& model) {
  if (ids.empty()) return error(ErrorCode::kInvalidArgument, "{}: the prompt has no tokens", name);
  if (static_cast<int64_t>(ids.size()) >= model.context_length) {
    return error(ErrorCode::kInvalidArgument,
                 "{}: the prompt has {} tokens and the context length is {}: no room for a new one; shorten the prompt "
                 "or serve with a larger --context-length",
                 name, ids.size(), model.context_length);
  }
  return check_vocabulary(ids, name, model);
}

Result<Prompt> read_prompt(const json::value& value, std::string_view name, const ReadContext& read) {
  if (value.is_string()) return read_text(read, value.as_string(), name, true);
  BATON_ASSIGN(auto ids, ids_from(value, name));
  BATON_TRY(check_prompt(ids, name, read.model));
  return Prompt{std::move(ids)};
}

}  // namespace

Result<Prompt> read_text(const ReadContext& read, std::string_view text, std::string_view name, bool add_special) {
  BATON_ASSIGN(auto ids, encode(read, text, name, add_special));
  BATON_TRY(check_prompt(ids, name, read.model));
  return Prompt{std::move(ids)};
}

Status read_prompts(const json::value& value, std::string_view name, const ReadContext& read,
                    std::vector<Prompt>* prompts, bool* batch) {
  if (!value.is_string() && !value.is_array())
    return error(ErrorCode::kInvalidArgument, "{}: must be a string, a list of strings, or token ids", name);
  if (value.is_array() && value.as_array().empty()) return error(ErrorCode::kInvalidArgument, "{}: is empty", name);
  if (value.is_string() || value.as_array().front().is_number()) {
    BATON_ASSIGN(prompts->emplace_back(), read_prompt(value, name, read));
    return {};
  }
  const json::array& list = value.as_array();
  if (list.size() > kChoicesMax)
    return error(ErrorCode::kInvalidArgument, "{}: {} prompts; at most {} a call", name, list.size(), kChoicesMax);
  *batch = true;
  for (const json::value& entry : list) {
    BATON_ASSIGN(prompts->emplace_back(), read_prompt(entry, name, read));
  }
  return {};
}

}  // namespace baton::http
