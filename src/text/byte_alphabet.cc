#include "text/byte_alphabet.h"

#include <array>

#include "text/utf8.h"

namespace baton::text {
namespace {

bool stands_for_itself(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<char32_t, 256> characters{};
  std::array<int, 0x200> bytes{};  // -1: not in the alphabet

  Alphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      characters[byte] = stands_for_itself(byte) ? byte : next++;
      bytes[characters[byte]] = static_cast<int>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

char32_t character_of_byte(unsigned char byte) { return alphabet().characters[byte]; }

std::optional<unsigned char> byte_of_character(char32_t character) {
  if (character >= alphabet().bytes.size() || alphabet().bytes[character] < 0) return std::nullopt;
  return static_cast<unsigned char>(alphabet().bytes[character]);
}

std::optional<std::string> bytes_of_token(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Unit unit = decode_utf8(token);
    const auto byte = byte_of_character(unit.code_point);
    if (!byte) return std::nullopt;
    bytes.push_back(static_cast<char>(*byte));
    token.remove_prefix(unit.length);
  }
  return bytes;
}

std::string token_of_bytes(std::string_view bytes) {
  std::string token;
  for (char c : bytes) append_utf8(token, character_of_byte(static_cast<unsigned char>(c)));
  return token;
}

}  // namespace baton::text
