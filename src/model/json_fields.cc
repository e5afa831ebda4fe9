#include "model/json_fields.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

namespace baton {

namespace json = boost::json;

Result<json::object> read_json_object(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return error(ErrorCode::kNotFound, "cannot read {}", path);
  std::ostringstream text;
  text << file.rdbuf();
  boost::system::error_code code;
  json::value root = json::parse(text.str(), code);
  if (code) return error(ErrorCode::kCorrupt, "{}: not JSON: {}", path, code.message());
  if (!root.is_object()) return error(ErrorCode::kCorrupt, "{}: the root is not an object", path);
  return std::move(root.as_object());
}

const json::value* JsonFields::find(std::string_view name) const {
  const json::value* value = object_.if_contains(name);
  return value == nullptr || value->is_null() ? nullptr : value;
}

const json::value* JsonFields::find_any(std::initializer_list<std::string_view> names) const {
  for (const std::string_view name : names) {
    if (const json::value* value = find(name)) return value;
  }
  return nullptr;
}

void JsonFields::fail_field(std::string_view name, const json::value& value, std::string_view wanted) {
  std::string shown = json::serialize(value);
  if (shown.size() > 80) shown = shown.substr(0, 80) + "...";
  fail(error(ErrorCode::kCorrupt, "{}: {} is {}, must be {}", where_, name, shown, wanted));
}

int64_t JsonFields::integer(std::string_view name, int64_t low, int64_t high, std::optional<int64_t> fallback) {
  const json::value* value = find(name);
  if (value == nullptr) {
    if (!fallback) fail(error(ErrorCode::kCorrupt, "{}: {} is missing", where_, name));
    return fallback.value_or(low);
  }
  std::optional<int64_t> read;
  if (value->is_int64()) read = value->get_int64();
  // Some writers store whole numbers as 64.0.
  if (value->is_double() && std::abs(value->get_double()) < 1e15) {
    const auto whole = static_cast<int64_t>(value->get_double());
    if (static_cast<double>(whole) == value->get_double()) read = whole;
  }
  if (!read || *read < low || *read > high) {
    fail_field(name, *value, fmt::format("a whole number from {} to {}", low, high));
    return low;
  }
  return *read;
}

double JsonFields::number(std::string_view name, double low, double high, std::optional<double> fallback) {
  const json::value* value = find(name);
  if (value == nullptr) {
    if (!fallback) fail(error(ErrorCode::kCorrupt, "{}: {} is missing", where_, name));
    return fallback.value_or(low);
  }
  const double read = value->is_number() ? value->to_number<double>() : std::numeric_limits<double>::quiet_NaN();
  if (!(read >= low && read <= high)) {
    fail_field(name, *value, fmt::format("a number from {} to {}", low, high));
    return low;
  }
  return read;
}

bool JsonFields::boolean(std::string_view name, bool fallback) {
  const json::value* value = find(name);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) {
    fail_field(name, *value, "true or false");
    return fallback;
  }
  return value->get_bool();
}

std::string JsonFields::text(std::string_view name, std::string_view fallback) {
  const json::value* value = find(name);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) {
    fail_field(name, *value, "a string");
    return std::string(fallback);
  }
  return std::string(value->get_string());
}

std::vector<int32_t> JsonFields::ids(std::string_view name) {
  const json::value* value = find(name);
  std::vector<int32_t> found;
  if (value == nullptr) return found;
  const auto add = [&](const json::value& v) {
    if (!v.is_int64() || v.get_int64() < 0 || v.get_int64() > std::numeric_limits<int32_t>::max()) {
      return fail_field(name, *value, "a token id or a list of them");
    }
    found.push_back(static_cast<int32_t>(v.get_int64()));
  };
  if (value->is_array()) {
    for (const json::value& v : value->get_array()) add(v);
  } else {
    add(*value);
  }
  return found;
}

}  // namespace baton
