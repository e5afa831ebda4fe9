#include "http/api_request.h"

#include <algorithm>
#include <limits>

#include "http/choice_fields.h"
#include "http/json.h"
#include "http/prompt_fields.h"
#include "http/sampling_fields.h"

namespace baton::http {
namespace {
namespace json = boost::json;

// How much memory one sequence with these fields takes to begin with, apart from small change.
size_t sequence_bytes(const Prompt& prompt, const engine::SamplingParams& params,
                      const std::vector<std::string>& stops) {
  constexpr size_t kBiasBytes = 48;  // of a node of a map
  size_t bytes = (prompt.ids.size() + params.stop_token_ids.size()) * sizeof(int32_t);
  bytes += params.logit_bias.size() * kBiasBytes;
  for (const std::string& stop : stops) bytes += sizeof(stop) + stop.size();
  return bytes;
}

// Every choice of the call: prompts x samples.
Status expand(std::vector<Prompt> prompts, const std::vector<engine::SamplingParams>& params,
              const std::vector<std::vector<std::string>>& stops, ApiRequest* request) {
  if (prompts.size() * static_cast<size_t>(request->samples) > kChoicesMax) {
    return error(ErrorCode::kInvalidArgument, "n: {} prompts x n {} is over {} sequences a call", prompts.size(),
                 request->samples, kChoicesMax);
  }
  size_t bytes = 0;
  for (size_t p = 0; p < prompts.size(); ++p) {
    bytes += static_cast<size_t>(request->samples) *
             sequence_bytes(prompts[p], params[params.size() == 1 ? 0 : p], stops[stops.size() == 1 ? 0 : p]);
  }
  if (bytes > kCallBytesMax) {
    return error(ErrorCode::kInvalidArgument,
                 "n: the prompts, stops and biases of {} sequences are {} bytes; at most {} a call, send fewer at a "
                 "time",
                 prompts.size() * static_cast<size_t>(request->samples), bytes, kCallBytesMax);
  }
  for (size_t p = 0; p < prompts.size(); ++p) {
    for (int s = 0; s < request->samples; ++s) {
      ChoiceRequest choice;
      choice.prompt_index = static_cast<int>(p);
      choice.engine.prompt = prompts[p].ids;
      choice.engine.sampling = params.size() == 1 ? params[0] : params[p];
      choice.stops = stops.size() == 1 ? stops[0] : stops[p];
      if (choice.engine.sampling.seed && s > 0) *choice.engine.sampling.seed += static_cast<uint64_t>(s);
      request->choices.push_back(std::move(choice));
    }
  }
  return {};
}

// New tokens are cut to what the context leaves, as SGLang does.
void fit_context(const ModelText& model, ApiRequest* request) {
  for (ChoiceRequest& choice : request->choices) {
    engine::SamplingParams& params = choice.engine.sampling;
    const int64_t left = model.context_length - static_cast<int64_t>(choice.engine.prompt.size());
    params.max_new_tokens = static_cast<int>(std::min<int64_t>(params.max_new_tokens, left));
    params.min_new_tokens = std::min(params.min_new_tokens, params.max_new_tokens);
  }
}

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

// An adapter that is not applied would answer with another model's text.
Status refuse_adapters(const json::object& body) {
  const json::value* path = find_field(body, "lora_path");
  const bool none =
      path == nullptr || (path->is_array() && std::all_of(path->as_array().begin(), path->as_array().end(),
                                                          [](const json::value& v) { return v.is_null(); }));
  if (none) return {};
  return error(ErrorCode::kInvalidArgument, "lora_path: adapters are not supported by this server; leave it null");
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
  BATON_TRY(read_prompts(text != nullptr ? *text : *ids, text != nullptr ? "text" : "input_ids", read, &prompts,
                         &request.batch));

  // One sampling_params for all prompts, or a list of one each.
  std::vector<engine::SamplingParams> params(1);
  std::vector<std::vector<std::string>> stops(1);
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
    params.assign(each.size(), {});
    stops.assign(each.size(), {});
    for (size_t i = 0; i < each.size(); ++i) {
      if (!each[i]->is_object()) return error(ErrorCode::kInvalidArgument, "sampling_params: must be an object");
      BATON_TRY(read_sampling(each[i]->as_object(), model, false, &params[i], &stops[i], &request));
      BATON_ASSIGN(auto n, int_field(each[i]->as_object(), "n", 1, 128));
      if (i > 0 && n.value_or(1) != request.samples)
        return error(ErrorCode::kInvalidArgument, "n: must be the same for every prompt of a call");
      request.samples = static_cast<int>(n.value_or(1));
    }
  }
  BATON_TRY(expand(std::move(prompts), params, stops, &request));
  if (request.samples > 1) request.batch = true;
  BATON_TRY(read_rids(body, "", &request));

