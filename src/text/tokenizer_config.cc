#include "text/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <iterator>

#include "text/json_node.h"

namespace baton::text {
namespace {

// Of one special token, by its name in the files.
struct TokenField {
  const char* key;
  std::optional<std::string> TokenizerConfig::*text;  // or nullptr
};
constexpr TokenField kTokenFields[] = {
    {"bos_token", &TokenizerConfig::bos_token},
    {"eos_token", &TokenizerConfig::eos_token},
    {"unk_token", &TokenizerConfig::unk_token},
    {"sep_token", nullptr},
    {"pad_token", &TokenizerConfig::pad_token},
    {"cls_token", nullptr},
    {"mask_token", nullptr},
};

// The classes of transformers whose fast tokenizers heed add_bos_token; the others go by tokenizer.json alone.
constexpr std::string_view kHeedsAddBos[] = {"", "Llama", "CodeLlama", "Gemma", "Cohere"};

constexpr const char* kAdditional = "additional_special_tokens";
constexpr size_t kAddedTokensMax = 1 << 17;

bool heeds_add_bos(std::string_view tokenizer_class) {
  for (const std::string_view suffix : {"Fast", "Tokenizer"}) {
    if (tokenizer_class.ends_with(suffix)) tokenizer_class.remove_suffix(suffix.size());
  }
  return std::find(std::begin(kHeedsAddBos), std::end(kHeedsAddBos), tokenizer_class) != std::end(kHeedsAddBos);
}

// "<s>" or {"content": "<s>", ...}
Result<AddedToken> read_special_token(const JsonNode& node) {
  AddedToken token;
  if (node.is_object()) {
    BATON_ASSIGN(token, AddedToken::from_json(node));
  } else {
    BATON_ASSIGN(const std::string_view text, node.string());
    token.content = text;
  }
  token.special = true;
  return token;
}

// A model's own names for some: {"image_token": "<a>"}.
Status read_named_tokens(const JsonNode& node, const simdjson::dom::object& named, TokenizerConfig& config) {
  if (named.size() > kAddedTokensMax) return node.refuse("more than {} tokens", kAddedTokensMax);
  for (const auto& [key, value] : named) {
    BATON_ASSIGN(AddedToken token, read_special_token(JsonNode(value, node.path())));
    if (!token.content.empty()) config.special_tokens_map[key] = token.content;
    config.tokens.specials.push_back(std::move(token));
  }
  return {};
}

// ["<a>", {"content": "<b>"}], or with names. Templates see additional_special_tokens, a list, and what has a name.
Status read_more_special_tokens(const JsonNode& root, const char* key, TokenizerConfig& config) {
  const JsonNode node = root.optional_member(key);
  if (node.is_null()) return {};
  if (simdjson::dom::object named; node.element().get(named) == simdjson::SUCCESS) {
    return read_named_tokens(node, named, config);
  }
  BATON_ASSIGN(const std::vector<JsonNode> items, node.array());
  if (items.size() > kAddedTokensMax) return node.refuse("more than {} tokens", kAddedTokensMax);
  boost::json::array texts;
  for (const JsonNode& item : items) {
    BATON_ASSIGN(AddedToken token, read_special_token(item));
    texts.emplace_back(token.content);
    config.tokens.specials.push_back(std::move(token));
  }
  if (std::string_view(key) == kAdditional && !texts.empty()) config.special_tokens_map[key] = std::move(texts);
  return {};
}

// Special tokens by name, of tokenizer_config.json or special_tokens_map.json. What comes later stands.
Status read_special_tokens(const JsonNode& root, TokenizerConfig& config) {
  for (const TokenField& field : kTokenFields) {
    const JsonNode node = root.optional_member(field.key);
    if (node.is_null()) continue;
    BATON_ASSIGN(AddedToken token, read_special_token(node));
    if (field.text != nullptr) config.*field.text = token.content;
    if (!token.content.empty()) config.special_tokens_map[field.key] = token.content;
    config.tokens.specials.push_back(std::move(token));
  }
  BATON_TRY(read_more_special_tokens(root, kAdditional, config));
  return read_more_special_tokens(root, "extra_special_tokens", config);
}

// {"128000": {"content": "<|begin_of_text|>", "special": true, ...}, ...}
Result<std::vector<AddedToken>> read_added_tokens(const JsonNode& node) {
  std::vector<AddedToken> tokens;
  if (node.is_null()) return tokens;
  simdjson::dom::object entries;
  if (node.element().get(entries) != simdjson::SUCCESS) return node.wrong_type("an object");
  if (entries.size() > kAddedTokensMax) return node.refuse("more than {} tokens", kAddedTokensMax);
  for (const auto& [key, value] : entries) {
    const JsonNode entry(value, fmt::format("{}[\"{}\"]", node.path(), key.substr(0, 100)));
    if (!entry.is_object()) return entry.wrong_type("an object");
    BATON_ASSIGN(AddedToken token, AddedToken::from_json(entry));
    const auto [end, failed] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    if (failed != std::errc() || end != key.data() + key.size() || token.id < 0) {
      return entry.refuse("its name is not a token's id");
    }
    tokens.push_back(std::move(token));
  }
  std::stable_sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return tokens;
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
  BATON_TRY(read_special_tokens(root, config));
  BATON_ASSIGN(config.tokens.added, read_added_tokens(root.optional_member("added_tokens_decoder")));
  if (const JsonNode name = root.optional_member("tokenizer_class"); !name.is_null()) {
    BATON_ASSIGN(const std::string_view text, name.string());
    config.tokenizer_class = text;
  }
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

Status read_special_tokens_map(const std::filesystem::path& file, TokenizerConfig& config) {
  if (!file_is_there(file)) return {};
  BATON_ASSIGN(const JsonDocument document, JsonDocument::load(file));
  if (!document.root().is_object()) return in_file(file, document.root().wrong_type("an object"));
  if (Status read = read_special_tokens(document.root(), config); !read) return in_file(file, read.error());
  return {};
}

// The id of a token that the config wants added, unless tokenizer.json adds tokens on that side itself.
Result<std::vector<int32_t>> ids_to_add(const Tokenizer& tokenizer, bool wanted,
                                        const std::optional<std::string>& token, std::string_view key) {
  if (!wanted || !token) return std::vector<int32_t>();
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
  if (config.tokens.added.empty()) BATON_TRY(read_special_tokens_map(model_dir / "special_tokens_map.json", config));
  const std::filesystem::path jinja = model_dir / "chat_template.jinja";
  if (file_is_there(jinja)) {
    BATON_ASSIGN(std::string text, read_text_file(jinja));
    config.chat_templates.insert(config.chat_templates.begin(), {"default", std::move(text)});
  }
  return config;
}

Result<ModelTokenizer> load_model_tokenizer(const std::filesystem::path& model_dir) {
  BATON_ASSIGN(TokenizerConfig config, load_tokenizer_config(model_dir));
  BATON_ASSIGN(Tokenizer tokenizer, Tokenizer::load(model_dir / "tokenizer.json", config.tokens));
  const bool heeds = heeds_add_bos(config.tokenizer_class);
  const bool add_bos = heeds && config.add_bos_token && tokenizer.prefix_ids().empty();
  const bool add_eos = heeds && config.add_eos_token && tokenizer.suffix_ids().empty();
  BATON_ASSIGN(const auto prefix, ids_to_add(tokenizer, add_bos, config.bos_token, "add_bos_token"));
  BATON_ASSIGN(const auto suffix, ids_to_add(tokenizer, add_eos, config.eos_token, "add_eos_token"));
  return ModelTokenizer{std::move(tokenizer).with_special_tokens_around(prefix, suffix), std::move(config)};
}

}  // namespace baton::text
