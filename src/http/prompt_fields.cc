#include "http/prompt_fields.h"

#include <algorithm>
#include <limits>

#include "http/json.h"
#include "http/sampling_fields.h"

namespace baton::http {
namespace json = boost::json;
namespace {

// What cannot fit is not tokenized to its end, unless it is to be cut.
Result<std::vector<int32_t>> encode(const ReadContext& read, std::string_view text, std::string_view name,
                                    bool add_special) {
  const ModelText& model = read.model;
  if (!model.tokenizer)
    return error(ErrorCode::kInvalidArgument, "this server has no tokenizer (--skip-tokenizer-init): send token ids");
  text::EncodeLimits limits;
  limits.stop = read.stop;
  if (!read.cut.tokens_max) limits.tokens_max = static_cast<size_t>(std::max<int64_t>(model.context_length - 1, 0));
  auto ids = model.tokenizer->encode(text, add_special, limits);
  if (ids || ids.error().code != ErrorCode::kInvalidArgument) return ids;
  return error(ErrorCode::kInvalidArgument,
               "{}: {}: the input is longer than the model's context length ({} tokens); shorten the prompt or serve "
               "with a larger --context-length",
               name, ids.error().message, model.context_length);
}

// Before prompts are copied for each of n samples: what cannot be served costs no more than its body.
Result<Prompt> checked(std::vector<int32_t> ids, std::string_view name, const ReadContext& read) {
  const ModelText& model = read.model;
  const bool cut = read.cut.tokens_max && ids.size() > *read.cut.tokens_max;
  if (cut) {
    const auto surplus = static_cast<ptrdiff_t>(ids.size() - *read.cut.tokens_max);
    if (read.cut.keep_end) {
      ids.erase(ids.begin(), ids.begin() + surplus);
    } else {
      ids.erase(ids.end() - surplus, ids.end());
    }
  }
  if (ids.empty())
    return error(ErrorCode::kInvalidArgument, "{}: the prompt has no tokens; the decoder prompt cannot be empty", name);
  if (static_cast<int64_t>(ids.size()) >= model.context_length) {
    return error(ErrorCode::kInvalidArgument,
                 "{}: the input ({} tokens) is longer than the model's context length ({} tokens, one of them new); "
                 "shorten the prompt or serve with a larger --context-length",
                 name, ids.size(), model.context_length);
  }
  BATON_TRY(check_vocabulary(ids, name, model));
  return Prompt{std::move(ids), cut};
}

Result<Prompt> read_prompt(const json::value& value, std::string_view name, const ReadContext& read, bool add_special) {
  if (value.is_string()) return read_text(read, value.as_string(), name, add_special);
  return read_ids(read, value, name);
}

}  // namespace

Result<PromptCut> read_prompt_cut(const json::object& body, ApiKind kind, const ModelText& model) {
  PromptCut cut;
  const int64_t room = std::max<int64_t>(model.context_length - 1, 0);
  if (model.allow_auto_truncate) cut = {static_cast<size_t>(room), false};
  if (kind == ApiKind::kGenerate) return cut;
  BATON_ASSIGN(auto side, string_field(body, "truncation_side"));
  if (side && *side != "left" && *side != "right")
    return error(ErrorCode::kInvalidArgument, "truncation_side: must be \"left\" or \"right\"");
  BATON_ASSIGN(auto most, int_field(body, "truncate_prompt_tokens", -1, model.context_length));
  if (!most) return cut;
  if (*most < 0) {  // as much as leaves room for what is asked for
    BATON_ASSIGN(auto asked, int_field(body, "max_tokens", 0, std::numeric_limits<int32_t>::max()));
    BATON_ASSIGN(auto newer, int_field(body, "max_completion_tokens", 0, std::numeric_limits<int32_t>::max()));
    const int64_t output = newer ? *newer : asked.value_or(kind == ApiKind::kCompletion ? kCompletionTokens : 1);
    *most = std::max<int64_t>(std::min(model.context_length - output, room), 0);
  }
  return PromptCut{static_cast<size_t>(*most), side.value_or("left") == "left"};
}

Result<Prompt> read_ids(const ReadContext& read, const json::value& ids, std::string_view name) {
  BATON_ASSIGN(auto listed, ids_from(ids, name));
  return checked(std::move(listed), name, read);
}

Result<Prompt> read_text(const ReadContext& read, std::string_view text, std::string_view name, bool add_special) {
  BATON_ASSIGN(auto ids, encode(read, text, name, add_special));
  return checked(std::move(ids), name, read);
}

Status read_prompts(const json::value& value, std::string_view name, const ReadContext& read, bool add_special,
                    std::vector<Prompt>* prompts, bool* batch) {
  if (!value.is_string() && !value.is_array())
    return error(ErrorCode::kInvalidArgument, "{}: must be a string, a list of strings, or token ids", name);
  if (value.is_array() && value.as_array().empty()) return error(ErrorCode::kInvalidArgument, "{}: is empty", name);
  if (value.is_string() || value.as_array().front().is_number()) {
    BATON_ASSIGN(prompts->emplace_back(), read_prompt(value, name, read, add_special));
    return {};
  }
  const json::array& list = value.as_array();
  if (list.size() > kChoicesMax)
    return error(ErrorCode::kInvalidArgument, "{}: {} prompts; at most {} a call", name, list.size(), kChoicesMax);
  *batch = true;
  for (const json::value& entry : list) {
    BATON_ASSIGN(prompts->emplace_back(), read_prompt(entry, name, read, add_special));
  }
  return {};
}

}  // namespace baton::http
