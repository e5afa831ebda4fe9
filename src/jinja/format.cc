#include "jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <iterator>

#include "jinja/meter.h"
#include "jinja/unicode.h"

namespace baton::jinja {
namespace {

void append_repr(std::string& out, const Value& value);

void append_escaped(std::string& out, char32_t c) {
  if (c < 0x100) {
    fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<unsigned>(c));
  } else if (c < 0x10000) {
    fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
  } else {
    fmt::format_to(std::back_inserter(out), "\\U{:08x}", static_cast<unsigned>(c));
  }
}

void append_text_repr(std::string& out, std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  charge_read(text.size());
  out.push_back(quote);
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = decode_utf8(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      append_utf8(out, c);
    } else {
      append_escaped(out, c);
    }
  }
  out.push_back(quote);
}

void append_items(std::string& out, const std::vector<Value>& items) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(out, items[i]);
  }
}

void append_repr(std::string& out, const Value& value) {
  charge_steps(1);  // a list can hold another one often
  check_text_size(out.size());
  if (const Text* text = value.get<Text>()) {
    if (text->markup) out += "Markup(";
    append_text_repr(out, *text->bytes);
    if (text->markup) out += ")";
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.get<List>() != nullptr) {
    out += '[';
    append_items(out, *value.items());
    out += ']';
  } else if (value.get<Tuple>() != nullptr) {
    out += '(';
    append_items(out, *value.items());
    out += value.items()->size() == 1 ? ",)" : ")";
  } else if (const Dict* dict = value.dict()) {
    out += '{';
    for (std::size_t i = 0; i < dict->entries().size(); ++i) {
      if (i > 0) out += ", ";
      append_repr(out, dict->entries()[i].first);
      out += ": ";
      append_repr(out, dict->entries()[i].second);
    }
    out += '}';
  } else {
    out += to_string(value);
  }
}

void append_json_text(std::string& out, std::string_view text, bool ensure_ascii) {
  charge_read(text.size());
  out.push_back('"');
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = decode_utf8(text, at);
    static constexpr std::string_view kShort = "\"\\\n\r\t\f\b";
    static constexpr std::string_view kLetter = "\"\\nrtfb";
    const std::size_t known = c < 0x80 ? kShort.find(static_cast<char>(c)) : std::string_view::npos;
    if (known != std::string_view::npos) {
      out.push_back('\\');
      out.push_back(kLetter[known]);
    } else if (c < 0x20 || (ensure_ascii && c > 0x7E && c < 0x10000)) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
    } else if (ensure_ascii && c >= 0x10000) {
      const unsigned offset = static_cast<unsigned>(c) - 0x10000;
      fmt::format_to(std::back_inserter(out), "\\u{:04x}\\u{:04x}", 0xD800 + (offset >> 10), 0xDC00 + (offset & 0x3FF));
    } else {
      out.append(text.substr(begin, at - begin));
    }
  }
  out.push_back('"');
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  void write(const Value& value) {
    charge_steps(1);
    check_text_size(out_.size());
    if (const std::string* text = value.text()) {
      append_json_text(out_, *text, style_.ensure_ascii);
    } else if (value.is_none() || value.is_number()) {
      out_ += scalar(value);
    } else if (const auto* items = value.items()) {
      write_all('[', ']', items->size(), [&](std::size_t i) { write((*items)[i]); });
    } else if (const Dict* dict = value.dict()) {
      write_dict(*dict);
    } else {
      fail("Object of type {} is not JSON serializable", value.type_name());
    }
  }

  [[nodiscard]] std::string take() { return std::move(out_); }

 private:
  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (const bool* held = value.get<bool>()) return *held ? "true" : "false";
    const double* real = value.get<double>();
    if (real == nullptr || std::isfinite(*real)) return to_string(value);
    return std::isnan(*real) ? "NaN" : *real > 0 ? "Infinity" : "-Infinity";
  }

  void write_dict(const Dict& dict) {
    std::vector<const Dict::Entry*> entries;
    charge_created(dict.entries().size() * sizeof(void*));
    entries.reserve(dict.entries().size());
    for (const auto& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto* a, const auto* b) { return less(a->first, b->first); });
    }
    write_all('{', '}', entries.size(), [&](std::size_t i) {
      const Value& key = entries[i]->first;
      if (const std::string* text = key.text()) {
        append_json_text(out_, *text, style_.ensure_ascii);
      } else if (key.is_none() || key.is_number()) {
        out_ += '"' + scalar(key) + '"';
      } else {
        fail("keys must be str, int, float, bool or None, not {}", key.type_name());
      }
      out_ += style_.key_separator;
      write(entries[i]->second);
    });
  }

  template <typename WriteItem>
  void write_all(char open, char close, std::size_t count, WriteItem write_item) {
    out_.push_back(open);
    ++level_;
    for (std::size_t i = 0; i < count; ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line();
      write_item(i);
    }
    --level_;
    if (count > 0) new_line();
    out_.push_back(close);
  }

  void new_line() {
    if (!style_.indent) return;
    out_.push_back('\n');
    for (int i = 0; i < level_; ++i) out_ += *style_.indent;
  }

  const JsonStyle& style_;
  std::string out_;
  int level_ = 0;
};

}  // namespace

std::string to_string(const Value& value) {
  if (const std::string* text = value.text()) return *text;
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (const bool* held = value.get<bool>()) return *held ? "True" : "False";
  if (const Int* held = value.get<Int>()) return fmt::format("{}", *held);
  if (const double* held = value.get<double>()) return format_float(*held);
  if (const auto* held = value.get<std::shared_ptr<Object>>()) return (*held)->repr();
  return repr(value);
}

std::string repr(const Value& value) {
  std::string out;
  append_repr(out, value);
  return out;
}

std::string repr(std::string_view text) {
  std::string out;
  append_text_repr(out, text);
  return out;
}

std::string format_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];
  auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view scientific(buffer, static_cast<std::size_t>(end - buffer));
  const std::size_t e = scientific.find('e');
  int exponent = 0;
  std::from_chars(scientific.data() + e + (scientific[e + 1] == '+' ? 2 : 1), scientific.data() + scientific.size(),
                  exponent);
  if (exponent < -4 || exponent >= 16) return std::string(scientific);
  char fixed[400];
  end = std::to_chars(fixed, fixed + sizeof fixed, value, std::chars_format::fixed).ptr;
  std::string out(fixed, end);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

std::string to_json(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.write(value);
  return writer.take();
}

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

std::optional<Int> parse_int(std::string_view text) {
  text = strip(text, Side::kBoth);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.empty()) return std::nullopt;
  Int value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    if (__builtin_mul_overflow(value, Int{10}, &value) || __builtin_add_overflow(value, Int{c - '0'}, &value)) {
      fail("integer overflow: {} digits", text.size());
    }
  }
  return negative ? -value : value;
}

std::optional<double> parse_float(std::string_view text) {
  text = strip(text, Side::kBoth);
  if (text.starts_with('+')) text.remove_prefix(1);
  if (text.empty() || text.find_first_not_of("0123456789.eE+-") != std::string_view::npos) return std::nullopt;
  double value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size()) return std::nullopt;
  if (code == std::errc::result_out_of_range) return std::strtod(std::string(text).c_str(), nullptr);  // infinite or 0
  return code == std::errc() ? std::optional(value) : std::nullopt;
}

}  // namespace baton::jinja
