#include "http/api_response.h"

#include <cmath>

#include "http/json.h"
#include "http/token_id_answer.h"

namespace baton::http {
namespace {

// The shortest text that reads back to the same float. JSON has no infinity: the least logprob that clients know stands
// for it.
std::string number(float value) { return std::isfinite(value) ? fmt::format("{}", value) : "-9999.0"; }

std::string token_text(const ModelText& model, int32_t id) {
  if (!model.tokenizer) return {};
  return model.tokenizer->decode(std::span(&id, 1), false);
}

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

// [logprob, id, text or null]
void append_triple(std::string& out, const AnswerContext& context, std::optional<float> logprob, int32_t id) {
  out += fmt::format("[{},{},{}]", logprob ? number(*logprob) : "null", id,
                     context.call.text_in_logprobs ? json_string(token_text(context.model, id)) : "null");
}

void append_top(std::string& out, const AnswerContext& context, const std::vector<engine::TokenLogprob>& top) {
  out += '[';
  for (size_t i = 0; i < top.size(); ++i) {
    if (i > 0) out += ',';
    append_triple(out, context, top[i].logprob, top[i].token);
  }
  out += ']';
}

void append_generate_logprobs(std::string& out, const AnswerContext& context, const ChoiceState& choice) {
  out += ",\"input_token_logprobs\":[";
  for (size_t i = 0; i < choice.prompt_logprobs.size(); ++i) {
    if (i > 0) out += ',';
    append_triple(out, context, choice.prompt_logprobs[i].logprob, choice.prompt_logprobs[i].token);
  }
  out += "],\"output_token_logprobs\":[";
  for (size_t i = 0; i < choice.tokens.size(); ++i) {
    if (i > 0) out += ',';
    append_triple(out, context, choice.tokens[i].logprob, choice.tokens[i].id);
  }
  out += ']';
  if (context.call.choices[static_cast<size_t>(choice.index)].top_logprobs == 0) return;
  out += ",\"input_top_logprobs\":[";
  for (size_t i = 0; i < choice.prompt_logprobs.size(); ++i) {
    if (i > 0) out += ',';
    if (choice.prompt_logprobs[i].logprob) {
      append_top(out, context, choice.prompt_logprobs[i].top);
    } else {
      out += "null";
    }
  }
  out += "],\"output_top_logprobs\":[";
  for (size_t i = 0; i < choice.tokens.size(); ++i) {
    if (i > 0) out += ',';
    append_top(out, context, choice.tokens[i].top);
  }
  out += ']';
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
  std::string out = "{\"text\":";
  append_json_string(out, choice.text);
  out += ",\"output_ids\":[";
  for (size_t i = 0; i < choice.tokens.size(); ++i) out += fmt::format("{}{}", i > 0 ? "," : "", choice.tokens[i].id);
  out += fmt::format(
      "],\"meta_info\":{{\"id\":{},\"finish_reason\":{},\"prompt_tokens\":{},\"completion_tokens\":{},\"cached_"
      "tokens\":{},"
      "\"weight_version\":\"default\",\"dp_rank\":{},\"e2e_latency\":{:.6f},\"ttft_parts_ms\":{}",
      json_string(request.engine.rid), finish_json(choice), choice.prompt_tokens, choice.tokens.size(),
      choice.cached_tokens, choice.dp_rank, context.elapsed_s, ttft_json(choice.ttft));
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

// Each prompt counts once, however many samples of it there are.
std::string usage_json(const AnswerContext& context, const std::vector<const ChoiceState*>& choices) {
  size_t prompt = 0, cached = 0, completion = 0;
  for (const ChoiceState* choice : choices) {
    if (choice->index % context.call.samples == 0 || choices.size() == 1) {
      prompt += static_cast<size_t>(choice->prompt_tokens);
      cached += static_cast<size_t>(choice->cached_tokens);
    }
    completion += choice->tokens.size();
  }
  return fmt::format(
      "{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{},"
      "\"prompt_tokens_details\":{{\"cached_tokens\":{}}},\"ttft_parts_ms\":{}}}",
      prompt, prompt + completion, completion, cached, ttft_json(choices.front()->ttft));
}

std::vector<const ChoiceState*> pointers(const std::vector<ChoiceState>& choices) {
  std::vector<const ChoiceState*> out;
  out.reserve(choices.size());
  for (const ChoiceState& choice : choices) out.push_back(&choice);
  return out;
}

// OpenAI's completions form, for tokens [from, end) and, when `first` and echo is on, those of the prompt before them.
// `offset`: bytes of text before; moved on. A decode instance knows the prompt's tokens but not their logprobs, which
// the router puts in front, so the offset begins behind them either way.
std::string completion_logprobs(const AnswerContext& context, const ChoiceState& choice, size_t from, bool first,
                                size_t* offset) {
  std::string tokens, logprobs, tops, offsets;
  const int wanted = context.call.choices[static_cast<size_t>(choice.index)].top_logprobs;
  const auto add = [&](int32_t id, std::optional<float> logprob, const std::vector<engine::TokenLogprob>& top) {
    const std::string text = token_label(context, id);
    const char* comma = tokens.empty() ? "" : ",";
    tokens += comma + json_string(text);
    logprobs += comma + (logprob ? number(*logprob) : "null");
    offsets += fmt::format("{}{}", comma, *offset);
    *offset += text.size();
    tops += comma;
    if (!logprob || wanted == 0) {
      tops += "null";
      return;
    }
    tops += '{';
    for (size_t i = 0; i < top.size(); ++i) {
      tops += fmt::format("{}{}:{}", i > 0 ? "," : "", json_string(token_label(context, top[i].token)),
                          number(top[i].logprob));
    }
    tops += '}';
  };
  if (first && context.call.echo) {
    for (const engine::PromptLogprob& p : choice.prompt_logprobs) add(p.token, p.logprob, p.top);
    if (choice.prompt_logprobs.empty()) {
      for (const int32_t id : context.call.choices[static_cast<size_t>(choice.index)].engine.prompt)
        *offset += token_text(context.model, id).size();
    }
  }
  for (size_t i = from; i < choice.tokens.size(); ++i)
    add(choice.tokens[i].id, choice.tokens[i].logprob, choice.tokens[i].top);
  return fmt::format("{{\"tokens\":[{}],\"token_logprobs\":[{}],\"top_logprobs\":[{}],\"text_offset\":[{}]}}", tokens,
                     logprobs, tops, offsets);
}

std::string chat_token(const AnswerContext& context, int32_t id, float logprob) {
  std::string list;
  for (const char b : label_bytes(context, id))
    list += fmt::format("{}{}", list.empty() ? "" : ",", static_cast<unsigned char>(b));
  return fmt::format("\"token\":{},\"logprob\":{},\"bytes\":[{}]", json_string(token_label(context, id)),
                     number(logprob), list);
}

std::string chat_logprobs(const AnswerContext& context, const ChoiceState& choice, size_t from) {
  std::string content;
  for (size_t i = from; i < choice.tokens.size(); ++i) {
    const engine::GeneratedToken& token = choice.tokens[i];
    std::string top;
    for (const engine::TokenLogprob& t : token.top)
      top += fmt::format("{}{{{}}}", top.empty() ? "" : ",", chat_token(context, t.token, t.logprob));
    content += fmt::format("{}{{{},\"top_logprobs\":[{}]}}", content.empty() ? "" : ",",
                           chat_token(context, token.id, token.logprob), top);
  }
  return fmt::format("{{\"content\":[{}]}}", content);
}

std::string logprobs_json(const AnswerContext& context, const ChoiceState& choice, size_t from, bool first,
                          size_t* offset) {
  if (!context.call.choices[static_cast<size_t>(choice.index)].return_logprob) return "null";
  if (context.call.kind == ApiKind::kChat) return chat_logprobs(context, choice, from);
  return completion_logprobs(context, choice, from, first, offset);
}

std::string echoed(const AnswerContext& context, const ChoiceState& choice) {
  if (!context.call.echo || !context.model.tokenizer) return {};
  const auto& prompt = context.call.choices[static_cast<size_t>(choice.index)].engine.prompt;
  return context.model.tokenizer->decode(prompt, context.call.skip_special_tokens);
}

std::string openai_head(const AnswerContext& context, bool chunk) {
  const bool chat = context.call.kind == ApiKind::kChat;
  const char* object = !chat ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
  return fmt::format("{{\"id\":{},\"object\":\"{}\",\"created\":{},\"model\":{}", json_string(context.call.id), object,
                     context.created, json_string(context.call.model));
}

std::string openai_choice(const AnswerContext& context, const ChoiceState& choice) {
  size_t offset = 0;
  const std::string tail = fmt::format("\"logprobs\":{},\"finish_reason\":{},\"matched_stop\":{}{}}}",
                                       logprobs_json(context, choice, 0, true, &offset), openai_reason(choice),
                                       matched_stop(choice), choice_members(context, choice, 0, true));
  if (context.call.kind == ApiKind::kChat) {
    return fmt::format(
        "{{\"index\":{},\"message\":{{\"role\":\"assistant\",\"content\":{},\"reasoning_content\":null,\"tool_calls\":"
        "null}},{}",
        choice.index, json_string(context.call.chat_echo + choice.text), tail);
  }
  return fmt::format("{{\"index\":{},\"text\":{},{}", choice.index, json_string(echoed(context, choice) + choice.text),
                     tail);
}

std::string openai_event(const AnswerContext& context, ChoiceState& choice) {
  const bool first = !choice.begun;
  std::string piece = choice.text.substr(choice.text_sent);
  if (first) piece.insert(0, context.call.kind == ApiKind::kCompletion ? echoed(context, choice) : "");
  if (first) piece.insert(0, context.call.chat_echo);
  std::string body = openai_head(context, true) + answer_members(context, choice, first);
  body += fmt::format(",\"choices\":[{{\"index\":{},", choice.index);
  if (context.call.kind == ApiKind::kChat) {
    body += fmt::format("\"delta\":{{{}\"content\":{}}}", first ? "\"role\":\"assistant\"," : "", json_string(piece));
  } else {
    body += "\"text\":" + json_string(piece);
  }
  body +=
      fmt::format(",\"logprobs\":{},\"finish_reason\":{},\"matched_stop\":{}{}}}],\"usage\":{}}}",
                  logprobs_json(context, choice, choice.tokens_sent, first, &choice.offset_sent), openai_reason(choice),
                  matched_stop(choice), choice_members(context, choice, choice.tokens_sent, first),
                  context.call.continuous_usage ? usage_json(context, {&choice}) : "null");
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
  return fmt::format("{}{},\"choices\":[{}],\"usage\":{}}}", openai_head(context, false),
                     answer_members(context, choices.front(), true), list, usage_json(context, pointers(choices)));
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
  return fmt::format("data: {},\"choices\":[],\"usage\":{}}}\n\n", openai_head(context, true),
                     usage_json(context, pointers(choices)));
}

}  // namespace baton::http
