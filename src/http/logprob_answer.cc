#include "http/logprob_answer.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

#include "http/json.h"
#include "http/token_id_answer.h"
#include "text/token_offsets.h"

namespace baton::http {
namespace {

// The shortest text that reads back to the same float, and is none of an integer. JSON has no infinity: the least
// logprob that clients know stands for it.
std::string number(float value) {
  if (!std::isfinite(value)) return "-9999.0";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string token_text(const ModelText& model, int32_t id) {
  if (!model.tokenizer) return {};
  return model.tokenizer->decode(std::span(&id, 1), false);
}

// A comma before every entry of a list but the first.
void append_comma(std::string& out) {
  if (out.back() != '[' && out.back() != '{') out += ',';
}

const ChoiceRequest& request_of(const AnswerContext& context, const ChoiceState& choice) {
  return context.call.choices[static_cast<size_t>(choice.index)];
}

// ---- /generate ----

// [logprob, id, text or null]
void append_triple(std::string& out, const AnswerContext& context, std::optional<float> logprob, int32_t id) {
  append_comma(out);
  out += fmt::format("[{},{},{}]", logprob ? number(*logprob) : "null", id,
                     context.call.text_in_logprobs ? json_string(token_text(context.model, id)) : "null");
}

void append_top(std::string& out, const AnswerContext& context, const std::vector<engine::TokenLogprob>& top) {
  append_comma(out);
  out += '[';
  for (const engine::TokenLogprob& entry : top) append_triple(out, context, entry.logprob, entry.token);
  out += ']';
}

void append_listed(std::string& out, const AnswerContext& context, const std::vector<int32_t>& ids,
                   const std::vector<float>& logprobs) {
  append_comma(out);
  out += '[';
  for (size_t i = 0; i < logprobs.size(); ++i) append_triple(out, context, logprobs[i], ids[i]);
  out += ']';
}

// SGLang gives the last token of a prompt whose logprobs are not asked for, without one, unless nothing new is wanted.
bool shows_last_token(const ChoiceRequest& request, const ChoiceState& choice) {
  const bool elsewhere = choice.handed_over || (request.engine.disaggregation && request.engine.disaggregation->fake);
  return request.engine.prompt_logprob_start < 0 && request.engine.sampling.max_new_tokens > 0 && !elsewhere;
}

template <typename Rows, typename Append>
void append_rows(std::string& out, const char* name, const Rows& rows, Append append) {
  out += fmt::format(",\"{}\":[", name);
  for (const auto& row : rows) append(row);
  out += ']';
}

}  // namespace

void append_generate_logprobs(std::string& out, const AnswerContext& context, const ChoiceState& choice) {
  const ChoiceRequest& request = request_of(context, choice);
  const std::vector<int32_t>& listed = request.engine.token_ids_logprob;
  const engine::PromptLogprob last{request.engine.prompt.back(), std::nullopt, {}};
  const std::span<const engine::PromptLogprob> input =
      shows_last_token(request, choice) ? std::span(&last, 1) : std::span(choice.prompt_logprobs);
  const std::span<const engine::GeneratedToken> output =
      choice.next ? std::span(&*choice.next, 1) : std::span(choice.tokens);
  // The first of the prompt's rows has nothing but its token there, wherever it begins.
  const auto is_scored = [&](const engine::PromptLogprob& row) { return row.logprob && &row != input.data(); };
  const auto input_list = [&](const char* name, auto append) {
    append_rows(out, name, input, [&](const engine::PromptLogprob& row) {
      if (is_scored(row)) return append(row);
      append_comma(out);
      out += "null";
    });
  };
  append_rows(out, "input_token_logprobs", input, [&](const engine::PromptLogprob& row) {
    append_triple(out, context, is_scored(row) ? row.logprob : std::nullopt, row.token);
  });
  append_rows(out, "output_token_logprobs", output,
              [&](const auto& row) { append_triple(out, context, row.logprob, row.id); });
  if (request.top_logprobs > 0) {
    input_list("input_top_logprobs", [&](const auto& row) { append_top(out, context, row.top); });
    append_rows(out, "output_top_logprobs", output, [&](const auto& row) { append_top(out, context, row.top); });
  }
  if (!listed.empty()) {
    input_list("input_token_ids_logprobs", [&](const auto& row) { append_listed(out, context, listed, row.listed); });
    append_rows(out, "output_token_ids_logprobs", output,
                [&](const auto& row) { append_listed(out, context, listed, row.listed); });
  }
}

// ---- OpenAI ----

namespace {

// The best, or with logprob_token_ids the token itself and then those.
std::vector<engine::TokenLogprob> tops_of(const AnswerContext& context, const ChoiceState& choice,
                                          const engine::GeneratedToken& token) {
  const std::vector<int32_t>& ids = request_of(context, choice).engine.token_ids_logprob;
  if (ids.empty()) return token.top;
  std::vector<engine::TokenLogprob> tops = {{token.id, token.logprob}};
  for (size_t i = 0; i < token.listed.size(); ++i) {
    const auto is_same = [&](const engine::TokenLogprob& entry) { return entry.token == ids[i]; };
    if (std::ranges::none_of(tops, is_same)) tops.push_back({ids[i], token.listed[i]});
  }
  return tops;
}

// The four lists of the completions form.
struct CompletionLists {
  std::string tokens, logprobs, tops, offsets;

