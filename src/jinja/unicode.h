// Text operations with the meaning Python's str gives them, over UTF-8. A malformed byte b counts as one code point,
// 0xDC00 + b (Python's surrogateescape), so nothing here fails and appending it back restores the byte.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace baton::jinja {

// Decodes the code point at text[position] and moves position behind it. Requires position < text.size().
[[nodiscard]] char32_t decode_utf8(std::string_view text, std::size_t& position);
// Decodes the last code point of text[0, end) and moves end before it. Requires 0 < end <= text.size().
[[nodiscard]] char32_t decode_utf8_back(std::string_view text, std::size_t& end);
void append_utf8(std::string& out, char32_t code_point);
[[nodiscard]] std::u32string decode_all(std::string_view text);
[[nodiscard]] bool is_valid_utf8(std::string_view text);
[[nodiscard]] std::size_t count_code_points(std::string_view text);

// str.isspace of one character.
[[nodiscard]] bool is_space(char32_t code_point);
// Whether repr() shows the character as itself.
[[nodiscard]] bool is_printable(char32_t code_point);
[[nodiscard]] bool is_identifier_start(char32_t code_point);
[[nodiscard]] bool is_identifier_part(char32_t code_point);

// Full case mappings: one character may become three, and sigma has its final form.
[[nodiscard]] std::string to_upper(std::string_view text);
[[nodiscard]] std::string to_lower(std::string_view text);

enum class Side { kLeft, kRight, kBoth };
// Without characters: white space.
[[nodiscard]] std::string_view strip(std::string_view text, Side side);
[[nodiscard]] std::string_view strip(std::string_view text, Side side, std::string_view characters);

// The first place of `part` at or after `from`, or npos. Linear, whatever the texts: std::string's find() is not.
[[nodiscard]] std::size_t find_text(std::string_view text, std::string_view part, std::size_t from = 0);

}  // namespace baton::jinja
