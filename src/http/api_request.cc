#include "http/api_request.h"

#include <algorithm>
#include <limits>

#include "http/answer_fields.h"
#include "http/chat_fields.h"
#include "http/choice_fields.h"
#include "http/field_list.h"
#include "http/json.h"
#include "http/logprob_fields.h"
#include "http/prompt_fields.h"
#include "http/sampling_fields.h"

namespace baton::http {
namespace {
namespace json = boost::json;

// How much memory one sequence with these fields takes to begin with, apart from small change.
size_t sequence_bytes(const Prompt& prompt, const SamplingFields& fields) {
  constexpr size_t kBiasBytes = 48;  // of a node of a map
  const engine::SamplingParams& params = fields.params;
  size_t ids = prompt.ids.size() + params.stop_token_ids.size() + params.allowed_token_ids.size();
  size_t bytes = params.logit_bias.size() * kBiasBytes;
  for (const std::vector<int32_t>& word : params.bad_words) {
    bytes += sizeof(word);
    ids += word.size();
  }
  for (const std::string& stop : fields.stops) bytes += sizeof(stop) + stop.size();
  for (const text::StopPattern& stop : fields.stop_patterns)
    bytes += sizeof(stop) + stop.source.size() + text::StopSearch::kTailBytes;
  return bytes + ids * sizeof(int32_t);
}

// Every choice of the call: prompts x samples. `fields`: one for all prompts, or one for each.
Status expand(const std::vector<Prompt>& prompts, const std::vector<SamplingFields>& fields, ApiRequest* request) {
  const auto samples = static_cast<size_t>(request->samples);
  if (prompts.size() * samples > kChoicesMax) {
    return error(ErrorCode::kInvalidArgument, "n: {} prompts x n {} is over {} sequences a call", prompts.size(),
                 request->samples, kChoicesMax);
  }
  const auto of = [&fields](size_t prompt) -> const SamplingFields& { return fields[fields.size() == 1 ? 0 : prompt]; };
  size_t bytes = 0;
  for (size_t p = 0; p < prompts.size(); ++p) bytes += samples * sequence_bytes(prompts[p], of(p));
  if (bytes > kCallBytesMax) {
    return error(ErrorCode::kInvalidArgument,
                 "n: the prompts, stops and biases of {} sequences are {} bytes; at most {} a call, send fewer at a "
                 "time",
                 prompts.size() * samples, bytes, kCallBytesMax);
  }
  for (size_t p = 0; p < prompts.size(); ++p) {
    for (int s = 0; s < request->samples; ++s) {
      ChoiceRequest choice;
      choice.prompt_index = static_cast<int>(p);
      choice.engine.prompt = prompts[p].ids;
      choice.prompt_cut = prompts[p].cut;
      choice.engine.sampling = of(p).params;
      choice.stops = of(p).stops;
      choice.stop_patterns = of(p).stop_patterns;
      choice.stops_after = of(p).stops_after;
      if (choice.engine.sampling.seed && s > 0) *choice.engine.sampling.seed += static_cast<uint64_t>(s);
      request->choices.push_back(std::move(choice));
    }
  }
  return {};
}

// Refuses what is asked for beyond the context, in words that clients of SGLang and of vLLM look for. What nobody asked
// for, and with --allow-auto-truncate everything, is cut to what the prompt leaves.
Status fit_context(const ReadContext& read, const std::vector<Prompt>& prompts,
                   const std::vector<SamplingFields>& fields) {
  const int64_t context = read.model.context_length;
  for (size_t p = 0; p < prompts.size(); ++p) {
    const SamplingFields& mine = fields[fields.size() == 1 ? 0 : p];
    const auto prompt = static_cast<int64_t>(prompts[p].ids.size());
    const int64_t asked = mine.params.max_new_tokens;
    if (mine.max_field.empty() || read.model.allow_auto_truncate || prompt + asked <= context) continue;
    return error(ErrorCode::kInvalidArgument,
                 "{}: max_completion_tokens is too large: {}. The requested token count exceeds the model's maximum "
                 "context length of {} tokens: {} of the prompt and {} for the completion are {}; ask for at most {}, "
                 "or serve with --allow-auto-truncate",
                 mine.max_field, asked, context, prompt, asked, prompt + asked, context - prompt);
  }
  return {};
}

void cut_to_context(const ModelText& model, ApiRequest* request) {
  for (ChoiceRequest& choice : request->choices) {
    engine::SamplingParams& params = choice.engine.sampling;
    const int64_t left = model.context_length - static_cast<int64_t>(choice.engine.prompt.size());
    params.max_new_tokens = static_cast<int>(std::min<int64_t>(params.max_new_tokens, left));
    params.min_new_tokens = std::min(params.min_new_tokens, params.max_new_tokens);
  }
}

Result<ApiRequest> parse_generate(const json::object& body, const ReadContext& read) {
  const ModelText& model = read.model;
  ApiRequest request;
  request.kind = ApiKind::kGenerate;
  request.model = model.served_name;
  const json::value* text = find_field(body, "text");
  const json::value* ids = find_field(body, "input_ids");
  if ((text == nullptr) == (ids == nullptr))
    return error(ErrorCode::kInvalidArgument, "give exactly one of text and input_ids");
  std::vector<Prompt> prompts;
  BATON_TRY(read_prompts(text != nullptr ? *text : *ids, text != nullptr ? "text" : "input_ids", read, true, &prompts,
                         &request.batch));

  // One sampling_params for all prompts, or a list of one each.
  std::vector<SamplingFields> fields(1);
  if (const json::value* sampling = find_field(body, "sampling_params")) {
    std::vector<const json::value*> each{sampling};
    if (sampling->is_array()) {
      each.clear();
      for (const json::value& entry : sampling->as_array()) each.push_back(&entry);
      if (each.size() != prompts.size()) {
        return error(ErrorCode::kInvalidArgument, "sampling_params: {} entries for {} prompts", each.size(),
                     prompts.size());
      }
    }
    fields.resize(each.size());
    for (size_t i = 0; i < each.size(); ++i) {
      if (!each[i]->is_object()) return error(ErrorCode::kInvalidArgument, "sampling_params: must be an object");
      const json::object& mine = each[i]->as_object();
      BATON_TRY(refuse_fields(mine, kParams));
      // Named and null it has no bound, as in SGLang.
      if (const json::value* most = mine.if_contains("max_new_tokens"); most != nullptr && most->is_null())
        fields[i].params.max_new_tokens = std::numeric_limits<int32_t>::max();
      BATON_TRY(read_sampling(mine, model, false, &fields[i], &request));
      BATON_ASSIGN(auto n, int_field(mine, "n", 1, 128));
      if (i > 0 && n.value_or(1) != request.samples)
        return error(ErrorCode::kInvalidArgument, "n: must be the same for every prompt of a call");
      request.samples = static_cast<int>(n.value_or(1));
    }
  }
  BATON_TRY(fit_context(read, prompts, fields));
  BATON_TRY(expand(prompts, fields, &request));
  if (request.samples > 1) request.batch = true;
  BATON_TRY(read_rids(body, "", &request));

  BATON_ASSIGN(auto stream, bool_field(body, "stream"));
  request.stream = stream.value_or(false);
  BATON_ASSIGN(auto text_in, bool_field(body, "return_text_in_logprobs"));
  request.text_in_logprobs = text_in.value_or(false);
  BATON_TRY(read_generate_logprobs(body, read.model, &request));
  BATON_TRY(read_token_fields(body, read.model, &request));
  BATON_TRY(read_routing(body, read.role, &request));
  return request;
}

// What both OpenAI endpoints share, once the prompts are known. `max_new_default`: what is asked for by asking nothing;
// none: the rest of the context.
Status finish_openai(const json::object& body, const ReadContext& read, const std::vector<Prompt>& prompts,
                     std::optional<int> max_new_default, ApiRequest* request) {
  const ModelText& model = read.model;
  BATON_TRY(read_model_name(body, model, request));
  BATON_TRY(read_stream_options(body, model, request));
  BATON_ASSIGN(auto n, int_field(body, "n", 1, 128));
  request->samples = static_cast<int>(n.value_or(1));
  BATON_ASSIGN(auto best_of, int_field(body, "best_of", 1, 128));
  if (best_of && *best_of != request->samples) {
    return error(ErrorCode::kInvalidArgument, "best_of: {} is not n = {}; choosing among samples is not supported",
                 *best_of, request->samples);
  }
  std::vector<SamplingFields> fields(1);
  fields[0].params = model.defaults;
  fields[0].params.repetition_of_prompt = true;  // as vLLM and transformers; /generate does as SGLang
  fields[0].params.max_new_tokens = max_new_default.value_or(std::numeric_limits<int32_t>::max());
  if (max_new_default) fields[0].max_field = "max_tokens";
  BATON_TRY(read_sampling(body, model, true, &fields[0], request));
  if (const json::value* format = find_field(body, "response_format")) {
    const json::value* type = format->is_object() ? find_field(format->as_object(), "type") : nullptr;
    if (type == nullptr || !type->is_string() || type->as_string() != "text") {
      return error(ErrorCode::kInvalidArgument,
                   "response_format: only {{\"type\": \"text\"}} is supported by this server");
    }
  }
  BATON_TRY(fit_context(read, prompts, fields));
  BATON_TRY(expand(prompts, fields, request));
  BATON_TRY(read_prompt_logprobs(body, read.model, request));
  BATON_TRY(read_token_fields(body, model, request));
  BATON_TRY(read_rids(body, request->kind == ApiKind::kChat ? "chatcmpl-" : "cmpl-", request));
  return read_routing(body, read.role, request);
}

Result<ApiRequest> parse_completion(const json::object& body, const ReadContext& read) {
  ApiRequest request;
  request.kind = ApiKind::kCompletion;
  const json::value* prompt = find_field(body, "prompt");
  if (prompt == nullptr || (prompt->is_array() && prompt->as_array().empty())) {
    return error(ErrorCode::kInvalidArgument,
                 "prompt: missing or empty. Either prompt or prompt_embeds must be provided and non-empty. (This "
                 "server takes no "
                 "prompt_embeds.)");
  }
  BATON_ASSIGN(auto add_special, bool_field(body, "add_special_tokens"));
  if (const json::value* suffix = find_field(body, "suffix");
      suffix != nullptr && !(suffix->is_string() && suffix->as_string().empty())) {
    return error(ErrorCode::kInvalidArgument, "suffix: not supported");
  }
  std::vector<Prompt> prompts;
  BATON_TRY(read_prompts(*prompt, "prompt", read, add_special.value_or(true), &prompts, &request.batch));
  BATON_TRY(finish_openai(body, read, prompts, kCompletionTokens, &request));
  BATON_TRY(read_completion_logprobs(body, read.model, &request));
  return request;
}

Result<ApiRequest> parse_chat(json::object body, const ReadContext& read) {
  ApiRequest request;
  request.kind = ApiKind::kChat;
  std::vector<Prompt> prompts(1);
  BATON_ASSIGN(prompts[0], read_chat_prompt(&body, read, &request));
  BATON_TRY(finish_openai(body, read, prompts, std::nullopt, &request));
  BATON_TRY(read_chat_logprobs(body, read.model, &request));
  return request;
}

}  // namespace

Result<ApiKind> invoked_kind(const json::object& body) {
  if (find_field(body, "messages") != nullptr) return ApiKind::kChat;
  if (find_field(body, "prompt") != nullptr) return ApiKind::kCompletion;
  return error(
      ErrorCode::kInvalidArgument,
      "Cannot find suitable handler for request: give messages, as for a chat, or prompt, as for a completion");
}

Result<ApiRequest> parse_api_request(ApiKind kind, json::object body, const ModelText& model, engine::Role role,
                                     std::stop_token stop) {
  BATON_TRY(refuse_fields(body, place_of(kind)));
  BATON_ASSIGN(const PromptCut cut, read_prompt_cut(body, kind, model));
  const ReadContext read{model, role, std::move(stop), cut};
  Result<ApiRequest> parsed = kind == ApiKind::kGenerate     ? parse_generate(body, read)
                              : kind == ApiKind::kCompletion ? parse_completion(body, read)
                                                             : parse_chat(std::move(body), read);
  if (!parsed) return parsed.error();
  cut_to_context(model, &*parsed);
  BATON_TRY(check_prompt_logprobs(model, *parsed));
  if (parsed->echo && kind == ApiKind::kCompletion) make_echoes(body, model, &*parsed);
  return parsed;
}

Result<ApiRequest> parse_api_request(ApiKind kind, std::string_view body, const ModelText& model, engine::Role role) {
  BATON_ASSIGN(json::object object, parse_object(body));
  return parse_api_request(kind, std::move(object), model, role);
}

}  // namespace baton::http
