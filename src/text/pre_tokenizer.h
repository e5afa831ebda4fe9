// The pre-tokenizer of tokenizer.json: cuts text into the pieces that byte-pair encoding works on, one by one.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/json_node.h"
#include "text/metaspace.h"
#include "text/regex.h"

namespace baton::text {

// What becomes of the matches of a Split.
enum class SplitBehavior {
  kRemoved,             // dropped
  kIsolated,            // pieces of their own
  kMergedWithPrevious,  // joined to what is before
  kMergedWithNext,      // joined to what is after
  kContiguous,          // adjacent ones make one piece
};

// Text that is a match of a pattern, or lies between matches.
struct SplitPart {
  TextRange range;
  bool is_match;
};

// The pieces of parts that cover the text in order. Formula: the reference's NormalizedString::split.
[[nodiscard]] std::vector<TextRange> apply_behavior(const std::vector<SplitPart>& parts, SplitBehavior behavior);

// The pieces of one text. They point into the text, or into storage held here.
struct Pieces {
  std::vector<std::string_view> views;
  std::deque<std::string> storage;  // never moves its elements
};

// Immutable, safe to share between threads.
class PreTokenizer {
 public:
  // null, Split, Digits, Metaspace, and ByteLevel, alone or in Sequences; ByteLevel must come last, for a model behind
  // it works on bytes. kIncompatible naming the path and type of anything else.
  [[nodiscard]] static Result<PreTokenizer> from_json(const JsonNode& node);

  [[nodiscard]] bool is_byte_level() const { return !steps_.empty() && steps_.back().is_byte_level; }

  // Appends the pieces of valid UTF-8 `text`, none of them empty, as raw bytes (not in the byte alphabet). `begins`:
  // nothing is before the text, as far as Metaspace is concerned.
  // Fails as Regex::find_all does. With `each_is_a_token` a text that makes more pieces than the budget has tokens is
  // given up before they take memory.
  Status cut(std::string_view text, bool begins, Pieces& pieces, EncodeBudget& budget, bool each_is_a_token) const;

 private:
  struct Step {
    std::optional<Regex> regex;  // none: digits if is_digits, else no cut
    std::optional<Metaspace> metaspace;
    bool is_digits = false;
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
    bool is_byte_level = false;
    bool add_prefix_space = false;
    bool keeps_all = false;  // what it cuts out are pieces of their own, and no later step removes any
  };
  Status append_steps(const JsonNode& node);
  static Result<Step> read_split(const JsonNode& node);
  static Result<Step> read_byte_level(const JsonNode& node);
  static Result<Step> read_metaspace(const JsonNode& node);
  // What a step puts in place of a piece before it is cut, or the piece.
  static std::string_view prepared(const Step& step, std::string_view piece, bool begins, Pieces& storage);
  static Status cut_one(const Step& step, std::string_view piece, std::vector<std::string_view>& out,
                        EncodeBudget& budget, bool each_is_a_token);

  std::vector<Step> steps_;
};

}  // namespace baton::text
