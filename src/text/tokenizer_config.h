// tokenizer_config.json, special_tokens_map.json and chat_template.jinja, the files beside tokenizer.json.
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace baton::text {

struct ChatTemplateSource {
  std::string name;  // "default", "tool_use", "rag"...
  std::string text;  // Jinja
};

struct TokenizerConfig {
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<std::string> pad_token;
  std::optional<std::string> unk_token;
  boost::json::object special_tokens_map;  // transformers' of this name, for templates: texts, and one list of them
  std::string tokenizer_class;
  TokensBeside tokens;  // added_tokens_decoder in the order of its ids, and every special token by name
  bool add_bos_token = false;
  bool add_eos_token = false;
  std::optional<int64_t> model_max_length;  // tokens; none also if the file has the placeholder 10^30
  std::vector<ChatTemplateSource> chat_templates;

  // The template of that name, or nullptr.
  [[nodiscard]] const std::string* chat_template(std::string_view name = "default") const;
};

// Reads tokenizer_config.json of a model's folder; without one, all is empty. As in transformers, the special tokens of
// a special_tokens_map.json there come before the config's, unless the config has an added_tokens_decoder. A
// chat_template.jinja is the default template, before any that the config holds. kCorrupt, naming the JSON path, if a
// member has the wrong type.
[[nodiscard]] Result<TokenizerConfig> load_tokenizer_config(const std::filesystem::path& model_dir);

struct ModelTokenizer {
  Tokenizer tokenizer;
  TokenizerConfig config;
};

// Reads tokenizer.json and the files beside it. Where the config says add_bos_token (or add_eos_token) and
// tokenizer.json itself does not put that token, as with DeepSeek, the tokenizer's add_special_tokens does so: if there
// is such a token, and for the tokenizer classes that heed the flag (Llama's and what derives from it, or none named).
[[nodiscard]] Result<ModelTokenizer> load_model_tokenizer(const std::filesystem::path& model_dir);

}  // namespace baton::text