  void add(const AnswerContext& context, int32_t id, std::optional<float> logprob,
           const std::vector<engine::TokenLogprob>& top, size_t offset) {
    const std::string text = token_label(context, id);
    const char* comma = tokens.empty() ? "" : ",";
    tokens += comma + json_string(text);
    logprobs += comma + (logprob ? number(*logprob) : "null");
    offsets += fmt::format("{}{}", comma, offset);
    tops += comma + (logprob ? top_json(context, top, {id, *logprob}) : "null");
  }

 private:
  // The token itself, where clients of vLLM look for it, and the best ones. Of tokens with one text, parts of
  // characters mostly, the best counts.
  static std::string top_json(const AnswerContext& context, std::vector<engine::TokenLogprob> top,
                              engine::TokenLogprob own) {
    const auto is_own = [&](const engine::TokenLogprob& entry) { return entry.token == own.token; };
    if (std::none_of(top.begin(), top.end(), is_own)) top.push_back(own);
    const std::string own_text = token_label(context, own.token);
    const auto shown =
        std::ranges::find_if(top, [&](const auto& entry) { return token_label(context, entry.token) == own_text; });
    std::rotate(top.begin(), shown, std::next(shown));
    std::set<std::string> seen;
    std::string out = "{";
    for (const engine::TokenLogprob& entry : top) {
      std::string text = token_label(context, entry.token);
      if (seen.contains(text)) continue;
      append_comma(out);
      out += json_string(text) + ":" + number(entry.logprob);
      seen.insert(std::move(text));
    }
    return out + "}";
  }
};

}  // namespace

std::string completion_logprobs(const AnswerContext& context, const ChoiceState& choice, size_t from, bool first) {
  CompletionLists lists;
  const Echo* echo = context.call.echo_of(choice.index);
  if (first && echo != nullptr && !choice.prompt_logprobs.empty()) {
    const ChoiceRequest& request = request_of(context, choice);
    std::vector<size_t> offsets(request.engine.prompt.size());
    if (context.model.tokenizer)
      offsets = text::token_offsets(*context.model.tokenizer, request.engine.prompt, echo->text, echo->decoded);
    const size_t begin = offsets.size() - choice.prompt_logprobs.size();
    for (size_t i = 0; i < choice.prompt_logprobs.size(); ++i) {
      const engine::PromptLogprob& row = choice.prompt_logprobs[i];
      lists.add(context, row.token, row.logprob, row.top, offsets[begin + i]);
    }
  }
  const size_t before = echo == nullptr ? 0 : text::count_characters(echo->text);
  // Tokens of a stop string that the text is without begin at its end.
  const size_t end = choice.finish ? text::count_characters(choice.text) : std::string::npos;
  for (size_t i = from; i < choice.tokens.size(); ++i) {
    const engine::GeneratedToken& token = choice.tokens[i];
    lists.add(context, token.id, token.logprob, tops_of(context, choice, token),
              before + std::min(choice.offsets[i], end));
  }
  return fmt::format("{{\"tokens\":[{}],\"token_logprobs\":[{}],\"top_logprobs\":[{}],\"text_offset\":[{}]}}",
                     lists.tokens, lists.logprobs, lists.tops, lists.offsets);
}

namespace {

std::string chat_token(const AnswerContext& context, int32_t id, float logprob) {
  std::string list;
  for (const char b : label_bytes(context, id))
    list += fmt::format("{}{}", list.empty() ? "" : ",", static_cast<unsigned char>(b));
  return fmt::format("\"token\":{},\"logprob\":{},\"bytes\":[{}]", json_string(token_label(context, id)),
                     number(logprob), list);
}

}  // namespace

std::string chat_logprobs(const AnswerContext& context, const ChoiceState& choice, size_t from) {
  std::string content;
  for (size_t i = from; i < choice.tokens.size(); ++i) {
    const engine::GeneratedToken& token = choice.tokens[i];
    std::string top;
    for (const engine::TokenLogprob& t : tops_of(context, choice, token))
      top += fmt::format("{}{{{}}}", top.empty() ? "" : ",", chat_token(context, t.token, t.logprob));
    content += fmt::format("{}{{{},\"top_logprobs\":[{}]}}", content.empty() ? "" : ",",
                           chat_token(context, token.id, token.logprob), top);
  }
  return fmt::format("{{\"content\":[{}]}}", content);
}

}  // namespace baton::http
