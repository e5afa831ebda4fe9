#include "http/answer_fields.h"

#include <utility>

#include "http/json.h"
#include "http/logprob_fields.h"

namespace baton::http {
namespace json = boost::json;

Status read_stream_options(const json::object& body, const ModelText& model, ApiRequest* request) {
  BATON_ASSIGN(auto stream, bool_field(body, "stream"));
  request->stream = stream.value_or(false);
  request->include_usage = model.usage_in_streams != StreamUsage::kAsked;
  request->continuous_usage = model.usage_in_streams == StreamUsage::kEveryEvent;
  const json::value* options = find_field(body, "stream_options");
  if (options == nullptr) return {};
  if (!options->is_object()) return error(ErrorCode::kInvalidArgument, "stream_options: must be an object");
  if (!request->stream && !options->as_object().empty())
    return error(ErrorCode::kInvalidArgument, "stream_options: stream options can only be defined when stream is true");
  BATON_ASSIGN(auto usage, bool_field(options->as_object(), "include_usage"));
  BATON_ASSIGN(auto continuous, bool_field(options->as_object(), "continuous_usage_stats"));
  request->include_usage |= usage.value_or(false);
  request->continuous_usage |= request->include_usage && continuous.value_or(false);
  return {};
}

Status read_model_name(const json::object& body, const ModelText& model, ApiRequest* request) {
  BATON_ASSIGN(auto name, string_field(body, "model"));
  request->model = model.served_name;
  if (!name || name->empty() || *name == model.served_name) return {};
  if (name->size() > kModelBytesMax) {
    return error(ErrorCode::kInvalidArgument, "model: {} bytes; at most {} are allowed", name->size(), kModelBytesMax);
  }
  if (model.strict_model_names && *name != model.model_path && *name != "default") {
    return error(ErrorCode::kNotFound, "the model '{}' does not exist here; this server serves '{}'", *name,
                 model.served_name);
  }
  // SGLang's way to name an adapter; another model's text would be the answer.
  if (const size_t colon = name->find(':'); *name != model.model_path && colon < name->size() - 1) {
    return error(ErrorCode::kInvalidArgument, "model: LoRA adapter '{}' was requested, but LoRA is not enabled here",
                 name->substr(colon + 1));
  }
  request->model = *name;
  return {};
}

Status read_token_fields(const json::object& body, const ModelText& model, ApiRequest* request) {
  for (auto [name, wanted] : {std::pair("return_token_ids", &request->return_token_ids),
                              std::pair("return_prompt_token_ids", &request->return_prompt_token_ids),
                              std::pair("return_cached_tokens_details", &request->return_cached_tokens_details),
                              std::pair("return_tokens_as_token_ids", &request->tokens_as_ids)}) {
    BATON_ASSIGN(auto given, bool_field(body, name));
    *wanted = given.value_or(wanted == &request->tokens_as_ids && model.tokens_as_ids);
  }
  if (request->return_token_ids) request->return_prompt_token_ids = true;
  return {};
}

Status read_prompt_logprobs(const json::object& body, const ModelText& model, ApiRequest* request) {
  constexpr int kPromptLogprobsMax = 20;  // vLLM's default
  BATON_ASSIGN(auto best, int_field(body, "prompt_logprobs", 0, logprobs_max(model, kPromptLogprobsMax)));
  if (!best) return {};
  if (request->stream && *best > 0) {
    return error(ErrorCode::kInvalidArgument, "prompt_logprobs: not available when stream is true");
  }
  request->prompt_logprobs = static_cast<int>(*best);
  for (ChoiceRequest& choice : request->choices) {
    choice.engine.prompt_logprob_start = 0;
    choice.engine.prompt_logprobs = request->prompt_logprobs;
  }
  return {};
}

}  // namespace baton::http
