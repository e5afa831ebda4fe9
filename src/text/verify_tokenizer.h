// Compares a tokenizer with ids and texts recorded from the reference.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::text {

struct TokenizerReport {
  size_t cases = 0;                     // entries of the golden file
  size_t comparisons = 0;               // encodings and decodings compared
  std::vector<std::string> mismatches;  // one line each: case, what was compared, expected, found
};

// `golden` is a JSON array of {text, ids, decoded, decoded_skip_special} (ids are of the text without added special
// tokens; each member but text and ids may be missing; ids_special, if there, are with them), or a model's golden file
// {"cases": [{prompt, prompt_ids, greedy_ids, greedy_text}]}, whose texts keep special tokens. Every decoding is also
// done as a stream. An error only if a file cannot be read or is of another form.
[[nodiscard]] Result<TokenizerReport> verify_tokenizer(const std::filesystem::path& tokenizer_json,
                                                       const std::filesystem::path& golden);

}  // namespace baton::text
