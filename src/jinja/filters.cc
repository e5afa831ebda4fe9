#include "jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "jinja/format.h"
#include "jinja/methods.h"
#include "jinja/ops.h"
#include "jinja/unicode.h"

namespace baton::jinja {
namespace {

bool is_markup(const Value& value) { return value.is_text() && value.get<Text>()->markup; }

template <std::string (*Map)(std::string_view)>
Value filter_map_text(const Value& input, const Arguments& arguments) {
  const Bound bound("filter", arguments, {});
  return Value(Map(to_string(input)), is_markup(input));
}

Value filter_string(const Value& input, const Arguments& arguments) {
  const Bound bound("string", arguments, {});
  return input.is_text() ? input : Value(to_string(input));
}

Value filter_trim(const Value& input, const Arguments& arguments) {
  const Bound bound("trim", arguments, {"chars"});
  const std::string text = to_string(input);
  const std::string_view stripped = bound.given(0) ? strip(text, Side::kBoth, bound.text(0)) : strip(text, Side::kBoth);
  return Value(std::string(stripped), is_markup(input));
}

Value filter_replace(const Value& input, const Arguments& arguments) {
  const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
  const Int count = bound.given(2) ? bound.integer(2, -1) : -1;
  return Value(replace_text(to_string(input), to_string(*bound[0]), to_string(*bound[1]), count));
}

Value filter_tojson(const Value& input, const Arguments& arguments) {
  const Bound bound("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.truthy(0);
  style.sort_keys = bound.truthy(3);
  if (bound.given(1)) {
    const Int width = std::max<Int>(0, bound.integer(1, 0));
    if (width > 100) fail("tojson: indent {} is too large", width);
    style.indent = std::string(static_cast<std::size_t>(width), ' ');
    style.item_separator = ",";
  }
  if (bound.given(2)) {
    const std::vector<Value> separators = iterate(*bound[2]);
    if (separators.size() != 2 || !separators[0].is_text() || !separators[1].is_text()) {
      fail("tojson: separators must be two texts");
    }
    style.item_separator = *separators[0].text();
    style.key_separator = *separators[1].text();
  }
  return Value(to_json(input, style));
}

Value filter_safe(const Value& input, const Arguments& arguments) {
  const Bound bound("safe", arguments, {});
  return Value(to_string(input), true);
}

Value filter_default(const Value& input, const Arguments& arguments) {
  const Bound bound("default", arguments, {"default_value", "boolean"});
  if (!input.is_undefined() && (!bound.truthy(1) || input.truthy())) return input;
  return bound.has(0) ? *bound[0] : Value(std::string());
}

Value filter_length(const Value& input, const Arguments& arguments) {
  const Bound bound("length", arguments, {});
  return Value::size(length(input));
}

Value filter_int(const Value& input, const Arguments& arguments) {
  const Bound bound("int", arguments, {"default"});
  if (const Undefined* undefined = input.get<Undefined>()) fail("{}", undefined->reason());
  if (input.is_integral()) return Value(input.integer());
  std::optional<double> real;
  if (const double* held = input.get<double>()) real = *held;
  if (const std::string* text = input.text()) {
    if (const auto value = parse_int(*text)) return Value(*value);
    real = parse_float(*text);
  }
  if (!real || std::isnan(*real)) return bound.has(0) ? *bound[0] : Value(Int{0});
  if (std::fabs(*real) > 1e37) fail("integer overflow: {}", *real);
  return Value(static_cast<Int>(*real));
}

constexpr FilterEntry kFilters[] = {
    {"count", filter_length},    {"d", filter_default},     {"default", filter_default},
    {"int", filter_int},         {"length", filter_length}, {"lower", filter_map_text<to_lower>},
    {"replace", filter_replace}, {"safe", filter_safe},     {"string", filter_string},
    {"tojson", filter_tojson},   {"trim", filter_trim},     {"upper", filter_map_text<to_upper>},
};

// Jinja has these too; no template of the supported families uses them.
constexpr std::string_view kLeftOut[] = {
    "abs",    "attr",    "batch",    "capitalize", "center", "e",         "escape",   "filesizeformat", "float",
    "format", "groupby", "indent",   "pprint",     "random", "reverse",   "round",    "slice",          "striptags",
    "sum",    "title",   "truncate", "urlencode",  "urlize", "wordcount", "wordwrap", "xmlattr",
};

}  // namespace

const FilterEntry* find_filter(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                   [&](const FilterEntry& entry) { return entry.name == name; });
  return found != std::end(kFilters) ? found : find_sequence_filter(name);
}

std::string no_such_filter(std::string_view name) {
  const bool known = std::find(std::begin(kLeftOut), std::end(kLeftOut), name) != std::end(kLeftOut);
  return known ? fmt::format("the filter '{}' of Jinja is not supported", name)
               : fmt::format("No filter named '{}'.", name);
}

}  // namespace baton::jinja
