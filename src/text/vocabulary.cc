#include "text/vocabulary.h"

#include <algorithm>

namespace baton::text {
namespace {

// Real vocabularies have few gaps; bounds the table that a corrupt id would ask for.
constexpr size_t kSpareIds = 1 << 16;
// Of all added tokens together: the automaton that finds them takes some 60 bytes for each.
constexpr size_t kAddedBytesMax = size_t{4} << 20;

}  // namespace

Result<Vocabulary> Vocabulary::build(const TokenIds& model, const JsonNode& added, const TokensBeside& more,
                                     const Normalizer& normalizer, const Decoder& decoder) {
  Vocabulary vocabulary;
  vocabulary.ids_ = model;
  vocabulary.model_size_ = model.size();
  if (!added.is_null()) {
    BATON_ASSIGN(const std::vector<JsonNode> nodes, added.array());
    for (const JsonNode& node : nodes) {
      BATON_ASSIGN(AddedToken token, AddedToken::from_json(node));
      BATON_TRY(vocabulary.add(std::move(token), node));
    }
  }
  for (const AddedToken& token : more.added) BATON_TRY(vocabulary.add(token, added));
  for (const AddedToken& token : more.specials) {
    const auto id = vocabulary.find(token.content);
    if (!id) continue;
    vocabulary.special_texts_.insert(token.content);
    if (!vocabulary.added_.contains(*id)) BATON_TRY(vocabulary.add(token, added));
  }
  const size_t id_max = 2 * vocabulary.ids_.size() + kSpareIds;
  for (const auto& [text, id] : vocabulary.ids_) {
    if (static_cast<size_t>(id) > id_max) {
      return error(ErrorCode::kCorrupt, "token \"{}\" has id {}, at most {} is supported with {} tokens",
                   text.substr(0, 100), id, id_max, vocabulary.ids_.size());
    }
  }
  vocabulary.fill_entries(model, decoder);
  BATON_TRY(vocabulary.build_matchers(added, normalizer, decoder));
  return vocabulary;
}

// Ids as in the reference's AddedVocabulary::add_tokens.
Status Vocabulary::add(AddedToken token, const JsonNode& node) {
  if (token.content.empty()) return {};
  added_bytes_ += token.content.size();
  if (added_bytes_ > kAddedBytesMax) return node.refuse("more than {} bytes of added tokens", kAddedBytesMax);
  if (token.special) special_texts_.insert(token.content);
  const auto found = ids_.find(token.content);
  const auto next =
      static_cast<int32_t>(std::max<int64_t>(static_cast<int64_t>(model_size_), last_added_ + int64_t{1}));
  token.id = found != ids_.end() ? found->second : next;
  last_added_ = std::max(last_added_, token.id);
  ids_.insert_or_assign(token.content, token.id);
  added_.insert_or_assign(token.id, std::move(token));
  return {};
}

void Vocabulary::fill_entries(const TokenIds& model, const Decoder& decoder) {
  int32_t last = -1;
  for (const auto& [text, id] : ids_) last = std::max(last, id);
  entries_.resize(static_cast<size_t>(last) + 1);
  for (const auto& [text, id] : model) entries_[static_cast<size_t>(id)] = entry_of(text, decoder);
  // Where ids meet, added tokens win.
  for (const auto& [id, token] : added_) entries_[static_cast<size_t>(id)] = entry_of(token.content, decoder);
}

Vocabulary::VocabularyEntry Vocabulary::entry_of(const std::string& text, const Decoder& decoder) const {
  return {text, decoder.bytes_of(text), true, special_texts_.contains(text), decoder.is_byte(text)};
}

Status Vocabulary::build_matchers(const JsonNode& node, const Normalizer& normalizer, const Decoder& decoder) {
  std::vector<AddedToken> raw_tokens, normalized_tokens;
  std::vector<std::string> raw_patterns, normalized_patterns;
  std::unordered_set<std::string> forms;
  size_t bytes = 0;
  for (const auto& [id, token] : added_) {
    if (!token.normalized) {
      raw_tokens.push_back(token);
      raw_patterns.push_back(token.content);
      continue;
    }
    const std::string form = normalizer.normalize(token.content);
    bytes += form.size();
    if (bytes > kAddedBytesMax) return node.refuse("more than {} bytes of normalized tokens", kAddedBytesMax);
    if (!forms.insert(form).second) {
      return node.refuse("two added tokens have the normalized form \"{}\"", form);
    }
    normalized_tokens.push_back(token);
    normalized_patterns.push_back(form);
    // To the reference such a token is its normalized form, which tells special ones and what they decode to.
    entries_[static_cast<size_t>(id)] = entry_of(form, decoder);
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
