// Values as text: Python's str(), repr() and json.dumps(), and numbers read the way int() and float() read them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "jinja/value.h"

namespace baton::jinja {

[[nodiscard]] std::string to_string(const Value& value);  // str(): what {{ }} prints
[[nodiscard]] std::string repr(const Value& value);
[[nodiscard]] std::string repr(std::string_view text);
[[nodiscard]] std::string format_float(double value);  // repr(float): the shortest text that reads back equal

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level of it; without, everything is on one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
// json.dumps(). Fails for what JSON cannot express.
[[nodiscard]] std::string to_json(const Value& value, const JsonStyle& style);

// &, <, >, ' and " as markupsafe writes them.
[[nodiscard]] std::string escape_html(std::string_view text);

// int(text) and float(text) in ASCII digits: nothing when the text is not a number.
[[nodiscard]] std::optional<Int> parse_int(std::string_view text);
[[nodiscard]] std::optional<double> parse_float(std::string_view text);

}  // namespace baton::jinja
