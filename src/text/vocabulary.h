// Which tokens there are: the model's and the added ones together, by id and by text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "text/added_tokens.h"
#include "text/json_node.h"
#include "text/normalizer.h"
#include "text/token_ids.h"

namespace baton::text {

// Immutable once built, safe to share between threads.
class Vocabulary {
 public:
  struct VocabularyEntry {
    std::string text;   // as the file spells it
    std::string bytes;  // what it decodes to
    bool exists = false;
    bool special = false;
  };

  // `added` is the file's list. kIncompatible if an added token's id is not the one the reference would give it: there
  // the reference only warns and goes on with its own.
  [[nodiscard]] static Result<Vocabulary> build(const TokenIds& model, const JsonNode& added,
                                                const Normalizer& normalizer);

  [[nodiscard]] int32_t size() const { return static_cast<int32_t>(entries_.size()); }
  // The token of an id; of one that names none, an entry that does not exist.
  [[nodiscard]] const VocabularyEntry& entry(int32_t id) const;
  [[nodiscard]] std::optional<int32_t> find(std::string_view text) const;

  // The added tokens to look for in raw text, and those to look for in normalized text.
  [[nodiscard]] const AddedTokenMatcher& raw_matcher() const { return *raw_matcher_; }
  [[nodiscard]] const AddedTokenMatcher& normalized_matcher() const { return *normalized_matcher_; }

 private:
  Status add(const std::vector<JsonNode>& nodes, size_t model_size);
  Status build_matchers(const JsonNode& node, const Normalizer& normalizer);
  void fill_entries();

  TokenIds ids_;
  std::vector<VocabularyEntry> entries_;
  std::unordered_map<int32_t, AddedToken> added_;
  std::optional<AddedTokenMatcher> raw_matcher_;
  std::optional<AddedTokenMatcher> normalized_matcher_;
};

}  // namespace baton::text
