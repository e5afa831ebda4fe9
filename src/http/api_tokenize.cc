// The endpoints of an instance that turn text into tokens and back.
#include <algorithm>
#include <span>

#include "http/api_server.h"
#include "http/chat_fields.h"
#include "http/json.h"

namespace baton::http {
namespace json = boost::json;
namespace {

// Of one answer of /tokenize, unless the context is longer, and of one request of /detokenize.
constexpr size_t kTokensMax = 1 << 20;
// Of the texts of one answer.
constexpr size_t kTextBytesMax = 16 << 20;
constexpr const char* kNoTokenizer = "this server has no tokenizer";

// Texts or token lists of one request, and whether they came as a list, which the answer then is too.
template <typename T>
struct Batch {
  std::vector<T> items;
  bool is_list = false;
};
using IdLists = Batch<std::vector<int32_t>>;

// Each item as `write` puts it, in brackets if there was a list of them.
template <typename T, typename Write>
std::string listed(const Batch<T>& batch, Write write) {
  std::string out;
  for (const T& item : batch.items) {
    if (!out.empty()) out += ',';
    out += write(item);
  }
  return batch.is_list ? "[" + out + "]" : out;
}

std::string ids_json(const std::vector<int32_t>& ids) { return fmt::format("[{}]", fmt::join(ids, ",")); }

// The text that a request's messages become, as a chat's do.
Result<std::string> render_messages(json::object& body, const ModelText& model, std::stop_token stop) {
  if (!model.chat_template) return error(ErrorCode::kInvalidArgument, "messages: the model has no chat template");
  const json::value& messages = body["messages"];
  if (!messages.is_array()) return error(ErrorCode::kInvalidArgument, "messages: must be a list");
  text::ChatInput input;
  BATON_ASSIGN(input.messages, text::normalise_messages(messages.as_array(), model.chat_template->message_form()));
  BATON_ASSIGN(const std::string begun, read_last_message(body, &input));
  if (const json::value* tools = find_field(body, "tools")) {
    if (!tools->is_array()) return error(ErrorCode::kInvalidArgument, "tools: must be a list");
    if (!tools->as_array().empty()) input.tools = *tools;
  }
  if (const json::value* extra = find_field(body, "chat_template_kwargs")) {
    if (!extra->is_object()) return error(ErrorCode::kInvalidArgument, "chat_template_kwargs: must be an object");
    input.template_kwargs = extra->as_object();
  }
  input.special_tokens = model.special_tokens;
  jinja::RenderLimits limits;
  limits.stop = std::move(stop);
  BATON_ASSIGN(const std::string text, model.chat_template->render_chat(std::move(input), limits));
  return text + begun;
}

// The ids of one or several prompts, or of messages.
class TokenizeRequest {
 public:
  TokenizeRequest(const ModelText& model, std::stop_token stop) : model_(model) {
    limits_.stop = std::move(stop);
    limits_.tokens_max = std::max<size_t>(kTokensMax, static_cast<size_t>(model.context_length));
  }

  Result<IdLists> read(json::object& body) {
    const json::value* prompt = find_field(body, "prompt");
    if (prompt == nullptr) prompt = find_field(body, "text");
    const bool has_messages = find_field(body, "messages") != nullptr;
    if ((prompt != nullptr) == has_messages) {
      return error(ErrorCode::kInvalidArgument, "prompt: give either prompt (a string or a list of them) or messages");
    }
    BATON_ASSIGN(const auto special, bool_field(body, "add_special_tokens"));
    IdLists lists;
    if (has_messages) {
      BATON_ASSIGN(lists.items.emplace_back(), encode_messages(body, special.value_or(false)));
      return lists;
    }
    lists.is_list = prompt->is_array();
    const auto texts = lists.is_list ? std::span(prompt->get_array()) : std::span(prompt, 1);
    if (texts.size() > kChoicesMax) {
      return error(ErrorCode::kInvalidArgument, "prompt: {} texts; at most {} at a time", texts.size(), kChoicesMax);
    }
    for (const json::value& text : texts) {
      if (!text.is_string()) return error(ErrorCode::kInvalidArgument, "prompt: must be a string or a list of strings");
      BATON_ASSIGN(lists.items.emplace_back(), encode(text.get_string(), special.value_or(true)));
    }
    return lists;
  }

 private:
  // What is left of the limit is for the texts that follow.
  Result<std::vector<int32_t>> encode(std::string_view text, bool add_special) {
    BATON_ASSIGN(std::vector<int32_t> ids, model_.tokenizer->encode(text, add_special, limits_));
    limits_.tokens_max -= ids.size();
    return ids;
  }

  Result<std::vector<int32_t>> encode_messages(json::object& body, bool add_special) {
    BATON_ASSIGN(const std::string prompt, render_messages(body, model_, limits_.stop));
    return encode(prompt, add_special);
  }

