// Where in a text its tokens begin.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace baton::text {

// Code points of valid UTF-8.
[[nodiscard]] size_t count_characters(std::string_view text);

// For each of `ids` the character of `text` that it begins in: a token that is a part of a character has the
// character's place, and one that adds nothing to the text has that of what follows. `text` is valid UTF-8: what the
// ids were made of by encode(), with special tokens around or without, normalized there or not; or, with
// `skip_special`, what decode() makes of them. Of any other text the places rise and none is beyond its end.
[[nodiscard]] std::vector<size_t> token_offsets(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                                                std::string_view text, bool skip_special);

}  // namespace baton::text
