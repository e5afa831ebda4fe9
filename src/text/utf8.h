// UTF-8: one code point at a time, and the replacement of invalid bytes. Invalid bytes become U+FFFD, one for each
// maximal subpart of an ill-formed sequence (Unicode 15, section 3.9, "U+FFFD Substitution of Maximal Subparts"), which
// is what Rust's from_utf8_lossy, Python's errors="replace" and web browsers do.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace baton::text {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

enum class Utf8Kind {
  kValid,       // a whole code point
  kInvalid,     // a maximal subpart of an ill-formed sequence: becomes one U+FFFD
  kIncomplete,  // the text ends inside a sequence that more bytes could complete
};

struct Utf8Unit {
  char32_t code_point;  // U+FFFD unless kind is kValid
  size_t length;        // bytes of the unit, at least 1
  Utf8Kind kind;
};

// The unit at the front of `text`, which must not be empty.
[[nodiscard]] Utf8Unit decode_utf8(std::string_view text);

// Appends the UTF-8 form of a code point that is not a surrogate and at most U+10FFFF.
void append_utf8(std::string& out, char32_t code_point);

[[nodiscard]] bool is_valid_utf8(std::string_view text);

// Appends `bytes` to `out`, invalid ones replaced, and returns how many of them were consumed: all of them, or all up
// to an incomplete sequence at the end (at most 3 bytes remain).
size_t append_replacing_invalid(std::string& out, std::string_view bytes);

// `bytes` as valid UTF-8; an incomplete end becomes one U+FFFD too.
[[nodiscard]] std::string replace_invalid_utf8(std::string_view bytes);

}  // namespace baton::text
