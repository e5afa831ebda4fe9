#include "model/json_fields.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

namespace baton::model {

namespace json = boost::json;

namespace {

// A value for a message, on one line and not too long.
std::string shown(const json::value& value) {
  constexpr size_t kShown = 80;
  std::string text = json::serialize(value);
  if (text.size() <= kShown) return text;
  size_t end = kShown;
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not within a UTF-8 character
  return text.substr(0, end) + "...";
}

bool is_printable(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

}  // namespace

bool file_exists(const std::string& path) {
  std::error_code failure;
  return std::filesystem::exists(std::filesystem::symlink_status(path, failure));
}

Result<json::object> read_json_object(const std::string& path, size_t bytes_max) {
  std::error_code failure;
  const std::filesystem::file_status status = std::filesystem::status(path, failure);
  if (!std::filesystem::exists(status)) return error(ErrorCode::kNotFound, "cannot read {}", path);
  // Reading a pipe would wait for a writer.
  if (!std::filesystem::is_regular_file(status)) return error(ErrorCode::kCorrupt, "{}: not a regular file", path);
  const std::uintmax_t size = std::filesystem::file_size(path, failure);
  if (failure) return error(ErrorCode::kNotFound, "cannot read {}: {}", path, failure.message());
  if (size > bytes_max) return error(ErrorCode::kCorrupt, "{}: {} bytes, at most {} are read", path, size, bytes_max);
  std::string text(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(text.data(), static_cast<std::streamsize>(size))) {
    return error(ErrorCode::kNotFound, "cannot read the {} bytes of {}", size, path);
  }
  boost::system::error_code code;
  json::value root = json::parse(text, code);
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
  fail(error(ErrorCode::kCorrupt, "{}: {} is {}, must be {}", where_, name, shown(value), wanted));
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
  if (!value->is_string() || value->get_string().size() > kTextMax || !is_printable(value->get_string())) {
    fail_field(name, *value, fmt::format("a string of at most {} printable characters", kTextMax));
    return std::string(fallback);
  }
  return std::string(value->get_string());
}

std::vector<double> JsonFields::numbers_between(std::string_view name, double low, double high, size_t count_max) {
  const json::value* value = find(name);
  if (value == nullptr) {
    fail(error(ErrorCode::kCorrupt, "{}: {} is missing", where_, name));
    return {};
  }
  const json::array* list = value->if_array();
  std::vector<double> found;
  if (list != nullptr && list->size() <= count_max) {
    for (const json::value& item : *list) {
      const double read = item.is_number() ? item.to_number<double>() : std::numeric_limits<double>::quiet_NaN();
      if (read >= low && read <= high) found.push_back(read);
    }
    if (found.size() == list->size()) return found;
  }
  fail_field(name, *value, fmt::format("a list of at most {} numbers from {} to {}", count_max, low, high));
  return {};
}

std::vector<int64_t> JsonFields::numbers(std::string_view name, size_t count_max) {
  const json::value* value = find(name);
  std::vector<int64_t> found;
  if (value == nullptr) return found;
  const json::value* items = value;
  size_t count = 1;
  if (const json::array* list = value->if_array()) {
    items = list->data();
    count = list->size();
  }
  if (count > count_max) {
    fail(error(ErrorCode::kCorrupt, "{}: {} has {} entries, at most {} are read", where_, name, count, count_max));
    return found;
  }
  for (size_t i = 0; i < count; ++i) {
    if (!items[i].is_int64()) {
      fail_field(name, *value, "a whole number or a list of them");
      return {};
    }
    found.push_back(items[i].get_int64());
  }
  return found;
}

std::vector<int32_t> JsonFields::ids(std::string_view name, size_t count_max) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  std::vector<int32_t> found;
  for (const int64_t id : numbers(name, count_max)) {
    if (id < 0 || id > kMax) {
      fail_field(name, *find(name), fmt::format("a number from 0 to {} or a list of them", kMax));
      return {};
    }
    found.push_back(static_cast<int32_t>(id));
  }
  return found;
}

std::vector<int32_t> JsonFields::token_ids(std::string_view name, int vocab, std::vector<std::string>& warnings) {
  std::vector<int32_t> found;
  std::vector<int64_t> unknown;
  for (const int64_t id : numbers(name, kIdsMax)) {
    if (id >= 0 && id < vocab) {
      found.push_back(static_cast<int32_t>(id));
    } else {
      unknown.push_back(id);
    }
  }
  if (unknown.empty()) return found;
  warnings.push_back(
      fmt::format("{}: {} has {}{}, but ids go from 0 to {} (vocab_size {}): ignored", where_, name, unknown.front(),
                  unknown.size() > 1 ? fmt::format(" and {} more", unknown.size() - 1) : "", vocab - 1, vocab));
  return found;
}

}  // namespace baton::model
