#include "text/tokenizer_config.h"

#include "text/json_node.h"

namespace baton::text {
namespace {

// "<s>" or {"content": "<s>", ...}; null or absent is none.
Result<std::optional<std::string>> read_token(const JsonNode& node) {
  if (node.is_null()) return std::optional<std::string>();
  JsonNode text = node;
  if (node.is_object()) {
    BATON_ASSIGN(text, node.member("content"));
  }
  BATON_ASSIGN(const std::string_view content, text.string());
  return std::optional<std::string>(content);
}

// "..." or [{"name": "default", "template": "..."}, ...]
Result<std::vector<ChatTemplateSource>> read_templates(const JsonNode& node) {
  std::vector<ChatTemplateSource> templates;
  if (node.is_null()) return templates;
  if (node.is_string()) {
    templates.push_back({"default", std::string(node.string().value())});
    return templates;
  }
  BATON_ASSIGN(const std::vector<JsonNode> items, node.array());
  for (const JsonNode& item : items) {
    BATON_ASSIGN(const JsonNode name_node, item.member("name"));
    BATON_ASSIGN(const std::string_view name, name_node.string());
    BATON_ASSIGN(const JsonNode text_node, item.member("template"));
    BATON_ASSIGN(const std::string_view text, text_node.string());
    templates.push_back({std::string(name), std::string(text)});
  }
  return templates;
}

// Without a limit transformers writes int(1e30), which is no 64-bit number.
Result<std::optional<int64_t>> read_max_length(const JsonNode& node) {
  if (node.is_null()) return std::optional<int64_t>();
  double value = 0;
  if (node.element().get(value) != simdjson::SUCCESS) return node.wrong_type("a number");
  if (value < 1) return error(ErrorCode::kCorrupt, "{}: {} is below 1", node.path(), value);
  if (value > 1e15) return std::optional<int64_t>();
  return std::optional<int64_t>(static_cast<int64_t>(value));
}

Result<TokenizerConfig> read_config(const JsonNode& root) {
  if (!root.is_object()) return root.wrong_type("an object");
  TokenizerConfig config;
  BATON_ASSIGN(config.bos_token, read_token(root.optional_member("bos_token")));
  BATON_ASSIGN(config.eos_token, read_token(root.optional_member("eos_token")));
  BATON_ASSIGN(config.pad_token, read_token(root.optional_member("pad_token")));
  BATON_ASSIGN(config.unk_token, read_token(root.optional_member("unk_token")));
  BATON_ASSIGN(config.add_bos_token, root.flag("add_bos_token", false));
  BATON_ASSIGN(config.add_eos_token, root.flag("add_eos_token", false));
  BATON_ASSIGN(config.model_max_length, read_max_length(root.optional_member("model_max_length")));
  BATON_ASSIGN(config.chat_templates, read_templates(root.optional_member("chat_template")));
  return config;
}

Result<TokenizerConfig> read_config_file(const std::filesystem::path& file) {
  if (!file_is_there(file)) return TokenizerConfig{};
  BATON_ASSIGN(const JsonDocument document, JsonDocument::load(file));
  auto config = read_config(document.root());
  if (!config) return in_file(file, config.error());
  return config;
}

// The id of a token that the config wants added, unless tokenizer.json adds tokens on that side itself.
Result<std::vector<int32_t>> ids_to_add(const Tokenizer& tokenizer, bool wanted,
                                        const std::optional<std::string>& token, std::string_view key) {
  if (!wanted) return std::vector<int32_t>();
  if (!token)
    return error(ErrorCode::kIncompatible, "tokenizer_config.json: {} is true but there is no such token", key);
  const auto id = tokenizer.token_id(*token);
  if (!id)
    return error(ErrorCode::kIncompatible, "tokenizer_config.json: {} wants \"{}\", which tokenizer.json lacks", key,
                 *token);
  return std::vector<int32_t>{*id};
}

}  // namespace

const std::string* TokenizerConfig::chat_template(std::string_view name) const {
  for (const ChatTemplateSource& source : chat_templates) {
    if (source.name == name) return &source.text;
  }
  return nullptr;
}

Result<TokenizerConfig> load_tokenizer_config(const std::filesystem::path& model_dir) {
  BATON_ASSIGN(TokenizerConfig config, read_config_file(model_dir / "tokenizer_config.json"));
  const std::filesystem::path jinja = model_dir / "chat_template.jinja";
  if (file_is_there(jinja)) {
    BATON_ASSIGN(std::string text, read_text_file(jinja));
    config.chat_templates.insert(config.chat_templates.begin(), {"default", std::move(text)});
  }
  return config;
}

Result<ModelTokenizer> load_model_tokenizer(const std::filesystem::path& model_dir) {
  BATON_ASSIGN(TokenizerConfig config, load_tokenizer_config(model_dir));
  BATON_ASSIGN(Tokenizer tokenizer, Tokenizer::load(model_dir / "tokenizer.json"));
  const bool add_bos = config.add_bos_token && tokenizer.prefix_ids().empty();
  const bool add_eos = config.add_eos_token && tokenizer.suffix_ids().empty();
  BATON_ASSIGN(const auto prefix, ids_to_add(tokenizer, add_bos, config.bos_token, "add_bos_token"));
  BATON_ASSIGN(const auto suffix, ids_to_add(tokenizer, add_eos, config.eos_token, "add_eos_token"));
  return ModelTokenizer{std::move(tokenizer).with_special_tokens_around(prefix, suffix), std::move(config)};
}

}  // namespace baton::text
