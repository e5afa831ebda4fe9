#include "http/json.h"

#include <cmath>
#include <limits>

namespace baton::http {
namespace json = boost::json;

const json::value* find_field(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<std::optional<bool>> bool_field(const json::object& object, std::string_view name) {
  const json::value* value = find_field(object, name);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_bool()) return error(ErrorCode::kInvalidArgument, "{}: must be true or false", name);
  return std::optional<bool>(value->as_bool());
}

Result<std::optional<double>> number_field(const json::object& object, std::string_view name, double min, double max,
                                           bool above_min) {
  const json::value* value = find_field(object, name);
  if (value == nullptr) return std::optional<double>();
  const std::string range = fmt::format("{}{}, {}{}", above_min ? '(' : '[', min, max, std::isinf(max) ? ')' : ']');
  if (!value->is_number()) return error(ErrorCode::kInvalidArgument, "{}: must be a number in {}", name, range);
  const double number = value->to_number<double>();
  if (!(number >= min && number <= max) || (above_min && number == min) || std::isinf(number))
    return error(ErrorCode::kInvalidArgument, "{}: {} is not in {}", name, number, range);
  return std::optional<double>(number);
}

Result<std::optional<int64_t>> int_field(const json::object& object, std::string_view name, int64_t min, int64_t max) {
  const json::value* value = find_field(object, name);
  if (value == nullptr) return std::optional<int64_t>();
  int64_t number = 0;
  if (value->is_int64()) {
    number = value->as_int64();
  } else if (value->is_uint64()) {
    number = std::numeric_limits<int64_t>::max();  // uint64 here means over int64's range
    if (value->as_uint64() > static_cast<uint64_t>(number)) {
      return error(ErrorCode::kInvalidArgument, "{}: {} is not in [{}, {}]", name, value->as_uint64(), min, max);
    }
  } else if (value->is_double() && std::nearbyint(value->as_double()) == value->as_double() &&
             std::abs(value->as_double()) < 9e15) {
    number = static_cast<int64_t>(value->as_double());
  } else {
    return error(ErrorCode::kInvalidArgument, "{}: must be an integer in [{}, {}]", name, min, max);
  }
  if (number < min || number > max)
    return error(ErrorCode::kInvalidArgument, "{}: {} is not in [{}, {}]", name, number, min, max);
  return std::optional<int64_t>(number);
}

Result<std::optional<std::string>> string_field(const json::object& object, std::string_view name) {
  const json::value* value = find_field(object, name);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return error(ErrorCode::kInvalidArgument, "{}: must be a string", name);
  return std::optional<std::string>(std::string(value->as_string()));
}

Result<std::vector<std::string>> strings_field(const json::object& object, std::string_view name, size_t count_max) {
  std::vector<std::string> strings;
  const json::value* value = find_field(object, name);
  if (value == nullptr) return strings;
  if (value->is_string()) {
    strings.emplace_back(value->as_string());
    return strings;
  }
  if (!value->is_array()) return error(ErrorCode::kInvalidArgument, "{}: must be a string or a list of strings", name);
  if (value->as_array().size() > count_max) {
    return error(ErrorCode::kInvalidArgument, "{}: {} entries; at most {} are allowed", name, value->as_array().size(),
                 count_max);
  }
  for (const json::value& entry : value->as_array()) {
    if (!entry.is_string())
      return error(ErrorCode::kInvalidArgument, "{}: must be a string or a list of strings", name);
    strings.emplace_back(entry.as_string());
  }
  return strings;
}

Result<std::vector<int32_t>> ids_from(const json::value& value, std::string_view name) {
  if (!value.is_array()) return error(ErrorCode::kInvalidArgument, "{}: must be a list of token ids", name);
  std::vector<int32_t> ids;
  ids.reserve(value.as_array().size());
  for (const json::value& entry : value.as_array()) {
    if (!entry.is_int64() || entry.as_int64() < 0 || entry.as_int64() > std::numeric_limits<int32_t>::max()) {
      return error(ErrorCode::kInvalidArgument, "{}: entry {} is not a token id, an integer greater than or equal to 0",
                   name, ids.size());
    }
    ids.push_back(static_cast<int32_t>(entry.as_int64()));
  }
  return ids;
}

namespace {

// No fewer than the values and names of the document; of text that is not JSON, than those before its first fault.
size_t count_values(std::string_view text) {
  size_t count = 1;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      quoted = !quoted;
    } else if (quoted) {
      i += c == '\\';
    } else {
      count += c == ',' || c == ':' || c == '[' || c == '{';
    }
  }
  return count;
}

}  // namespace

Result<json::object> parse_object(std::string_view text) {
  if (const size_t values = count_values(text); values > kJsonValuesMax) {
    return error(ErrorCode::kInvalidArgument, "the body has {} JSON values; at most {} are allowed", values,
                 kJsonValuesMax);
  }
  json::parse_options options;
  options.max_depth = kJsonDepthMax;
  json::stream_parser parser(json::storage_ptr(), options);
  boost::system::error_code failed;
  const size_t read = parser.write_some(text.data(), text.size(), failed);
  if (!failed) parser.finish(failed);
  if (failed)
    return error(ErrorCode::kInvalidArgument, "the body is not JSON: {} at byte {} of {}", failed.message(), read,
                 text.size());
  for (const char rest : text.substr(read)) {
    if (rest != ' ' && rest != '\n' && rest != '\r' && rest != '\t') {
      return error(ErrorCode::kInvalidArgument, "the body goes on after its JSON value at byte {}", read);
    }
  }
  json::value value = parser.release();
  if (!value.is_object()) return error(ErrorCode::kInvalidArgument, "the body must be a JSON object");
  return std::move(value.as_object());
}

void append_json_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += kHex[static_cast<unsigned char>(c) >> 4];
          out += kHex[static_cast<unsigned char>(c) & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

std::string json_string(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

}  // namespace baton::http
