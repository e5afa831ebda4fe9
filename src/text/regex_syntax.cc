#include "text/regex_syntax.h"

#include <optional>
#include <vector>

#include "text/unicode.h"

namespace baton::text {
namespace {

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }  // of a UTF-8 character
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// White_Space, and its complement, as class items.
constexpr std::string_view kSpaceItems = "\\t-\\r\\x{85}\\p{Z}";
constexpr std::string_view kNotSpaceItems =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

constexpr std::string_view kCallout = "(?C)";

class Translator {
 public:
  explicit Translator(std::string_view pattern, bool python = false) : in_(pattern), python_(python) {}

  Result<std::string> run() {
    while (!at_end()) BATON_TRY(element());
    if (groups_.size() != 1) return unsupported("a group that is not closed");
    return std::string(kCallout) + out_;
  }

 private:
  // What follows a backslash, as items of a character class or as a single character.
  struct Escape {
    std::string items;
    bool is_class = false;    // a set, so it needs brackets outside a class and cannot bound a range
    bool is_negated = false;  // the complement of items
  };

  [[nodiscard]] bool at_end() const { return at_ == in_.size(); }
  [[nodiscard]] bool next_is(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  // Of Python's patterns nothing has to be matched without regard to case as Oniguruma does it.
  [[nodiscard]] bool is_caseless() const { return !python_ && groups_.back().is_caseless; }

  template <typename... Args>
  Error unsupported(fmt::format_string<Args...> what, Args&&... args) const {
    return error(ErrorCode::kInvalidArgument, "regular expression, offset {}: {} is not supported", at_,
                 fmt::format(what, std::forward<Args>(args)...));
  }

  Status element() {
    const char c = in_[at_];
    const bool is_repeat = c == '*' || c == '+' || c == '{';
    if (is_repeat) begin_repeat();
    if (!is_repeat && c != '?' && !is_continuation(c)) item_ = out_.size();
    if (c == '(') return open_group();
    if (c == ')') {
      if (groups_.size() == 1) return unsupported("a ')' without a group");
      item_ = groups_.back().begin;
      groups_.pop_back();
      return copy_and_reset(1);
    }
    if (c == '[') return char_class_element();
    if (c == '\\') return escape_element();
    if (c == '{') return interval();
    if (c == '*' || c == '+' || c == '?') return copy_and_reset(1);
    if (c == '|' && groups_.size() == 1) has_repeat_ = false;
    if (c == '|' || c == '.') return copy_and_reset(1);
    if (c == '^' || c == '$') return anchor(c == '^');
    if (c == ']' || c == '}') return python_ ? lone(c) : unsupported("a lone '{}'", c);
    return literal();
  }

  // Python takes a bracket that nothing goes with for itself.
  Status lone(char c) {
    item_ = out_.size();
    out_ += {'\\', c};
    ++at_;
    last_letter_ = 0;
    return {};
  }

  // A repeat of the item before: a callout stands before it if what precedes can come back to it.
  void begin_repeat() {
    if (item_ && (has_repeat_ || groups_.size() > 1)) out_.insert(*item_, kCallout);
    has_repeat_ = true;
    item_.reset();  // a second sign ("*+") is of the same item
  }

  // Ruby's anchors are those of lines; no line begins after a newline that ends the text.
  Status anchor(bool is_begin) {
    if (python_) {
      out_ += is_begin ? "\\A" : "(?=\\n?\\z)";
    } else {
      out_ += is_begin ? "(?:\\A|(?<=\\n)(?!\\z))" : "(?=\\n|\\z)";
    }
    ++at_;
    last_letter_ = 0;
    return {};
  }

  Status copy_and_reset(size_t length) {
    out_ += in_.substr(at_, length);
    at_ += length;
    last_letter_ = 0;
    return {};
  }

  Status open_group() {
    static constexpr std::string_view kOpeners[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    for (std::string_view opener : kOpeners) {
      if (!next_is(opener)) continue;
      groups_.push_back({is_caseless() || opener == "(?i:", out_.size()});
      return copy_and_reset(opener.size());
    }
    if (const size_t name_end = in_.find('>', at_); python_ && next_is("(?P<") && name_end != std::string_view::npos) {
      groups_.push_back({false, out_.size()});
      out_ += '(';
      at_ = name_end + 1;
      last_letter_ = 0;
      return {};
    }
    if (next_is("(?") || next_is("(*")) return unsupported("the group '{}'", in_.substr(at_, 4));
    groups_.push_back({is_caseless(), out_.size()});
    return copy_and_reset(1);
  }

  // {n}, {n,}, {n,m} and {,m}. A second quantifier reads differently in the two engines.
  Status interval() {
    size_t end = at_ + 1;
    while (end < in_.size() && (is_digit(in_[end]) || in_[end] == ',')) ++end;
    const std::string_view body = in_.substr(at_ + 1, end - at_ - 1);
    const size_t comma = body.find(',');
    const bool is_interval = end < in_.size() && in_[end] == '}' && body.size() > 0 && body != "," &&
                             (comma == std::string_view::npos || body.find(',', comma + 1) == std::string_view::npos);
    if (!is_interval) return python_ ? lone('{') : unsupported("a lone '{{'");
    if (!python_ && end + 1 < in_.size() &&
        (in_[end + 1] == '+' || (in_[end + 1] == '?' && comma == std::string_view::npos))) {
      return unsupported("'{}' after an interval", in_[end + 1]);
    }
    out_ += body[0] == ',' ? "{0" : "{";
    out_ += body;
    out_ += '}';
    at_ = end + 1;
    last_letter_ = 0;
    return {};
  }

  // Without regard to case, Oniguruma also lets one character match two ("ß" ~ "ss", "ﬁ" ~ "fi"), PCRE2 never.
  Status literal() {
    const char c = in_[at_];
    if (is_caseless()) {
      if (static_cast<unsigned char>(c) >= 0x80) return unsupported("a character beyond ASCII in (?i:");
      const std::string pair = {last_letter_, lower(c)};
      if (pair == "ss" || pair == "ff" || pair == "fi" || pair == "fl" || pair == "st") {
        return unsupported("'{}' in (?i:", pair);
      }
    }
    BATON_TRY(copy_and_reset(1));
    last_letter_ = lower(c);
    return {};
  }

  Status escape_element() {
    BATON_ASSIGN(const Escape escape, read_escape(/*in_class=*/false));
    last_letter_ = 0;
    if (escape.is_class) {
      out_ += escape.is_negated ? "[^" : "[";
      out_ += escape.items;
      out_ += ']';
    } else {
      out_ += escape.items;
    }
    return {};
  }

  Result<Escape> read_escape(bool in_class) {
    if (at_ + 1 == in_.size()) return unsupported("a trailing backslash");
    const char c = in_[at_ + 1];
    if (!is_ascii_letter(c) && !is_digit(c)) {
      at_ += 2;
      // Beyond ASCII the backslash says nothing, and PCRE2 forbids it.
      if (static_cast<unsigned char>(c) >= 0x80) return Escape{std::string(1, c)};
      return Escape{std::string{'\\', c}};
    }
    switch (c) {
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        at_ += 2;
        return Escape{std::string{'\\', c}};
      case 'v':
        at_ += 2;
        return Escape{"\\x{b}"};
      case 's':
        return read_set(kSpaceItems, false);
      case 'S':
        return read_set(kNotSpaceItems, false);
      case 'd':
      case 'D':
        return read_set("\\p{Nd}" + newer_members_of("Nd"), c == 'D');
      case 'w':
      case 'W':
        return read_set(python_ ? "\\p{L}\\p{N}_" : word_items(in_class), c == 'W');
      case 'x':
      case 'u':
        return read_code_point(c);
      case 'p':
      case 'P':
        return read_property(c == 'P');
      default:
        return python_ ? read_assertion(c, in_class) : unsupported("'\\{}'", c);
    }
  }

  // Python's escapes of places, and \b of a class, which is a backspace there.
  Result<Escape> read_assertion(char c, bool in_class) {
    const bool is_place = c == 'b' || c == 'B' || c == 'A' || c == 'Z';
    if (!is_place || (in_class && c != 'b')) return unsupported("'\\{}'", c);
    at_ += 2;
    if (in_class) return Escape{"\\x{8}"};
    return Escape{std::string{'\\', c == 'Z' ? 'z' : c}};
  }

  Result<Escape> read_set(std::string_view items, bool is_negated) {
    if (is_caseless()) return unsupported("'\\{}' in (?i:", in_[at_ + 1]);
    at_ += 2;
    return Escape{std::string(items), true, is_negated};
  }

  // Oniguruma's \w, as read out of it code point by code point: letters, marks, decimal and letter numbers, connectors,
  // the circled and squared letters and, but not within a class, the superscripts and fractions of Latin-1.
  static std::string word_items(bool in_class) {
    std::string items = in_class ? "" : "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
    items += "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}";
    for (std::string_view category : {"L", "M", "Nd", "Nl", "Pc"}) {
      items += "\\p{" + std::string(category) + "}" + newer_members_of(category);
    }
    return items;
  }

  // \xHH below 0x80 (above, it is a byte and not a code point), \x{H..} and \uHHHH.
  Result<Escape> read_code_point(char kind) {
    const bool braced = kind == 'x' && next_is("\\x{");
    const size_t begin = at_ + (braced ? 3 : 2);
    const size_t digits_max = braced ? 8 : kind == 'u' ? 4 : 2;
    size_t end = begin;
    while (end < in_.size() && end - begin < digits_max && is_hex(in_[end])) ++end;
    const std::string digits(in_.substr(begin, end - begin));
    const bool closed = !braced || (end < in_.size() && in_[end] == '}');
    if (digits.empty() || !closed || (kind == 'u' && digits.size() != 4)) return unsupported("this '\\{}'", kind);
    if (!python_ && kind == 'x' && !braced && std::stoul(digits, nullptr, 16) >= 0x80)
      return unsupported("a byte above 7F");
    if (is_caseless()) return unsupported("'\\{}' in (?i:", kind);
    at_ = end + (braced ? 1 : 0);
    return Escape{"\\x{" + digits + "}"};
  }

  // \p{Lu}, \p{L}, \p{^L} and \P{L}.
  Result<Escape> read_property(bool is_negated) {
    if (is_caseless()) return unsupported("'\\p' in (?i:");
    const size_t close = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == std::string_view::npos)
      return unsupported("'\\p' without {{}}");
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    if (name.starts_with('^')) {
      is_negated = !is_negated;
      name.remove_prefix(1);
    }
    if (!is_growing_category(name)) return unsupported("the property '{}'", name);
    at_ = close + 1;
    return Escape{"\\p{" + std::string(name) + "}" + newer_members_of(name), true, is_negated};
  }

  Status char_class_element() {
    last_letter_ = 0;
    out_ += '[';
    ++at_;
    if (next_is("^")) {
      out_ += '^';
      ++at_;
    }
    if (next_is("]")) return unsupported("a ']' at the front of a class");
    bool after_set = false;
    while (!next_is("]")) {
      if (at_end()) return unsupported("a class that is not closed");
      BATON_TRY(class_item(after_set));
    }
    out_ += ']';
    ++at_;
    return {};
  }

  // One item; after_set says that the item before was a set, after which '-' stands for itself.
  Status class_item(bool& after_set) {
    if (python_ && (next_is("[") || next_is("&"))) {
      out_ += {'\\', in_[at_++]};
      after_set = false;
      return {};
    }
    if (next_is("[") || next_is("&&")) return unsupported("'{}' in a class", in_.substr(at_, 2));
    if (next_is("\\")) {
      BATON_ASSIGN(const Escape escape, read_escape(/*in_class=*/true));
      if (escape.is_negated) return unsupported("a negated set in a class");
      if (escape.is_class && out_.ends_with('-') && !out_.ends_with("\\-") && !out_.ends_with("[-") &&
          !out_.ends_with("[^-")) {
        return unsupported("a range up to a set");
      }
      out_ += escape.items;
      after_set = escape.is_class;
      return {};
    }
    if (is_caseless() && static_cast<unsigned char>(in_[at_]) >= 0x80)
      return unsupported("a character beyond ASCII in (?i:");
    if (next_is("-") && after_set) out_ += '\\';
    after_set = false;
    out_ += in_[at_++];
    return {};
  }

  std::string_view in_;
  bool python_;
  size_t at_ = 0;
  std::string out_;
  struct OpenGroup {
    bool is_caseless;
    size_t begin;  // in out_
  };
  std::vector<OpenGroup> groups_ = {{false, 0}};
  std::optional<size_t> item_;  // where in out_ the item begins that a repeat would be of
  bool has_repeat_ = false;     // in this alternative of the whole pattern
  char last_letter_ = 0;        // the literal just before, in lower case; 0 if there is none
};

}  // namespace

Result<std::string> pcre2_from_onig(std::string_view pattern) {
  BATON_ASSIGN(std::string translated, Translator(pattern).run());
  // DeepSeek-V2's. Where it fails at the front of a run of white space it fails within it too, and where it matches it
  // takes all of the run that a match can take. Looking only at the front keeps a long run before other text from being
  // quadratic.
  if (pattern == "\\s+$") return "(?<![" + std::string(kSpaceItems) + "])" + translated;
  return translated;
}

Result<std::string> pcre2_from_python(std::string_view pattern) {
  std::string flags;
  for (std::string_view known : {"(?i)", "(?s)", "(?is)", "(?si)"}) {
    if (pattern.starts_with(known)) flags = known;
  }
  BATON_ASSIGN(const std::string translated, Translator(pattern.substr(flags.size()), true).run());
  return flags + translated;
}

std::string pcre2_from_literal(std::string_view text) {
  std::string out(kCallout);
  for (char c : text) {
    const bool is_plain = is_ascii_letter(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80;
    if (!is_plain) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace baton::text
