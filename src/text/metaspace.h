// What normalizers, pre-tokenizers and decoders of tokenizer.json share for SentencePiece's "▁" in place of a space.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "text/json_node.h"

namespace baton::text {

struct Metaspace {
  enum class Prepend { kAlways, kFirst, kNever };
  std::string replacement;  // one character
  Prepend prepend = Prepend::kAlways;
  bool split = true;

  // kCorrupt or kIncompatible with the path. Old files have add_prefix_space in place of prepend_scheme.
  [[nodiscard]] static Result<Metaspace> from_json(const JsonNode& node);
};

// "pattern" and "content" of a Replace whose pattern is a text of at least one byte. kIncompatible otherwise.
[[nodiscard]] Result<std::pair<std::string, std::string>> read_replacement(const JsonNode& node);

// `text` with every `from`, which is not empty, made `to`.
[[nodiscard]] std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace baton::text
