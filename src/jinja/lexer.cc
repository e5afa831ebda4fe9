#include "jinja/lexer.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>

#include "jinja/format.h"
#include "jinja/unicode.h"

namespace baton::jinja {
namespace {

// All line ends become \n and one at the end is dropped.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
      continue;
    }
    out.push_back('\n');
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::size_t skip_space(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    std::size_t next = at;
    if (!is_space(decode_utf8(text, next))) break;
    at = next;
  }
  return at;
}

// The end of \d+ from at, or at.
std::size_t skip_digits(std::string_view text, std::size_t at) {
  while (at < text.size() && is_digit(text[at])) ++at;
  return at;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) lex_data();
    push(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail_here(std::string message) const { throw SyntaxFailure{line_, std::move(message)}; }

  [[nodiscard]] bool starts(std::size_t at, std::string_view what) const {
    return text_.compare(at, what.size(), what) == 0;
  }

  void push(TokenKind kind, std::string text, Value number = {}) {
    tokens_.push_back(Token{kind, line_, std::move(text), std::move(number)});
  }

  // Moves to the position, counting lines.
  void advance(std::size_t to) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  // Data up to the next tag, then that tag.
  void lex_data() {
    std::size_t tag = at_;
    while (true) {
      tag = text_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= text_.size()) {
        push(TokenKind::kData, text_.substr(at_));
        advance(text_.size());
        return;
      }
      const char second = text_[tag + 1];
      if (second == '{' || second == '%' || second == '#') break;
      ++tag;
    }
    const char opener = text_[tag + 1];
    const char sign =
        tag + 2 < text_.size() && (text_[tag + 2] == '-' || text_[tag + 2] == '+') ? text_[tag + 2] : '\0';
    push_data(tag, sign, opener == '{');
    advance(tag);
    const std::size_t behind = tag + (sign == '\0' ? 2 : 3);
    if (opener == '#') {
      lex_comment(behind);
    } else if (opener == '{') {
      push(TokenKind::kVariableBegin, "{{");
      advance(behind);
      lex_tag(TokenKind::kVariableEnd);
    } else {
      push(TokenKind::kBlockBegin, "{%");
      advance(behind);
      lex_tag(TokenKind::kBlockEnd);
    }
  }

  // The data before a tag, stripped on its right as the tag's sign and lstrip_blocks ask.
  void push_data(std::size_t end, char sign, bool variable) {
    std::string_view data = std::string_view(text_).substr(at_, end - at_);
    if (sign == '-') {
      data = strip(data, Side::kRight);
    } else if (sign != '+' && !variable) {
      const std::size_t newline = data.rfind('\n');
      const std::size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      if (line_begin > 0 || line_starting_) {
        if (skip_space(data, line_begin) == data.size()) data = data.substr(0, line_begin);
      }
    }
    if (!data.empty()) push(TokenKind::kData, std::string(data));
  }

  // Moves behind the end of a tag; the sign and trim_blocks decide what white space goes with it.
  void finish_tag(std::size_t end, bool strip_after, bool trim_newline) {
    if (strip_after) {
      end = skip_space(text_, end);
    } else if (trim_newline && end < text_.size() && text_[end] == '\n') {
      ++end;
    }
    line_starting_ = text_[end - 1] == '\n';
    advance(end);
  }

  void lex_comment(std::size_t from) {
    const std::size_t end = text_.find("#}", from);
    if (end == std::string::npos) {
      if (from < text_.size()) fail_here("Missing end of comment tag");
      return advance(from);  // nothing behind it: Jinja lets that pass
    }
    const char sign = end > from ? text_[end - 1] : '\0';
    finish_tag(end + 2, sign == '-', sign != '+');
  }

  // The tokens inside {{ }} or {% %} and its end.
  void lex_tag(TokenKind end_kind) {
    const std::string_view closer = end_kind == TokenKind::kVariableEnd ? "}}" : "%}";
    std::string open_brackets;
    while (at_ < text_.size()) {
      if (open_brackets.empty()) {
        const bool minus = text_[at_] == '-' && starts(at_ + 1, closer);
        const bool plus = end_kind == TokenKind::kBlockEnd && text_[at_] == '+' && starts(at_ + 1, closer);
        if (minus || plus || starts(at_, closer)) {
          push(end_kind, std::string(closer));
          finish_tag(at_ + (minus || plus ? 3 : 2), minus, end_kind == TokenKind::kBlockEnd && !plus);
          return;
        }
      }
      const std::size_t behind_space = skip_space(text_, at_);
      if (behind_space > at_) {
        advance(behind_space);
        continue;
      }
      lex_token(open_brackets);
    }
  }

  void lex_token(std::string& open_brackets) {
    const char c = text_[at_];
    if (is_digit(c)) return lex_number();
    if (c == '\'' || c == '"') return lex_string(c);
    std::size_t end = at_;
    while (end < text_.size()) {
      std::size_t next = end;
      if (!is_identifier_part(decode_utf8(text_, next))) break;
      end = next;
    }
    if (end > at_) {
      std::size_t first = at_;
      if (!is_identifier_start(decode_utf8(text_, first))) fail_here("Invalid character in identifier");
      push(TokenKind::kName, text_.substr(at_, end - at_));
      return advance(end);
    }
    lex_operator(open_brackets);
  }

  void lex_operator(std::string& open_brackets) {
    static constexpr std::string_view kDouble[] = {"//", "==", "!=", ">=", "<="};
    static constexpr std::string_view kSingle = "+-/*%~[](){}><=.:|,;";
    const char c = text_[at_];
    if (starts(at_, "**")) fail_here("** is not supported, neither for powers nor before an argument");
    for (const std::string_view sign : kDouble) {
      if (starts(at_, sign)) {
        push(TokenKind::kOperator, std::string(sign));
        return advance(at_ + 2);
      }
    }
    if (kSingle.find(c) == std::string_view::npos) {
      std::size_t end = at_;
      (void)decode_utf8(text_, end);
      fail_here(fmt::format("unexpected char {} at {}", repr(std::string_view(text_).substr(at_, end - at_)), at_));
    }
    if (c == '(' || c == '[' || c == '{') open_brackets.push_back(c == '(' ? ')' : static_cast<char>(c + 2));
    if (c == ')' || c == ']' || c == '}') {
      if (open_brackets.empty()) fail_here(fmt::format("unexpected '{}'", c));
      if (open_brackets.back() != c) fail_here(fmt::format("unexpected '{}', expected '{}'", c, open_brackets.back()));
      open_brackets.pop_back();
    }
    push(TokenKind::kOperator, std::string(1, c));
    advance(at_ + 1);
  }

  // The end of a float literal at at_, if there is one.
  [[nodiscard]] std::optional<std::size_t> float_end() const {
    if (at_ > 0 && text_[at_ - 1] == '.') return std::nullopt;
    const std::size_t whole = skip_digits(text_, at_);
    std::size_t end = whole;
    if (end + 1 < text_.size() && text_[end] == '.' && is_digit(text_[end + 1])) end = skip_digits(text_, end + 1);
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      std::size_t digits = end + 1;
      if (digits < text_.size() && (text_[digits] == '+' || text_[digits] == '-')) ++digits;
      const std::size_t exponent_end = skip_digits(text_, digits);
      if (exponent_end > digits) end = exponent_end;
    }
    if (end == whole) return std::nullopt;
    return end;
  }

  void lex_number() {
    if (const auto end = float_end()) {
      const auto value = parse_float(std::string_view(text_).substr(at_, *end - at_));
      push(TokenKind::kFloat, "", Value(value.value_or(0)));
      return advance(*end);
    }
    const std::size_t end = skip_digits(text_, at_);
    const bool continues =
        end < text_.size() && (text_[end] == '_' || std::isalpha(static_cast<unsigned char>(text_[end])) != 0);
    if (continues || (text_[at_] == '0' && end > at_ + 1)) {
      fail_here("a number is written in decimal digits: 0x, 0o, 0b, leading zeros and underscores are not supported");
    }
    const auto value = parse_int(std::string_view(text_).substr(at_, end - at_));
    push(TokenKind::kInteger, "", Value(value.value_or(0)));
    advance(end);
  }

  void lex_string(char quote) {
    std::size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) fail_here(fmt::format("unexpected char {} at {}", repr(std::string_view(&quote, 1)), at_));
    push(TokenKind::kString, unescape(std::string_view(text_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1);
  }

  // Python's unicode-escape: an unknown escape keeps its backslash.
  [[nodiscard]] std::string unescape(std::string_view raw) const {
    std::string out;
    for (std::size_t i = 0; i < raw.size();) {
      if (raw[i] != '\\') {
        out.push_back(raw[i++]);
        continue;
      }
      ++i;
      static constexpr std::string_view kLetters = "\n\\'\"abfnrtv";
      static constexpr std::string_view kMeaning = "\0\\'\"\a\b\f\n\r\t\v";
      const std::size_t known = kLetters.find(raw[i]);
      if (known != std::string_view::npos) {
        if (raw[i] != '\n') out.push_back(kMeaning[known]);
        ++i;
      } else if (raw[i] == 'x' || raw[i] == 'u' || raw[i] == 'U') {
        const std::size_t digits = raw[i] == 'x' ? 2 : raw[i] == 'u' ? 4 : 8;
        append_code_point(out, raw.substr(i + 1, digits), digits);
        i += 1 + digits;
      } else if (raw[i] == 'N' || (raw[i] >= '0' && raw[i] <= '7')) {
        fail_here("octal and \\N escapes are not supported: write the character itself or \\u");
      } else {
        out.push_back('\\');  // an unknown escape keeps its backslash
      }
    }
    return out;
  }

  void append_code_point(std::string& out, std::string_view digits, std::size_t count) const {
    const auto is_hex = [](unsigned char c) { return std::isxdigit(c) != 0; };
    if (digits.size() != count || !std::all_of(digits.begin(), digits.end(), is_hex)) {
      fail_here(fmt::format("truncated escape: {} hexadecimal digits expected", count));
    }
    const unsigned long code = std::strtoul(std::string(digits).c_str(), nullptr, 16);
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) fail_here("escape of an illegal Unicode character");
    append_utf8(out, static_cast<char32_t>(code));
  }

  const std::string text_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (!is_valid_utf8(source)) throw SyntaxFailure{1, "the template is not valid UTF-8"};
  return Lexer(source).run();
}

}  // namespace baton::jinja
