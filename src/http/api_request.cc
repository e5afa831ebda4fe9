#include "http/api_request.h"

#include <algorithm>
#include <limits>

#include "base/random.h"
#include "http/json.h"

namespace baton {
namespace {
namespace json = boost::json;

struct Prompt {
  std::vector<int32_t> ids;
};

Result<std::vector<int32_t>> encode(const ModelText& model, std::string_view text, bool add_special) {
  if (!model.tokenizer)
    return error(ErrorCode::kInvalidArgument, "this server has no tokenizer (--skip-tokenizer-init): send token ids");
  return model.tokenizer->encode(text, add_special);
}

Status check_vocabulary(const std::vector<int32_t>& ids, std::string_view name, const ModelText& model) {
  for (const int32_t id : ids) {
    if (id >= model.vocab) {
      return error(ErrorCode::kInvalidArgument, "{}: token id {} is not below the vocabulary's size {}", name, id,
                   model.vocab);
    }
  }
  return {};
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

Status add_prompt(const json::value& value, std::string_view name, const ModelText& model,
                  std::vector<Prompt>* prompts) {
  BATON_ASSIGN(auto ids, value.is_string() ? encode(model, value.as_string(), true) : ids_from(value, name));
  BATON_TRY(check_prompt(ids, name, model));
  prompts->push_back({std::move(ids)});
  return {};
}

// A string, [string], [int] or [[int]].
Status read_prompts(const json::value& value, std::string_view name, const ModelText& model,
                    std::vector<Prompt>* prompts, bool* batch) {
  if (!value.is_string() && !value.is_array())
    return error(ErrorCode::kInvalidArgument, "{}: must be a string, a list of strings, or token ids", name);
  if (value.is_array() && value.as_array().empty()) return error(ErrorCode::kInvalidArgument, "{}: is empty", name);
  if (value.is_string() || value.as_array().front().is_number()) return add_prompt(value, name, model, prompts);
  const json::array& list = value.as_array();
  if (list.size() > kChoicesMax)
    return error(ErrorCode::kInvalidArgument, "{}: {} prompts; at most {} a call", name, list.size(), kChoicesMax);
  *batch = true;
  for (const json::value& entry : list) BATON_TRY(add_prompt(entry, name, model, prompts));
  return {};
}

Status read_sampling(const json::object& from, const ModelText& model, bool openai, SamplingParams* params,
                     std::vector<std::string>* stops, ApiRequest* request) {
  BATON_ASSIGN(auto temperature, number_field(from, "temperature", 0, std::numeric_limits<double>::infinity()));
  if (temperature) params->temperature = *temperature;
  BATON_ASSIGN(auto top_p, number_field(from, "top_p", 0, 1, true));
  if (top_p) params->top_p = *top_p;
  BATON_ASSIGN(auto min_p, number_field(from, "min_p", 0, 1));
  if (min_p) params->min_p = *min_p;
  BATON_ASSIGN(auto top_k, int_field(from, "top_k", -1, std::numeric_limits<int32_t>::max()));
  if (top_k == 0) return error(ErrorCode::kInvalidArgument, "top_k: 0 is not -1 (all) or at least 1");
  if (top_k) params->top_k = static_cast<int>(*top_k);
  BATON_ASSIGN(auto frequency, number_field(from, "frequency_penalty", -2, 2));
  if (frequency) params->frequency_penalty = *frequency;
  BATON_ASSIGN(auto presence, number_field(from, "presence_penalty", -2, 2));
  if (presence) params->presence_penalty = *presence;
  BATON_ASSIGN(auto repetition, number_field(from, "repetition_penalty", 0, 2, true));
  if (repetition) params->repetition_penalty = *repetition;
  BATON_ASSIGN(auto seed, int_field(from, openai ? "seed" : "sampling_seed", std::numeric_limits<int64_t>::min(),
                                    std::numeric_limits<int64_t>::max()));
  if (!seed && !openai) {
    BATON_ASSIGN(seed,
                 int_field(from, "seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()));
  }
  if (seed) params->seed = static_cast<uint64_t>(*seed);
  BATON_ASSIGN(auto ignore_eos, bool_field(from, "ignore_eos"));
  params->ignore_eos = ignore_eos.value_or(false);
  const int64_t tokens_max = std::numeric_limits<int32_t>::max();
  for (const char* name : {"min_new_tokens", "min_tokens"}) {
    BATON_ASSIGN(auto min_tokens, int_field(from, name, 0, tokens_max));
    if (min_tokens) params->min_new_tokens = static_cast<int>(*min_tokens);
  }
  for (const char* name : {"max_new_tokens", "max_tokens", "max_completion_tokens"}) {
    BATON_ASSIGN(auto max_tokens, int_field(from, name, 0, tokens_max));
    if (max_tokens) params->max_new_tokens = static_cast<int>(*max_tokens);
  }
  if (params->min_new_tokens > params->max_new_tokens) {
    return error(ErrorCode::kInvalidArgument, "{}: {} is not in [0, {}], the most new tokens that are asked for",
                 find_field(from, "min_tokens") != nullptr ? "min_tokens" : "min_new_tokens", params->min_new_tokens,
                 params->max_new_tokens);
  }
  if (const json::value* ids = find_field(from, "stop_token_ids")) {
    BATON_ASSIGN(params->stop_token_ids, ids_from(*ids, "stop_token_ids"));
    BATON_TRY(check_vocabulary(params->stop_token_ids, "stop_token_ids", model));
  }
  BATON_ASSIGN(*stops, strings_field(from, "stop", kStopsMax));
  std::erase(*stops, "");
  if (const json::value* bias = find_field(from, "logit_bias")) {
    if (!bias->is_object())
      return error(ErrorCode::kInvalidArgument, "logit_bias: must map token ids to numbers in [-100, 100]");
    for (const auto& [key, value] : bias->as_object()) {
      char* end = nullptr;
      const std::string digits(key);
      const long id = std::strtol(digits.c_str(), &end, 10);
      if (digits.empty() || *end != '\0' || id < 0 || id >= model.vocab || !value.is_number() ||
          !(std::abs(value.to_number<double>()) <= 100)) {
        return error(ErrorCode::kInvalidArgument,
                     "logit_bias: '{}' must be a token id below {} with a number in [-100, 100]", digits, model.vocab);
      }
      params->logit_bias[static_cast<int32_t>(id)] = value.to_number<double>();
    }
  }
  BATON_ASSIGN(auto skip_special, bool_field(from, "skip_special_tokens"));
  if (skip_special) request->skip_special_tokens = *skip_special;
  BATON_ASSIGN(auto no_trim, bool_field(from, "no_stop_trim"));
  if (no_trim) request->no_stop_trim = *no_trim;
  for (const char* name : {"json_schema", "regex", "ebnf", "structural_tag", "stop_regex"}) {
    if (find_field(from, name) != nullptr)
      return error(ErrorCode::kInvalidArgument, "{}: constrained decoding is not supported by this server", name);
  }
  return {};
}

// A scalar for every choice, or a list with one entry a choice (or a prompt).
const json::value* entry_for(const json::value& value, size_t choice, size_t choices, int samples) {
  if (!value.is_array()) return &value;
  const json::array& list = value.as_array();
  if (list.size() == choices) return &list[choice];
  if (list.size() * static_cast<size_t>(samples) == choices) return &list[choice / static_cast<size_t>(samples)];
  return nullptr;
}

Status read_disaggregation(const json::object& body, Role role, ApiRequest* request) {
  const json::value* room = find_field(body, "bootstrap_room");
  const json::value* host = find_field(body, "bootstrap_host");
  const json::value* port = find_field(body, "bootstrap_port");
  if (role == Role::kUnified) return {};
  if (room == nullptr) {
    return error(ErrorCode::kInvalidArgument,
                 "bootstrap_room: missing; this is a {} instance, it serves requests that a router has paired (send "
                 "them to the router)",
                 role_name(role));
  }
  const size_t choices = request->choices.size();
  std::vector<uint64_t> rooms;
  for (size_t i = 0; i < choices; ++i) {
    Disaggregation d;
    const json::value* my_host = host == nullptr ? nullptr : entry_for(*host, i, choices, request->samples);
    if (my_host != nullptr && my_host->is_string()) d.bootstrap_host = std::string(my_host->as_string());
    if (my_host != nullptr && !my_host->is_string() && !my_host->is_null()) {
      return error(ErrorCode::kInvalidArgument,
                   "bootstrap_host: must be a string, or a list of one for each of the {} sequences", choices);
    }
    if (d.bootstrap_host.starts_with('[') && d.bootstrap_host.ends_with(']'))
      d.bootstrap_host = d.bootstrap_host.substr(1, d.bootstrap_host.size() - 2);
    d.fake = d.bootstrap_host == "2.2.2.2";
    const json::value* my_port = port == nullptr ? nullptr : entry_for(*port, i, choices, request->samples);
    if (my_port != nullptr && !my_port->is_null()) {
      if (!my_port->is_int64() || my_port->as_int64() < 1 || my_port->as_int64() > 65535) {
        return error(ErrorCode::kInvalidArgument, "bootstrap_port: must be null or a port from 1 to 65535");
      }
      d.bootstrap_port = static_cast<int>(my_port->as_int64());
    } else {
      d.bootstrap_port = 8998;  // --disaggregation-bootstrap-port's default
    }
    const json::value* my_room = entry_for(*room, i, choices, request->samples);
    if (my_room == nullptr || !my_room->is_int64() || my_room->as_int64() < (d.fake ? 0 : 1)) {
      return error(ErrorCode::kInvalidArgument,
                   "bootstrap_room: must be an integer from 1 to 2^63-1, or a list of one for each of the {} sequences",
                   choices);
    }
    d.room = AttemptId(static_cast<uint64_t>(my_room->as_int64()));
    if (!d.fake && std::find(rooms.begin(), rooms.end(), d.room.value()) != rooms.end()) {
      return error(ErrorCode::kInvalidArgument,
                   "bootstrap_room: {} stands for two of the {} sequences; each needs its own", d.room.value(),
                   choices);
    }
    rooms.push_back(d.room.value());
    request->choices[i].engine.disaggregation = std::move(d);
  }
  return {};
}

Status read_routing(const json::object& body, Role role, ApiRequest* request) {
  for (const char* name :
       {"routed_dp_rank", "data_parallel_rank", role == Role::kPrefill ? "disagg_prefill_dp_rank" : "routed_dp_rank"}) {
    BATON_ASSIGN(auto rank, int_field(body, name, 0, 1 << 20));
    if (!rank) continue;
    for (ChoiceRequest& choice : request->choices) choice.engine.dp_rank = static_cast<int>(*rank);
  }
  BATON_ASSIGN(auto salt, string_field(body, "cache_salt"));
  for (ChoiceRequest& choice : request->choices) choice.engine.cache_salt = salt.value_or("");
  return read_disaggregation(body, role, request);
}

std::string fresh_id() { return fmt::format("{:016x}{:016x}", entropy(), entropy()); }

// Names the call and its choices: as the client does, or afresh. Choices that share a name get "-0", "-1" behind it,
// and can be aborted by either.
Status read_rids(const json::object& body, const char* prefix, ApiRequest* request) {
  const json::value* rid = find_field(body, "rid");
  request->id = prefix + fresh_id();
  const size_t choices = request->choices.size();
  for (size_t i = 0; i < choices; ++i) {
    std::string name = request->id;
    if (rid != nullptr) {
      const json::value* entry = entry_for(*rid, i, choices, request->samples);
      if (entry == nullptr || !entry->is_string() || entry->as_string().size() > 256) {
        return error(ErrorCode::kInvalidArgument,
                     "rid: must be a string of at most 256 bytes, or a list of one for each of the {} prompts",
                     choices);
      }
      if (!entry->as_string().empty()) name = std::string(entry->as_string());
    }
    if (i == 0 && (rid == nullptr || !rid->is_array())) request->id = name;
    const bool shared = choices > 1 && (rid == nullptr || !rid->is_array() || rid->as_array().size() != choices);
    request->choices[i].engine.rid = shared ? fmt::format("{}-{}", name, i) : name;
    if (shared) request->choices[i].engine.call = name;
  }
  return {};
}

// Every choice of the call: prompts x samples.
Status expand(std::vector<Prompt> prompts, const std::vector<SamplingParams>& params,
              const std::vector<std::vector<std::string>>& stops, ApiRequest* request) {
  if (prompts.size() * static_cast<size_t>(request->samples) > kChoicesMax) {
    return error(ErrorCode::kInvalidArgument, "n: {} prompts x n {} is over {} sequences a call", prompts.size(),
                 request->samples, kChoicesMax);
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
    SamplingParams& params = choice.engine.sampling;
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

Result<ApiRequest> parse_generate(const json::object& body, const ModelText& model, Role role) {
  ApiRequest request;
  request.kind = ApiKind::kGenerate;
  request.model = model.served_name;
  const json::value* text = find_field(body, "text");
  const json::value* ids = find_field(body, "input_ids");
  if ((text == nullptr) == (ids == nullptr))
    return error(ErrorCode::kInvalidArgument, "give exactly one of text and input_ids");
  std::vector<Prompt> prompts;
  BATON_TRY(read_prompts(text != nullptr ? *text : *ids, text != nullptr ? "text" : "input_ids", model, &prompts,
                         &request.batch));

  // One sampling_params for all prompts, or a list of one each.
  std::vector<SamplingParams> params(1);
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
  BATON_TRY(read_routing(body, role, &request));
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
Status finish_openai(const json::object& body, const ModelText& model, Role role, std::vector<Prompt> prompts,
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
  SamplingParams params = model.defaults;
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

Result<ApiRequest> parse_completion(const json::object& body, const ModelText& model, Role role) {
  ApiRequest request;
  request.kind = ApiKind::kCompletion;
  const json::value* prompt = find_field(body, "prompt");
  if (prompt == nullptr) return error(ErrorCode::kInvalidArgument, "prompt: missing");
  if (const json::value* suffix = find_field(body, "suffix");
      suffix != nullptr && !(suffix->is_string() && suffix->as_string().empty())) {
    return error(ErrorCode::kInvalidArgument, "suffix: not supported");
  }
  std::vector<Prompt> prompts;
  BATON_TRY(read_prompts(*prompt, "prompt", model, &prompts, &request.batch));
  constexpr int kCompletionTokens = 16;  // OpenAI's default of max_tokens here
  BATON_TRY(finish_openai(body, model, role, std::move(prompts), kCompletionTokens, &request));
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

Result<ApiRequest> parse_chat(const json::object& body, const ModelText& model, Role role) {
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
  ChatInput input;
  if (const json::value* extra = find_field(body, "chat_template_kwargs")) {
    if (!extra->is_object()) return error(ErrorCode::kInvalidArgument, "chat_template_kwargs: must be an object");
    input.template_kwargs = extra->as_object();
  }
  BATON_ASSIGN(input.messages, normalise_messages(messages->as_array(), model.chat_template->message_form()));
  BATON_ASSIGN(auto generation_prompt, bool_field(body, "add_generation_prompt"));
  input.add_generation_prompt = generation_prompt.value_or(true);
  input.special_tokens = {{"bos_token", model.bos_token}, {"eos_token", model.eos_token}};
  BATON_ASSIGN(const std::string text, model.chat_template->render(chat_context(std::move(input))));
  std::vector<Prompt> prompts(1);
  BATON_ASSIGN(prompts[0].ids, encode(model, text, false));  // the template writes BOS itself
  BATON_TRY(check_prompt(prompts[0].ids, "messages", model));
  constexpr int kRestOfContext = std::numeric_limits<int32_t>::max();
  BATON_TRY(finish_openai(body, model, role, std::move(prompts), kRestOfContext, &request));
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

}  // namespace

Result<ApiRequest> parse_api_request(ApiKind kind, std::string_view body, const ModelText& model, Role role) {
  BATON_ASSIGN(const json::object object, parse_object(body));
  BATON_TRY(refuse_adapters(object));
  Result<ApiRequest> parsed = kind == ApiKind::kGenerate     ? parse_generate(object, model, role)
                              : kind == ApiKind::kCompletion ? parse_completion(object, model, role)
                                                             : parse_chat(object, model, role);
  if (!parsed) return parsed.error();
  fit_context(model, &*parsed);
  return parsed;
}

}  // namespace baton
