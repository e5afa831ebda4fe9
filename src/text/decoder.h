// The decoder of tokenizer.json: what tokens add to the text.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/json_node.h"

namespace baton::text {

// Immutable, safe to share between threads.
class Decoder {
 public:
  // ByteLevel (alone or with Fuse, which changes nothing after it), Metaspace, or SentencePiece's Sequence of Replace,
  // ByteFallback, Fuse and Strip in this order, each of which may be missing. kIncompatible naming the path and type of
  // anything else. A missing decoder is one that is not byte-level and puts a space between tokens: refused.
  [[nodiscard]] static Result<Decoder> from_json(const JsonNode& node);

  [[nodiscard]] bool is_byte_level() const { return is_byte_level_; }
  // Whether bytes that are no UTF-8 become a U+FFFD each, and with them the whole run of byte tokens they are in.
  [[nodiscard]] bool has_byte_fallback() const { return byte_fallback_; }
  // Whether the token is one of "<0x00>" to "<0xFF>" and stands for that byte.
  [[nodiscard]] bool is_byte(std::string_view token) const;

  // What a token adds to the text, perhaps a part of a character, when others are before it.
  [[nodiscard]] std::string bytes_of(std::string_view token) const;
  // The same of the first token of a text.
  [[nodiscard]] std::string bytes_of_first(std::string_view token) const;
  // The text of all tokens as it is shown: without the space that the normalizer put in front.
  [[nodiscard]] std::string_view strip(std::string_view text) const;

 private:
  Status append(const JsonNode& node);
  Status append_replace(const JsonNode& node);
  Status append_strip(const JsonNode& node);

  enum class Stage { kReplace, kByteFallback, kFuse, kStrip };
  Status enter(const JsonNode& node, Stage stage);

  Stage stage_ = Stage::kReplace;  // how far reading is
  bool is_byte_level_ = false;
  bool byte_fallback_ = false;
  std::vector<std::pair<std::string, std::string>> replacements_;
  std::string metaspace_;           // the character that stands for a space; empty: no Metaspace
  bool first_is_prefixed_ = false;  // Metaspace: the first token's are not shown
  std::string stripped_;            // the character that Strip takes off
  int strip_start_ = 0, strip_stop_ = 0;
};

}  // namespace baton::text
