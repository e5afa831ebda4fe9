#include "jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>

#include "jinja/format.h"
#include "jinja/methods.h"
#include "jinja/ops.h"
#include "jinja/unicode.h"

namespace baton::jinja {
namespace {

bool is_markup(const Value& value) { return value.is_text() && value.get<Text>()->markup; }

void require_defined(const Value& value) {
  if (const Undefined* undefined = value.get<Undefined>()) fail("{}", undefined->reason());
}

template <std::string (*Map)(std::string_view)>
Value filter_map_text(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("filter", arguments, {});
  return runtime.text(Map(to_string(input)), is_markup(input));
}

Value filter_string(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("string", arguments, {});
  return input.is_text() ? input : runtime.text(to_string(input));
}

Value filter_trim(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("trim", arguments, {"chars"});
  const std::string text = to_string(input);
  const std::string_view stripped = bound.given(0) ? strip(text, Side::kBoth, bound.text(0)) : strip(text, Side::kBoth);
  return runtime.text(std::string(stripped), is_markup(input));
}

// Words begin after white space, -, and opening brackets.
std::string title_words(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = decode_utf8(text, at);
    if (c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_space(c)) {
      in_word = false;
      out.append(text.substr(begin, at - begin));
    } else if (!in_word) {
      in_word = true;
      out += to_upper(text.substr(begin, at - begin));
    } else {  // the rest of the word together: lower case of sigma depends on its neighbours
      std::size_t end = begin;
      while (end < text.size()) {
        std::size_t next = end;
        const char32_t other = decode_utf8(text, next);
        if (other == '-' || other == '(' || other == '{' || other == '[' || other == '<' || is_space(other)) break;
        end = next;
      }
      out += to_lower(text.substr(begin, end - begin));
      at = end;
    }
  }
  return out;
}

Value filter_replace(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
  const Int count = bound.given(2) ? bound.integer(2, -1) : -1;
  return runtime.text(replace_text(runtime, to_string(input), to_string(*bound[0]), to_string(*bound[1]), count));
}

Value filter_indent(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("indent", arguments, {"width", "first", "blank"});
  require_defined(input);
  if (!input.is_text()) fail("indent: the input must be str, not '{}'", input.type_name());
  std::string indention(4, ' ');
  if (bound.has(0) && bound[0]->is_text()) {
    indention = *bound[0]->text();
  } else if (bound.has(0)) {
    const Int width = std::max<Int>(0, bound.integer(0, 4));
    if (width > 1000) fail("indent: width {} is too large", width);
    indention.assign(static_cast<std::size_t>(width), ' ');
  }
  const std::string text = *input.text() + "\n";
  std::string out = bound.truthy(1) ? indention : "";
  bool is_first = true;
  for (const std::string_view line : split_lines(text)) {
    if (!is_first) out += '\n';
    if (!is_first && (!line.empty() || bound.truthy(2))) out += indention;
    out += line;
    runtime.charge_bytes(out.size() < runtime.limits().output_bytes_max ? 0 : out.size());
    is_first = false;
  }
  return runtime.text(std::move(out), is_markup(input));
}

Value filter_tojson(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.truthy(0);
  style.sort_keys = bound.truthy(3);
  if (bound.given(1)) {
    if (bound[1]->is_text()) {
      style.indent = *bound[1]->text();
    } else {
      const Int width = std::max<Int>(0, bound.integer(1, 0));
      if (width > 100) fail("tojson: indent {} is too large", width);
      style.indent = std::string(static_cast<std::size_t>(width), ' ');
    }
    style.item_separator = ",";
  }
  if (bound.given(2)) {
    const std::vector<Value> separators = iterate(runtime, *bound[2]);
    if (separators.size() != 2 || !separators[0].is_text() || !separators[1].is_text()) {
      fail("tojson: separators must be two texts");
    }
    style.item_separator = *separators[0].text();
    style.key_separator = *separators[1].text();
  }
  return runtime.text(to_json(input, style));
}

Value filter_safe(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("safe", arguments, {});
  return runtime.text(to_string(input), true);
}

Value filter_escape(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("escape", arguments, {});
  return is_markup(input) ? input : runtime.text(escape_html(to_string(input)), true);
}

Value filter_default(Runtime&, const Value& input, const Arguments& arguments) {
  const Bound bound("default", arguments, {"default_value", "boolean"});
  if (!input.is_undefined() && (!bound.truthy(1) || input.truthy())) return input;
  return bound.has(0) ? *bound[0] : Value(std::string());
}

Value filter_length(Runtime&, const Value& input, const Arguments& arguments) {
  const Bound bound("length", arguments, {});
  return Value::size(length(input));
}

Int truncate_real(double value) {
  if (std::isnan(value)) fail("cannot convert float NaN to integer");
  if (std::isinf(value)) fail("cannot convert float infinity to integer");
  if (std::fabs(value) > 1e37) fail("integer overflow: {}", value);
  return static_cast<Int>(value);
}

Value filter_int(Runtime&, const Value& input, const Arguments& arguments) {
  const Bound bound("int", arguments, {"default", "base"});
  require_defined(input);
  if (input.is_integral()) return Value(input.integer());
  if (const double* real = input.get<double>()) {
    if (std::isnan(*real)) return bound.has(0) ? *bound[0] : Value(Int{0});
    return Value(truncate_real(*real));
  }
  if (const std::string* text = input.text()) {
    const Int base = bound.integer(1, 10);
    if (base == 0 || (base >= 2 && base <= 36)) {
      if (const auto value = parse_int(*text, static_cast<int>(base))) return Value(*value);
    }
    if (const auto value = parse_float(*text); value && !std::isnan(*value)) return Value(truncate_real(*value));
  }
  return bound.has(0) ? *bound[0] : Value(Int{0});
}

Value filter_float(Runtime&, const Value& input, const Arguments& arguments) {
  const Bound bound("float", arguments, {"default"});
  require_defined(input);
  if (input.is_number()) return Value(input.real());
  if (const std::string* text = input.text()) {
    if (const auto value = parse_float(*text)) return Value(*value);
  }
  return bound.has(0) ? *bound[0] : Value(0.0);
}

Value filter_abs(Runtime&, const Value& input, const Arguments& arguments) {
  const Bound bound("abs", arguments, {});
  require_defined(input);
  if (input.is_integral()) return input.integer() < 0 ? apply_unary(Sign::kSub, input) : Value(input.integer());
  if (!input.is_number()) fail("bad operand type for abs(): '{}'", input.type_name());
  return Value(std::fabs(input.real()));
}

// Correctly rounded to that many decimals, ties to even: what printf does.
double round_real(double value, Int precision) {
  if (!std::isfinite(value) || precision > 300) return value;
  if (precision < -308) return std::copysign(0.0, value);
  if (precision >= 0) return std::strtod(fmt::format("{:.{}f}", value, static_cast<int>(precision)).c_str(), nullptr);
  const double scale = std::pow(10.0, static_cast<double>(-precision));
  return std::nearbyint(value / scale) * scale;
}

Value round_integer(Int value, Int precision) {
  if (precision >= 0) return Value(value);
  if (precision < -36) return Value(Int{0});
  Int scale = 1;
  for (Int i = precision; i < 0; ++i) scale *= 10;
  const Int magnitude = value < 0 ? -value : value;
  Int quotient = magnitude / scale;
  const Int rest = magnitude % scale;
  if (rest * 2 > scale || (rest * 2 == scale && quotient % 2 != 0)) ++quotient;
  return Value(value < 0 ? -quotient * scale : quotient * scale);
}

Value filter_round(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("round", arguments, {"precision", "method"});
  require_defined(input);
  const std::string method = bound.has(1) ? bound.text(1) : "common";
  if (method != "common" && method != "ceil" && method != "floor") fail("method must be common, ceil or floor");
  if (!input.is_number()) fail("type {} doesn't define __round__ method", input.type_name());
  if (bound.has(0) && bound[0]->is_none() && method == "common") {  // round(x, None): an int
    return input.is_integral() ? Value(input.integer()) : Value(truncate_real(std::nearbyint(input.real())));
  }
  const Int precision = bound.integer(0, 0);
  if (method == "common") {
    return input.is_integral() ? round_integer(input.integer(), precision) : Value(round_real(input.real(), precision));
  }
  const Value scale = apply_binary(runtime, Sign::kPow, Value(Int{10}), Value(precision));
  const Value scaled = apply_binary(runtime, Sign::kMul, input, scale);
  const double real = scaled.real();
  const Int whole =
      scaled.is_integral() ? scaled.integer() : truncate_real(method == "ceil" ? std::ceil(real) : std::floor(real));
  return apply_binary(runtime, Sign::kDiv, Value(whole), scale);
}

Value filter_format(Runtime& runtime, const Value& input, const Arguments& arguments) {
  if (!arguments.keyword.empty() && !arguments.positional.empty()) {
    fail("can't handle positional and keyword arguments at the same time");
  }
  if (arguments.keyword.empty())
    return runtime.text(format_percent(to_string(input), Value::tuple(arguments.positional)));
  Dict values;
  for (const auto& [name, value] : arguments.keyword) values.set(name, value);
  return runtime.text(format_percent(to_string(input), Value(std::make_shared<const Dict>(std::move(values)))));
}

Value filter_attr(Runtime&, const Value& input, const Arguments& arguments) {
  const Bound bound("attr", arguments, {"name"}, 1);
  (void)bound.text(0);
  const Dict* dict = input.dict();
  if (dict != nullptr && !find_method(input, bound.text(0))) {  // only attributes, not items
    return Value::undefined(fmt::format("'dict object' has no attribute '{}'", bound.text(0)));
  }
  return get_attribute(input, *bound[0]);
}

constexpr FilterEntry kFilters[] = {
    {"abs", filter_abs},
    {"attr", filter_attr},
    {"capitalize", filter_map_text<capitalize>},
    {"count", filter_length},
    {"d", filter_default},
    {"default", filter_default},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"float", filter_float},
    {"format", filter_format},
    {"indent", filter_indent},
    {"int", filter_int},
    {"length", filter_length},
    {"lower", filter_map_text<to_lower>},
    {"replace", filter_replace},
    {"round", filter_round},
    {"safe", filter_safe},
    {"string", filter_string},
    {"title", filter_map_text<title_words>},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"upper", filter_map_text<to_upper>},
};

}  // namespace

const FilterEntry* find_filter(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                   [&](const FilterEntry& entry) { return entry.name == name; });
  return found != std::end(kFilters) ? found : find_sequence_filter(name);
}

}  // namespace baton::jinja
