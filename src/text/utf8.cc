#include "text/utf8.h"

#include <algorithm>

#include "base/check.h"

namespace baton::text {
namespace {

// Bytes a lead byte announces, and the range of its first continuation byte (Unicode 15, table 3-7).
struct Lead {
  size_t length;  // 0: not a lead byte
  unsigned char second_min;
  unsigned char second_max;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Unit decode_utf8(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return {first, 1, Utf8Kind::kValid};
  const Lead lead = lead_of(first);
  if (lead.length == 0) return {0xFFFD, 1, Utf8Kind::kInvalid};
  char32_t code_point = first & (0x7F >> lead.length);
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {0xFFFD, i, Utf8Kind::kIncomplete};
    const auto byte = static_cast<unsigned char>(text[i]);
    const unsigned char min = i == 1 ? lead.second_min : 0x80;
    const unsigned char max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {0xFFFD, i, Utf8Kind::kInvalid};
    code_point = (code_point << 6) | (byte & 0x3F);
  }
  return {code_point, lead.length, Utf8Kind::kValid};
}

void append_utf8(std::string& out, char32_t code_point) {
  BATON_CHECK(code_point <= 0x10FFFF && (code_point < 0xD800 || code_point > 0xDFFF), "U+{:04X}",
              static_cast<uint32_t>(code_point));
  auto push = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xC0 | code_point >> 6);
    push(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    push(0xE0 | code_point >> 12);
    push(0x80 | (code_point >> 6 & 0x3F));
    push(0x80 | (code_point & 0x3F));
  } else {
    push(0xF0 | code_point >> 18);
    push(0x80 | (code_point >> 12 & 0x3F));
    push(0x80 | (code_point >> 6 & 0x3F));
    push(0x80 | (code_point & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Unit unit = decode_utf8(text);
    if (unit.kind != Utf8Kind::kValid) return false;
    text.remove_prefix(unit.length);
  }
  return true;
}

size_t append_replacing_invalid(std::string& out, std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Unit unit = decode_utf8(bytes.substr(at));
    if (unit.kind == Utf8Kind::kIncomplete) break;
    out.append(unit.kind == Utf8Kind::kValid ? bytes.substr(at, unit.length) : kReplacementCharacter);
    at += unit.length;
  }
  return at;
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  if (append_replacing_invalid(out, bytes) < bytes.size()) out.append(kReplacementCharacter);
  return out;
}

}  // namespace baton::text
