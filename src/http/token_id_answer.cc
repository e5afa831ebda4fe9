#include "http/token_id_answer.h"

#include <algorithm>
#include <cmath>

#include "http/json.h"

namespace baton::http {
namespace {

std::string prompt_ids(const AnswerContext& context, const ChoiceState& choice) {
  const auto& prompt = context.call.choices[static_cast<size_t>(choice.index)].engine.prompt;
  return fmt::format("[{}]", fmt::join(prompt, ","));
}

// "id":{"logprob","rank","decoded_token"}; the rank of a token that is not among the best is not known.
std::string entry(const ModelText& model, int32_t id, float logprob, size_t rank) {
  const std::string text = model.tokenizer ? model.tokenizer->decode(std::span(&id, 1), false) : "";
  return fmt::format("\"{}\":{{\"logprob\":{},\"rank\":{},\"decoded_token\":{}}}", id,
                     std::isfinite(logprob) ? fmt::format("{}", logprob) : "-9999.0",
                     rank > 0 ? std::to_string(rank) : "null", json_string(text));
}

// A list of one object for each prompt token, null for the first.
std::string prompt_logprobs(const AnswerContext& context, const ChoiceState& choice) {
  if (context.call.prompt_logprobs < 0) return "null";
  std::string out = "[";
  for (const engine::PromptLogprob& position : choice.prompt_logprobs) {
    if (out.size() > 1) out += ',';
    if (!position.logprob) {
      out += "null";
      continue;
    }
    const auto mine = std::find_if(position.top.begin(), position.top.end(),
                                   [&](const engine::TokenLogprob& t) { return t.token == position.token; });
    const auto place = static_cast<size_t>(mine - position.top.begin());
    out += '{' + entry(context.model, position.token, *position.logprob, mine == position.top.end() ? 0 : place + 1);
    for (size_t i = 0; i < position.top.size(); ++i) {
      if (i != place) out += ',' + entry(context.model, position.top[i].token, position.top[i].logprob, i + 1);
    }
    out += '}';
  }
  return out + "]";
}

// vLLM's name for what ended the text: null where the model itself did.
std::string stop_reason(const AnswerContext& context, const ChoiceState& choice) {
  if (!choice.finish) return "null";
  if (const auto* text = std::get_if<std::string>(&choice.finish->matched)) return json_string(*text);
  const auto* id = std::get_if<int32_t>(&choice.finish->matched);
  if (id == nullptr) return "null";
  const auto& asked = context.call.choices[static_cast<size_t>(choice.index)].engine.sampling.stop_token_ids;
  const auto& eos = context.model.eos_ids;
  const bool own =
      std::find(asked.begin(), asked.end(), *id) == asked.end() && std::find(eos.begin(), eos.end(), *id) != eos.end();
  return own ? "null" : std::to_string(*id);
}

}  // namespace

std::string token_label(const AnswerContext& context, int32_t id) {
  if (context.call.tokens_as_ids) return fmt::format("token_id:{}", id);
  return context.model.tokenizer ? context.model.tokenizer->decode(std::span(&id, 1), false) : "";
}

std::string label_bytes(const AnswerContext& context, int32_t id) {
  if (context.call.tokens_as_ids) return token_label(context, id);
  return context.model.tokenizer ? std::string(context.model.tokenizer->token_bytes(id)) : "";
}

std::string choice_members(const AnswerContext& context, const ChoiceState& choice, size_t from, bool first) {
  const ApiRequest& call = context.call;
  std::string out = ",\"stop_reason\":" + stop_reason(context, choice);
  if (call.return_token_ids) {
    out += ",\"token_ids\":[";
    for (size_t i = from; i < choice.tokens.size(); ++i)
      out += fmt::format("{}{}", i > from ? "," : "", choice.tokens[i].id);
    out += ']';
  } else if (!call.stream) {
    out += ",\"token_ids\":null";
  }
  if (call.return_prompt_token_ids && first) out += ",\"prompt_token_ids\":" + prompt_ids(context, choice);
  if (call.kind != ApiKind::kCompletion) return out;
  if (!call.return_prompt_token_ids && !call.stream) out += ",\"prompt_token_ids\":null";
  if (!call.stream) out += ",\"prompt_logprobs\":" + prompt_logprobs(context, choice);
  return out;
}

std::string answer_members(const AnswerContext& context, const ChoiceState& choice, bool first) {
  const ApiRequest& call = context.call;
  std::string out;
  if (!context.model.fingerprint.empty()) out += ",\"system_fingerprint\":" + json_string(context.model.fingerprint);
  // SGLang's extension of both forms. Its stream has it in a chunk without choices, over which its own benchmark falls.
  if (call.return_cached_tokens_details && choice.finish && choice.cached_tokens > 0) {
    out += fmt::format(",\"sglext\":{{\"cached_tokens_details\":{{\"device\":{},\"host\":0}}}}", choice.cached_tokens);
  }
  if (call.kind != ApiKind::kChat) return out;
  if (call.return_prompt_token_ids && first) {
    out += ",\"prompt_token_ids\":" + prompt_ids(context, choice);
  } else if (!call.stream) {
    out += ",\"prompt_token_ids\":null";
  }
  if (!call.stream) out += ",\"prompt_logprobs\":" + prompt_logprobs(context, choice);
  return out;
}

}  // namespace baton::http
