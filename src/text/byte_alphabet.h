// The 256 printable characters that stand for the 256 bytes in the vocabularies of byte-level BPE (GPT-2's
// bytes_to_unicode): "Ġ" is the space, "Ċ" the newline, and printable Latin-1 stands for itself.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace baton::text {

// The character that stands for a byte.
[[nodiscard]] char32_t character_of_byte(unsigned char byte);

// The byte a character stands for, if it is one of the 256.
[[nodiscard]] std::optional<unsigned char> byte_of_character(char32_t character);

// The bytes that valid UTF-8 `token` stands for, or nullopt if any character is not one of the 256.
[[nodiscard]] std::optional<std::string> bytes_of_token(std::string_view token);

// The characters that stand for `bytes`, as UTF-8.
[[nodiscard]] std::string token_of_bytes(std::string_view bytes);

}  // namespace baton::text