  const ModelText& model_;
  text::EncodeLimits limits_;
};

Result<IdLists> read_tokens(const json::object& body) {
  const json::value* tokens = find_field(body, "tokens");
  if (tokens == nullptr) return error(ErrorCode::kInvalidArgument, "tokens: missing");
  IdLists lists;
  lists.is_list = tokens->is_array() && !tokens->get_array().empty() && tokens->get_array()[0].is_array();
  const auto values = lists.is_list ? std::span(tokens->get_array()) : std::span(tokens, 1);
  if (values.size() > kTokensMax) {
    return error(ErrorCode::kInvalidArgument, "tokens: {} lists; at most {} at a time", values.size(), kTokensMax);
  }
  for (const json::value& value : values) {
    BATON_ASSIGN(lists.items.emplace_back(), ids_from(value, "tokens"));
  }
  return lists;
}

Status check_tokens(const IdLists& lists, const ModelText& model) {
  size_t count = 0, bytes = 0;
  for (const std::vector<int32_t>& ids : lists.items) {
    count += ids.size();
    for (const int32_t id : ids) {
      if (id >= model.vocab) {
        return error(ErrorCode::kInvalidArgument, "tokens: {} is not below the vocabulary's size {}", id, model.vocab);
      }
      bytes += model.tokenizer->token_bytes(id).size();
    }
  }
  if (count > kTokensMax) {
    return error(ErrorCode::kInvalidArgument, "tokens: {} of them; at most {} at a time", count, kTokensMax);
  }
  if (bytes <= kTextBytesMax) return {};
  return error(ErrorCode::kInvalidArgument, "tokens: {} of them stand for {} bytes of text; at most {} at a time",
               count, bytes, kTextBytesMax);
}

// The tokens as tokenizer.json spells them, or null unless the request asks for them.
Result<std::string> token_texts(const IdLists& lists, bool wanted, const text::Tokenizer& tokenizer) {
  if (!wanted) return std::string("null");
  size_t bytes = 0;
  for (const auto& ids : lists.items) {
    for (const int32_t id : ids) bytes += tokenizer.token_text(id).size();
  }
  if (bytes > kTextBytesMax) {
    return error(ErrorCode::kInvalidArgument, "return_token_strs: {} bytes of tokens; at most {} at a time", bytes,
                 kTextBytesMax);
  }
  return listed(lists, [&](const std::vector<int32_t>& ids) {
    std::string out = "[";
    for (const int32_t id : ids) {
      if (out.size() > 1) out += ',';
      append_json_string(out, tokenizer.token_text(id));
    }
    return out + "]";
  });
}

}  // namespace

// {"tokens", "count", "max_model_len", "token_strs"}, each of the first two a list of lists for a list of prompts.
void ApiServer::tokenize(Call& x) {
  const ModelText& model = *x.ready.model;
  auto body = parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  if (!model.tokenizer) return x.refuse(501, kNoTokenizer);
  const auto lists = TokenizeRequest(model, stopping_text_.get_token()).read(*body);
  if (!lists) return x.refuse(lists.error());
  const auto with_texts = bool_field(*body, "return_token_strs");
  if (!with_texts) return x.refuse(with_texts.error());
  const auto texts = token_texts(*lists, with_texts->value_or(false), *model.tokenizer);
  if (!texts) return x.refuse(texts.error());
  x.reply(fmt::format("{{\"tokens\":{},\"count\":{},\"max_model_len\":{},\"token_strs\":{}}}", listed(*lists, ids_json),
                      listed(*lists, [](const auto& ids) { return std::to_string(ids.size()); }), model.context_length,
                      *texts));
}

// vLLM answers {"prompt"} with special tokens in it, SGLang {"text"} without them unless skip_special_tokens is false.
// Who names a model on /detokenize and asks for nothing of SGLang's alone gets vLLM's answer, everybody else both.
void ApiServer::detokenize(Call& x) {
  const ModelText& model = *x.ready.model;
  auto body = parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  if (!model.tokenizer) return x.refuse(501, kNoTokenizer);
  const auto lists = read_tokens(*body);
  if (!lists) return x.refuse(lists.error());
  const auto skip_special = bool_field(*body, "skip_special_tokens");
  if (!skip_special) return x.refuse(skip_special.error());
  if (Status checked = check_tokens(*lists, model); !checked) return x.refuse(checked.error());
  const auto texts = [&](bool skip) {
    return listed(*lists, [&](const auto& ids) { return json_string(model.tokenizer->decode(ids, skip)); });
  };
  const bool as_vllm =
      x.request.path == "/detokenize" && find_field(*body, "model") != nullptr && !*skip_special && !lists->is_list;
  std::string answer = fmt::format("{{\"prompt\":{}", texts(skip_special->has_value() && **skip_special));
  if (!as_vllm) answer += fmt::format(",\"text\":{}", texts(skip_special->value_or(true)));
  x.reply(answer + "}");
}

// What tokenizer_config.json says, as vLLM answers, with what this server serves it with.
void ApiServer::tokenizer_info(Call& x) {
  const ModelText& model = *x.ready.model;
  json::object info = model.tokenizer_config;
  const auto token = [](const std::string& text) { return text.empty() ? json::value() : json::value(text); };
  info["name_or_path"] = model.model_path;
  info["vocab_size"] = model.vocab;
  info["bos_token"] = token(model.bos_token);
  info["eos_token"] = token(model.eos_token);
  info["chat_template"] = model.chat_template ? json::value(model.chat_template->source()) : json::value();
  info["max_model_len"] = model.context_length;
  info.erase("model_max_length");  // the only number of the file that may be too large for one
  std::string text = json::serialize(info);
  text.pop_back();
  // Where no limit is stated transformers has int(1e30), which is no 64-bit number.
  constexpr const char* kNoLimit = "1000000000000000019884624838656";
  x.reply(fmt::format("{},\"model_max_length\":{}}}", text,
                      model.tokenizer_max_length ? std::to_string(*model.tokenizer_max_length) : kNoLimit));
}

}  // namespace baton::http
