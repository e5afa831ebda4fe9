// The added tokens of tokenizer.json ("<|im_start|>"...): found in the text before anything else is done to it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/aho_corasick.h"
#include "text/encode_limits.h"
#include "text/json_node.h"

namespace baton::text {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // matches only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for in the normalized text, in its own normalized form
  bool special = false;      // left out by skip_special; has no say in matching

  // All but the id. kCorrupt with the path.
  [[nodiscard]] static Result<AddedToken> from_json(const JsonNode& node);
};

// What files beside tokenizer.json say of added tokens.
struct TokensBeside {
  std::vector<AddedToken> added;     // in this order behind those of tokenizer.json
  std::vector<AddedToken> specials;  // special, if there is such a token; added if only the model has it
};

// A stretch of text: one added token, or text between them.
struct AddedTokenSplit {
  std::string_view text;
  int32_t id;  // -1: no added token
};

// Finds one set of added tokens (the raw ones, or the normalized ones). Immutable, safe to share between threads.
class AddedTokenMatcher {
 public:
  // `patterns[i]` is what to look for to find `tokens[i]`.
  AddedTokenMatcher(std::vector<AddedToken> tokens, const std::vector<std::string>& patterns);

  // Cuts valid UTF-8 `text` into stretches, none of them empty. Leftmost longest matches, as the reference finds them;
  // a match refused by single_word hides shorter ones inside it. Fails when the budget ends.
  [[nodiscard]] Result<std::vector<AddedTokenSplit>> split(std::string_view text, EncodeBudget& budget) const;

 private:
  std::vector<AddedToken> tokens_;
  AhoCorasick automaton_;
};

}  // namespace baton::text
