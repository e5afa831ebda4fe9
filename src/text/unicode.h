// Properties of code points as the reference tokenizer's engines know them (see tools/tokenizer/unicode_tables.py).
#pragma once

#include <string>
#include <string_view>

namespace baton::text {

// One general category ("Lu"), or a group of them ("L"), as extra items for a PCRE2 character class: the code points
// that belong to it but were assigned after Unicode 14, which is what PCRE2 10.42 knows. "" if there are none.
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

}  // namespace baton::text
