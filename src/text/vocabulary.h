// Which tokens there are: the model's and the added ones together, by id and by text.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/json_node.h"
#include "text/normalizer.h"
#include "text/token_ids.h"

namespace baton::text {

// Immutable once built, safe to share between threads.
class Vocabulary {
 public:
  struct VocabularyEntry {
    std::string text;   // as the file spells it, of an added token that is looked for in normalized text: normalized
    std::string bytes;  // what it decodes to
    bool exists = false;
    bool special = false;
    bool is_byte = false;  // Decoder::is_byte
  };

  // `added` is the file's list and `more` what other files add to it. Ids are the reference's: a token
  // that the model has keeps the model's, and a new one gets the next, whatever id is written beside it. A token that
  // comes again takes its last flags, but once special it stays so.
  [[nodiscard]] static Result<Vocabulary> build(const TokenIds& model, const JsonNode& added, const TokensBeside& more,
                                                const Normalizer& normalizer, const Decoder& decoder);

  [[nodiscard]] int32_t size() const { return static_cast<int32_t>(entries_.size()); }
  // The token of an id; of one that names none, an entry that does not exist.
  [[nodiscard]] const VocabularyEntry& entry(int32_t id) const;
  [[nodiscard]] std::optional<int32_t> find(std::string_view text) const;

  // The added tokens to look for in raw text, and those to look for in normalized text.
  [[nodiscard]] const AddedTokenMatcher& raw_matcher() const { return *raw_matcher_; }
  [[nodiscard]] const AddedTokenMatcher& normalized_matcher() const { return *normalized_matcher_; }

 private:
  Status add(AddedToken token, const JsonNode& node);
  Status build_matchers(const JsonNode& node, const Normalizer& normalizer, const Decoder& decoder);
  void fill_entries(const TokenIds& model, const Decoder& decoder);
  [[nodiscard]] VocabularyEntry entry_of(const std::string& text, const Decoder& decoder) const;

  TokenIds ids_;
  size_t model_size_ = 0;
  size_t added_bytes_ = 0;
  int32_t last_added_ = -1;
  std::vector<VocabularyEntry> entries_;
  std::map<int32_t, AddedToken> added_;
  std::unordered_set<std::string> special_texts_;
  std::optional<AddedTokenMatcher> raw_matcher_;
  std::optional<AddedTokenMatcher> normalized_matcher_;
};

}  // namespace baton::text
