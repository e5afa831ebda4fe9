#include "jinja/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "jinja/meter.h"
#include "jinja/special_case.h"

namespace baton::jinja {
namespace {

constexpr char32_t kEscapedByte = 0xDC00;  // surrogateescape: a malformed byte b is 0xDC00 + b

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

utf8proc_category_t category(char32_t c) {
  return c > 0x10FFFF ? UTF8PROC_CATEGORY_CN : utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

const SpecialCase* find_special(char32_t c) {
  const auto* end = std::end(kSpecialCases);
  const auto* found = std::lower_bound(std::begin(kSpecialCases), end, c,
                                       [](const SpecialCase& s, char32_t x) { return s.code_point < x; });
  return found != end && found->code_point == c ? found : nullptr;
}

void append_three(std::string& out, const char32_t (&characters)[3]) {
  for (const char32_t c : characters) {
    if (c != 0) append_utf8(out, c);
  }
}

void append_upper(std::string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c));
  } else if (const SpecialCase* special = find_special(c)) {
    append_three(out, special->upper);
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

bool is_cased(char32_t c) {
  const auto kind = category(c);
  return kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LT;
}

bool is_case_ignorable(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2018 || c == 0x2019 || c == 0x2024 || c == 0x2027;
  }
}

// The Final_Sigma condition: a cased letter before and none behind, case-ignorable characters skipped.
bool is_final_sigma(std::string_view text, std::size_t begin, std::size_t end) {
  bool before = false;
  while (begin > 0) {
    const char32_t c = decode_utf8_back(text, begin);
    if (is_case_ignorable(c)) continue;
    before = is_cased(c);
    break;
  }
  if (!before) return false;
  while (end < text.size()) {
    const char32_t c = decode_utf8(text, end);
    if (!is_case_ignorable(c)) return !is_cased(c);
  }
  return true;
}

// Lowers text[begin, end), the whole text being the context of a sigma.
void append_lower(std::string& out, std::string_view text, std::size_t begin, std::size_t end) {
  while (begin < end) {
    const std::size_t at = begin;
    const char32_t c = decode_utf8(text, begin);
    if (c < 0x80) {
      out.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));
    } else if (c == 0x130) {
      out += "i\xCC\x87";
    } else if (c == 0x3A3) {
      append_utf8(out, is_final_sigma(text, at, begin) ? 0x3C2 : 0x3C3);
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    }
  }
}

template <typename Drop>
std::string_view strip_if(std::string_view text, Side side, Drop drop) {
  charge_read(text.size());
  std::size_t begin = 0;
  std::size_t end = text.size();
  while (side != Side::kRight && begin < end) {
    std::size_t next = begin;
    if (!drop(decode_utf8(text, next))) break;
    begin = next;
  }
  while (side != Side::kLeft && end > begin) {
    std::size_t previous = end;
    if (!drop(decode_utf8_back(text, previous))) break;
    end = previous;
  }
  return text.substr(begin, end - begin);
}

}  // namespace

char32_t decode_utf8(std::string_view text, std::size_t& position) {
  const auto first = static_cast<unsigned char>(text[position]);
  if (first < 0x80) {
    ++position;
    return first;
  }
  utf8proc_int32_t c = -1;
  const auto size =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + position),
                       static_cast<utf8proc_ssize_t>(std::min<std::size_t>(4, text.size() - position)), &c);
  if (size <= 0 || c < 0) {
    ++position;
    return kEscapedByte + first;
  }
  position += static_cast<std::size_t>(size);
  return static_cast<char32_t>(c);
}

char32_t decode_utf8_back(std::string_view text, std::size_t& end) {
  std::size_t begin = end - 1;
  while (begin > 0 && end - begin < 4 && is_continuation(text[begin])) --begin;
  std::size_t position = begin;
  const char32_t c = decode_utf8(text, position);
  if (position == end) {
    end = begin;
    return c;
  }
  --end;  // not one whole character: its last byte stands alone
  return kEscapedByte + static_cast<unsigned char>(text[end]);
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else if (c >= kEscapedByte + 0x80 && c <= kEscapedByte + 0xFF) {
    out.push_back(static_cast<char>(c - kEscapedByte));
  } else {
    utf8proc_uint8_t bytes[4];
    const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
    out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
  }
}

std::u32string decode_all(std::string_view text) {
  charge_read(text.size());
  std::u32string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) out.push_back(decode_utf8(text, at));
  return out;
}

bool is_valid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = decode_utf8(text, at);
    if (c >= 0xD800 && c <= 0xDFFF) return false;
  }
  return true;
}

std::size_t count_code_points(std::string_view text) {
  charge_read(text.size());
  const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  std::size_t count = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto* run = text.data() + at;
    const auto* end = std::find_if_not(run, text.data() + text.size(), is_ascii);
    count += static_cast<std::size_t>(end - run);
    at += static_cast<std::size_t>(end - run);
    if (at == text.size()) break;
    (void)decode_utf8(text, at);
    ++count;
  }
  return count;
}

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) {
  if (c < 0x80) return c >= 0x20 && c < 0x7F;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool is_identifier_start(char32_t c) {
  const auto kind = category(c);
  const bool letter = kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LT ||
                      kind == UTF8PROC_CATEGORY_LM || kind == UTF8PROC_CATEGORY_LO;
  return c == '_' || letter || kind == UTF8PROC_CATEGORY_NL;
}

bool is_identifier_part(char32_t c) {
  const auto kind = category(c);
  return is_identifier_start(c) || kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_MN ||
         kind == UTF8PROC_CATEGORY_MC || kind == UTF8PROC_CATEGORY_PC;
}

std::string to_upper(std::string_view text) {
  charge_read(text.size());
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) append_upper(out, decode_utf8(text, at));
  return out;
}

std::string to_lower(std::string_view text) {
  charge_read(text.size());
  std::string out;
  out.reserve(text.size());
  append_lower(out, text, 0, text.size());
  return out;
}

std::string_view strip(std::string_view text, Side side) { return strip_if(text, side, is_space); }

std::string_view strip(std::string_view text, Side side, std::string_view characters) {
  std::u32string set = decode_all(characters);
  std::sort(set.begin(), set.end());
  return strip_if(text, side, [&](char32_t c) { return std::binary_search(set.begin(), set.end(), c); });
}

std::size_t find_text(std::string_view text, std::string_view part, std::size_t from) {
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  const std::size_t at = found == nullptr ? std::string_view::npos
                                          : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
  charge_read(part.size() + std::min(at, text.size()) - from);  // what was read
  return at;
}

}  // namespace baton::jinja