  BATON_ASSIGN(auto stream, bool_field(body, "stream"));
  request.stream = stream.value_or(false);
  BATON_ASSIGN(auto text_in, bool_field(body, "return_text_in_logprobs"));
  request.text_in_logprobs = text_in.value_or(false);
  BATON_TRY(read_generate_logprobs(body, &request));
  BATON_TRY(read_routing(body, read.role, &request));
  return request;
}

Status read_stream_options(const json::object& body, ApiRequest* request) {
  BATON_ASSIGN(auto stream, bool_field(body, "stream"));
  request->stream = stream.value_or(false);
  if (const json::value* options = find_field(body, "stream_options")) {
    if (!options->is_object()) return error(ErrorCode::kInvalidArgument, "stream_options: must be an object");
    BATON_ASSIGN(auto usage, bool_field(options->as_object(), "include_usage"));
    BATON_ASSIGN(auto continuous, bool_field(options->as_object(), "continuous_usage_stats"));
    request->include_usage = usage.value_or(false);
    request->continuous_usage = continuous.value_or(false);
  }
  return {};
}

// What both OpenAI endpoints share, once the prompts are known.
Status finish_openai(const json::object& body, const ModelText& model, engine::Role role, std::vector<Prompt> prompts,
                     int max_new_default, ApiRequest* request) {
  BATON_ASSIGN(auto name, string_field(body, "model"));
  request->model = model.served_name;
  // Any name is accepted where SGLang accepts it: a server has one model, and routers rewrite names. An empty one is
  // the served one.
  if (name && !name->empty() && *name != model.served_name && *name != model.model_path && *name != "default") {
    return error(ErrorCode::kNotFound, "the model '{}' does not exist here; this server serves '{}'", *name,
                 model.served_name);
  }
  BATON_TRY(read_stream_options(body, request));
  BATON_ASSIGN(auto n, int_field(body, "n", 1, 128));
  request->samples = static_cast<int>(n.value_or(1));
  BATON_ASSIGN(auto best_of, int_field(body, "best_of", 1, 128));
  if (best_of && *best_of != request->samples) {
    return error(ErrorCode::kInvalidArgument, "best_of: {} is not n = {}; choosing among samples is not supported",
                 *best_of, request->samples);
  }
  engine::SamplingParams params = model.defaults;
  params.max_new_tokens = max_new_default;
  std::vector<std::string> stops;
  BATON_TRY(read_sampling(body, model, true, &params, &stops, request));
  if (const json::value* format = find_field(body, "response_format")) {
    const json::value* type = format->is_object() ? find_field(format->as_object(), "type") : nullptr;
    if (type == nullptr || !type->is_string() || type->as_string() != "text") {
      return error(ErrorCode::kInvalidArgument,
                   "response_format: only {{\"type\": \"text\"}} is supported by this server");
    }
  }
  BATON_TRY(expand(std::move(prompts), {params}, {stops}, request));
  BATON_TRY(read_rids(body, request->kind == ApiKind::kChat ? "chatcmpl-" : "cmpl-", request));
  return read_routing(body, role, request);
}

Result<ApiRequest> parse_completion(const json::object& body, const ReadContext& read) {
  const ModelText& model = read.model;
  ApiRequest request;
  request.kind = ApiKind::kCompletion;
  const json::value* prompt = find_field(body, "prompt");
  if (prompt == nullptr) return error(ErrorCode::kInvalidArgument, "prompt: missing");
  if (const json::value* suffix = find_field(body, "suffix");
      suffix != nullptr && !(suffix->is_string() && suffix->as_string().empty())) {
    return error(ErrorCode::kInvalidArgument, "suffix: not supported");
  }
  std::vector<Prompt> prompts;
  BATON_TRY(read_prompts(*prompt, "prompt", read, &prompts, &request.batch));
  constexpr int kCompletionTokens = 16;  // OpenAI's default of max_tokens here
  BATON_TRY(finish_openai(body, model, read.role, std::move(prompts), kCompletionTokens, &request));
  BATON_ASSIGN(auto echo, bool_field(body, "echo"));
  request.echo = echo.value_or(false);
  BATON_ASSIGN(auto logprobs, int_field(body, "logprobs", 0, 1000));
  for (ChoiceRequest& choice : request.choices) {
    if (!logprobs) break;
    choice.return_logprob = true;
    choice.top_logprobs = static_cast<int>(*logprobs);
    choice.engine.logprobs = choice.top_logprobs;
    if (request.echo) choice.engine.prompt_logprob_start = 0;
  }
  return request;
}

Result<ApiRequest> parse_chat(json::object body, const ReadContext& read) {
  const ModelText& model = read.model;
  ApiRequest request;
  request.kind = ApiKind::kChat;
  const json::value* messages = find_field(body, "messages");
  if (messages == nullptr || !messages->is_array() || messages->as_array().empty()) {
    return error(ErrorCode::kInvalidArgument, "messages: must be a list with at least one message");
  }
  if (!model.chat_template) {
    return error(ErrorCode::kInvalidArgument,
                 "the model has no chat template; use /v1/completions or serve with --chat-template FILE");
  }
  if (const json::value* tools = find_field(body, "tools");
      tools != nullptr && tools->is_array() && !tools->as_array().empty()) {
    const json::value* choice = find_field(body, "tool_choice");
    if (choice == nullptr || !choice->is_string() || choice->as_string() != "none") {
      return error(ErrorCode::kInvalidArgument,
                   "tools: tool calls are not supported by this server; leave tools out or send tool_choice \"none\"");
    }
  }
  text::ChatInput input;
  if (const json::value* extra = find_field(body, "chat_template_kwargs")) {
    if (!extra->is_object()) return error(ErrorCode::kInvalidArgument, "chat_template_kwargs: must be an object");
    input.template_kwargs = extra->as_object();
  }
  BATON_ASSIGN(input.messages, text::normalise_messages(messages->as_array(), model.chat_template->message_form()));
  body.erase("messages");  // they may be long, and there is another copy now
  BATON_ASSIGN(auto generation_prompt, bool_field(body, "add_generation_prompt"));
  input.add_generation_prompt = generation_prompt.value_or(true);
  input.special_tokens = {{"bos_token", model.bos_token}, {"eos_token", model.eos_token}};
  jinja::RenderLimits limits;
  limits.stop = read.stop;
  BATON_ASSIGN(const std::string text, model.chat_template->render(text::chat_context(std::move(input)), limits));
  std::vector<Prompt> prompts(1);
  BATON_ASSIGN(prompts[0], read_text(read, text, "messages", false));  // the template writes BOS itself
  constexpr int kRestOfContext = std::numeric_limits<int32_t>::max();
  BATON_TRY(finish_openai(body, model, read.role, std::move(prompts), kRestOfContext, &request));
  BATON_ASSIGN(auto logprobs, bool_field(body, "logprobs"));
  BATON_ASSIGN(auto top, int_field(body, "top_logprobs", 0, 20));
  for (ChoiceRequest& choice : request.choices) {
    choice.return_logprob = logprobs.value_or(false);
    if (!choice.return_logprob) continue;
    choice.top_logprobs = static_cast<int>(top.value_or(0));
    choice.engine.logprobs = choice.top_logprobs;
  }
  return request;
}

// The prompt's logprobs, and its text when it is echoed, are made whole before the first byte of the answer.
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

}  // namespace

Result<ApiRequest> parse_api_request(ApiKind kind, json::object body, const ModelText& model, engine::Role role,
                                     std::stop_token stop) {
  BATON_TRY(refuse_adapters(body));
  const ReadContext read{model, role, std::move(stop)};
  Result<ApiRequest> parsed = kind == ApiKind::kGenerate     ? parse_generate(body, read)
                              : kind == ApiKind::kCompletion ? parse_completion(body, read)
                                                             : parse_chat(std::move(body), read);
  if (!parsed) return parsed.error();
  fit_context(model, &*parsed);
  BATON_TRY(check_prompt_logprobs(model, *parsed));
  return parsed;
}

Result<ApiRequest> parse_api_request(ApiKind kind, std::string_view body, const ModelText& model, engine::Role role) {
  BATON_ASSIGN(json::object object, parse_object(body));
  return parse_api_request(kind, std::move(object), model, role);
}

}  // namespace baton::http
