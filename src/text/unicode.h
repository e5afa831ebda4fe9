// Properties of code points as the reference tokenizer's engines know them (see tools/tokenizer/unicode_tables.py).
#pragma once

#include <string>
#include <string_view>

namespace baton {

// One general category ("Lu"), or a group of them ("L"), as extra items for a PCRE2 character class: the code points that
// belong to it but were assigned after Unicode 14, which is what PCRE2 10.42 knows. "" if there are none.
[[nodiscard]] std::string newer_members_of(std::string_view category);

// Whether `name` is a general category or group ("L", "Lu") whose members only grew since Unicode 14.
[[nodiscard]] bool is_growing_category(std::string_view name);

// Rust's regex \s: the property White_Space.
[[nodiscard]] bool is_white_space(char32_t code_point);

// Rust's regex \w: Alphabetic, marks, decimal numbers, connectors and joiners (UTS 18, annex C).
[[nodiscard]] bool is_word(char32_t code_point);

// Rust's char::is_numeric: Nd, Nl and No.
[[nodiscard]] bool is_numeric(char32_t code_point);

// Whether the reference's normalizer, of an older Unicode version, passes this mark through unordered and uncomposed.
[[nodiscard]] bool is_unknown_to_normalizer(char32_t code_point);

// Bits of one code point's class, for the split scanners.
enum CharClass : unsigned char {
  kLetter = 1,       // \p{L}
  kMark = 2,         // \p{M}
  kNumber = 4,       // \p{N}
  kPunctuation = 8,  // \p{P}
  kSymbol = 16,      // \p{S}
  kSpace = 32,       // \s
};

// The bits above of any code point up to U+10FFFF.
[[nodiscard]] unsigned char char_class(char32_t code_point);

}  // namespace baton
