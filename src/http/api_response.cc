#include "http/api_response.h"

#include "http/json.h"
#include "http/logprob_answer.h"
#include "http/token_id_answer.h"

namespace baton::http {
namespace {

// ---- /generate ----

std::string finish_json(const ChoiceState& choice) {
  if (!choice.finish) return "null";
  const ChoiceFinish& finish = *choice.finish;
  switch (finish.reason) {
    case engine::FinishReason::kStop: {
      std::string matched = "null";
      if (const auto* id = std::get_if<int32_t>(&finish.matched)) matched = std::to_string(*id);
      if (const auto* text = std::get_if<std::string>(&finish.matched)) matched = json_string(*text);
      return fmt::format("{{\"type\":\"stop\",\"matched\":{}}}", matched);
    }
    case engine::FinishReason::kLength:
      return fmt::format("{{\"type\":\"length\",\"length\":{}}}", choice.handed_over ? 0 : choice.tokens.size());
    case engine::FinishReason::kAbort:
      return fmt::format("{{\"type\":\"abort\",\"message\":{}}}",
                         json_string(finish.error ? finish.error->message : "aborted"));
  }
  return "null";
}

std::string ttft_json(const engine::TtftParts& parts) {
  std::string out = "{";
  const std::pair<const char*, double> named[] = {{"grant", parts.grant_ms},
                                                  {"prefill_queue", parts.prefill_queue_ms},
                                                  {"prefill", parts.prefill_ms},
                                                  {"transfer", parts.transfer_ms},
                                                  {"first_step", parts.first_step_ms}};
  for (const auto& [name, ms] : named) {
    if (ms < 0) continue;
    out += fmt::format("{}\"{}\":{:.3f}", out.size() > 1 ? "," : "", name, ms);
  }
  return out + "}";
}

std::string generate_body(const AnswerContext& context, const ChoiceState& choice) {
  const ChoiceRequest& request = context.call.choices[static_cast<size_t>(choice.index)];
  const size_t first = context.model.incremental_streaming ? choice.tokens_sent : 0;
  std::string out = "{\"text\":";
  append_json_string(out,
                     std::string_view(choice.text).substr(context.model.incremental_streaming ? choice.text_sent : 0));
  out += ",\"output_ids\":[";
  for (size_t i = first; i < choice.tokens.size(); ++i)
    out += fmt::format("{}{}", i > first ? "," : "", choice.tokens[i].id);
  out += fmt::format(
      "],\"meta_info\":{{\"id\":{},\"finish_reason\":{},\"prompt_tokens\":{},\"completion_tokens\":{},\"cached_"
      "tokens\":{},"
      "\"weight_version\":{},\"dp_rank\":{},\"e2e_latency\":{:.6f},\"ttft_parts_ms\":{}",
      json_string(request.engine.rid), finish_json(choice), choice.prompt_tokens, choice.tokens.size(),
      choice.cached_tokens, json_string(context.model.weight_version->get()), choice.dp_rank, context.elapsed_s,
      ttft_json(choice.ttft));
  if (request.engine.disaggregation && request.engine.disaggregation->fake) out += ",\"fake_transfer\":true";
  if (request.return_logprob) append_generate_logprobs(out, context, choice);
  out += '}';
  if (context.call.return_prompt_token_ids)
    out += fmt::format(",\"prompt_token_ids\":[{}]", fmt::join(request.engine.prompt, ","));
  if (context.call.batch && context.call.stream) out += fmt::format(",\"index\":{}", choice.index);
  return out + "}";
}

// ---- OpenAI ----

const char* openai_reason(const ChoiceState& choice) {
  if (!choice.finish) return "null";
  switch (choice.finish->reason) {
    case engine::FinishReason::kStop:
      return "\"stop\"";
    case engine::FinishReason::kLength:
      return "\"length\"";
    case engine::FinishReason::kAbort:
      return "\"abort\"";
  }
  return "null";
}

std::string matched_stop(const ChoiceState& choice) {
  if (choice.finish) {
    if (const auto* id = std::get_if<int32_t>(&choice.finish->matched)) return std::to_string(*id);
    if (const auto* text = std::get_if<std::string>(&choice.finish->matched)) return json_string(*text);
  }
  return "null";
}

// The members usage and ttft_parts_ms. Each prompt counts once, however many samples of it there are.
std::string usage_members(const AnswerContext& context, const std::vector<const ChoiceState*>& choices) {
  size_t prompt = 0, cached = 0, completion = 0;
  for (const ChoiceState* choice : choices) {
    if (choice->index % context.call.samples == 0 || choices.size() == 1) {
      prompt += static_cast<size_t>(choice->prompt_tokens);
      cached += static_cast<size_t>(choice->cached_tokens);
    }
    completion += choice->tokens.size();
  }
  return fmt::format(
      "\"usage\":{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{},"
      "\"prompt_tokens_details\":{}}},\"ttft_parts_ms\":{}",
      prompt, prompt + completion, completion,
      context.model.report_cached_tokens ? fmt::format("{{\"cached_tokens\":{}}}", cached) : "null",
      ttft_json(choices.front()->ttft));
}

std::vector<const ChoiceState*> pointers(const std::vector<ChoiceState>& choices) {
  std::vector<const ChoiceState*> out;
  out.reserve(choices.size());
  for (const ChoiceState& choice : choices) out.push_back(&choice);
  return out;
}

std::string logprobs_json(const AnswerContext& context, const ChoiceState& choice, size_t from, bool first) {
  if (!context.call.choices[static_cast<size_t>(choice.index)].return_logprob) return "null";
  return context.call.kind == ApiKind::kChat ? chat_logprobs(context, choice, from)
                                             : completion_logprobs(context, choice, from, first);
}

std::string echoed(const AnswerContext& context, const ChoiceState& choice) {
  const Echo* echo = context.call.echo_of(choice.index);
  return echo == nullptr ? std::string() : echo->text;
}

std::string openai_head(const AnswerContext& context, bool chunk) {
  const bool chat = context.call.kind == ApiKind::kChat;
  const char* object = !chat ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
  return fmt::format("{{\"id\":{},\"object\":\"{}\",\"created\":{},\"model\":{}", json_string(context.call.id), object,
                     context.created, json_string(context.call.model));
}

std::string openai_choice(const AnswerContext& context, const ChoiceState& choice) {
  const std::string tail = fmt::format("\"logprobs\":{},\"finish_reason\":{},\"matched_stop\":{}{}}}",
                                       logprobs_json(context, choice, 0, true), openai_reason(choice),
                                       matched_stop(choice), choice_members(context, choice, 0, true));
  if (context.call.kind == ApiKind::kChat) {
    return fmt::format(
        "{{\"index\":{},\"message\":{{\"role\":\"assistant\",\"content\":{},\"reasoning_content\":null,\"tool_calls\":"
        "null}},{}",
        choice.index, json_string(echoed(context, choice) + choice.text), tail);
  }
  return fmt::format("{{\"index\":{},\"text\":{},{}", choice.index, json_string(echoed(context, choice) + choice.text),
                     tail);
}

std::string openai_event(const AnswerContext& context, ChoiceState& choice) {
  const bool first = !choice.begun;
  const bool fresh = choice.tokens.size() > choice.tokens_sent || (first && !choice.prompt_logprobs.empty());
  std::string piece = choice.text.substr(choice.text_sent);
  if (first) piece.insert(0, echoed(context, choice));
  std::string body = openai_head(context, true) + answer_members(context, choice, first);
  body += fmt::format(",\"choices\":[{{\"index\":{},", choice.index);
  if (context.call.kind == ApiKind::kChat) {
    body += fmt::format("\"delta\":{{{}\"content\":{},\"reasoning_content\":null,\"tool_calls\":null}}",
                        first ? "\"role\":\"assistant\"," : "", json_string(piece));
  } else {
    body += "\"text\":" + json_string(piece);
  }
  body += fmt::format(",\"logprobs\":{},\"finish_reason\":{},\"matched_stop\":{}{}}}],{}}}",
                      fresh ? logprobs_json(context, choice, choice.tokens_sent, first) : "null", openai_reason(choice),
                      matched_stop(choice), choice_members(context, choice, choice.tokens_sent, first),
                      context.call.continuous_usage ? usage_members(context, {&choice}) : "\"usage\":null");
  return body;
}

}  // namespace

std::string whole_answer(const AnswerContext& context, const std::vector<ChoiceState>& choices) {
  std::string list;
  for (const ChoiceState& choice : choices) {
    if (!list.empty()) list += ',';
    list += context.call.kind == ApiKind::kGenerate ? generate_body(context, choice) : openai_choice(context, choice);
  }
  if (context.call.kind == ApiKind::kGenerate) return context.call.batch ? "[" + list + "]" : list;
  return fmt::format("{}{},\"choices\":[{}],{},\"metadata\":{{\"weight_version\":{}}}}}", openai_head(context, false),
                     answer_members(context, choices.front(), true), list, usage_members(context, pointers(choices)),
                     json_string(context.model.weight_version->get()));
}

std::string stream_event(const AnswerContext& context, ChoiceState& choice) {
  const std::string body =
      context.call.kind == ApiKind::kGenerate ? generate_body(context, choice) : openai_event(context, choice);
  choice.begun = true;
  choice.text_sent = choice.text.size();
  choice.tokens_sent = choice.tokens.size();
  return "data: " + body + "\n\n";
}

std::string usage_event(const AnswerContext& context, const std::vector<ChoiceState>& choices) {
  return fmt::format("data: {},\"choices\":[],{}}}\n\n", openai_head(context, true),
                     usage_members(context, pointers(choices)));
}

}  // namespace baton::http
