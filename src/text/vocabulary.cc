#include "text/vocabulary.h"

#include <algorithm>
#include <map>
#include <unordered_set>

#include "text/byte_alphabet.h"

namespace baton::text {
namespace {

// Real vocabularies have few gaps; bounds the table that a corrupt id would ask for.
constexpr size_t kSpareIds = 1 << 16;
// Of all added tokens together: the automaton that finds them takes some 60 bytes for each.
constexpr size_t kAddedBytesMax = size_t{4} << 20;

Result<AddedToken> read_added_token(const JsonNode& node) {
  AddedToken token;
  BATON_ASSIGN(const JsonNode id, node.member("id"));
  BATON_ASSIGN(token.id, id.index());
  BATON_ASSIGN(const JsonNode content, node.member("content"));
  BATON_ASSIGN(const std::string_view text, content.string());
  token.content = text;
  BATON_ASSIGN(token.single_word, node.flag("single_word", false));
  BATON_ASSIGN(token.lstrip, node.flag("lstrip", false));
  BATON_ASSIGN(token.rstrip, node.flag("rstrip", false));
  BATON_ASSIGN(token.special, node.flag("special", false));
  BATON_ASSIGN(token.normalized, node.flag("normalized", !token.special));
  return token;
}

}  // namespace

Result<Vocabulary> Vocabulary::build(const TokenIds& model, const JsonNode& added, const Normalizer& normalizer) {
  Vocabulary vocabulary;
  vocabulary.ids_ = model;
  if (!added.is_null()) {
    BATON_ASSIGN(const std::vector<JsonNode> nodes, added.array());
    BATON_TRY(vocabulary.add(nodes, model.size()));
  }
  const size_t id_max = 2 * vocabulary.ids_.size() + kSpareIds;
  for (const auto& [text, id] : vocabulary.ids_) {
    if (static_cast<size_t>(id) > id_max) {
      return error(ErrorCode::kCorrupt, "token \"{}\" has id {}, at most {} is supported with {} tokens",
                   text.substr(0, 100), id, id_max, vocabulary.ids_.size());
    }
  }
  vocabulary.fill_entries();
  BATON_TRY(vocabulary.build_matchers(added, normalizer));
  return vocabulary;
}

// A token that the model has keeps the model's id; a new one gets the next free id, counted from the model's size.
Status Vocabulary::add(const std::vector<JsonNode>& nodes, size_t model_size) {
  auto next_id = static_cast<int64_t>(model_size);
  size_t bytes = 0;
  for (const JsonNode& node : nodes) {
    BATON_ASSIGN(AddedToken token, read_added_token(node));
    if (token.content.empty()) continue;
    bytes += token.content.size();
    if (bytes > kAddedBytesMax) return node.refuse("more than {} bytes of added tokens", kAddedBytesMax);
    const auto found = ids_.find(token.content);
    const int64_t id = found != ids_.end() ? found->second : next_id++;
    if (id != token.id) {
      return node.refuse(
          "\"{}\" has id {}, but the vocabulary gives it {}: make the ids of added tokens follow it without gaps",
          token.content, token.id, id);
    }
    ids_.insert_or_assign(token.content, token.id);
    added_.insert_or_assign(token.id, std::move(token));
  }
  return {};
}

void Vocabulary::fill_entries() {
  int32_t last = -1;
  for (const auto& [text, id] : ids_) last = std::max(last, id);
  entries_.resize(static_cast<size_t>(last) + 1);
  for (const auto& [text, id] : ids_) {
    const auto added = added_.find(id);
    const bool is_special = added != added_.end() && added->second.special;
    entries_[id] = VocabularyEntry{text, bytes_of_token(text).value_or(text), true, is_special};
  }
}

Status Vocabulary::build_matchers(const JsonNode& node, const Normalizer& normalizer) {
  std::vector<AddedToken> raw_tokens, normalized_tokens;
  std::vector<std::string> raw_patterns, normalized_patterns;
  std::unordered_set<std::string> special_texts, forms;
  for (const auto& [id, token] : added_) {
    if (token.special) special_texts.insert(token.content);
  }
  for (const auto& [id, token] : std::map(added_.begin(), added_.end())) {
    if (!token.normalized) {
      raw_tokens.push_back(token);
      raw_patterns.push_back(token.content);
      continue;
    }
    const std::string form = normalizer.normalize(token.content);
    if (!forms.insert(form).second) {
      return node.refuse("two added tokens have the normalized form \"{}\"", form);
    }
    normalized_tokens.push_back(token);
    normalized_patterns.push_back(form);
    // The reference decodes such a token to its normalized form, and tells special ones by the text it decodes to.
    entries_[id].bytes = bytes_of_token(form).value_or(form);
    entries_[id].special = special_texts.contains(form);
  }
  raw_matcher_.emplace(std::move(raw_tokens), raw_patterns);
  normalized_matcher_.emplace(std::move(normalized_tokens), normalized_patterns);
  return {};
}

const Vocabulary::VocabularyEntry& Vocabulary::entry(int32_t id) const {
  static const VocabularyEntry none;
  return id >= 0 && id < size() ? entries_[id] : none;
}

std::optional<int32_t> Vocabulary::find(std::string_view text) const {
  const auto found = ids_.find(text);
  return found == ids_.end() ? std::nullopt : std::optional<int32_t>(found->second);
}

}  // namespace baton::text
