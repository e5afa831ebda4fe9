// Reading request fields out of JSON: null is the same as absent, and a wrong one is named with its range.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::http {

// The value of a field, or null if it is absent or null.
[[nodiscard]] const boost::json::value* find_field(const boost::json::object& object, std::string_view name);

Result<std::optional<bool>> bool_field(const boost::json::object& object, std::string_view name);
// Integers may be written 3.0. Outside [min, max]: "temperature: 3 is not in [0, 2]".
Result<std::optional<int64_t>> int_field(const boost::json::object& object, std::string_view name, int64_t min,
                                         int64_t max);
// In [min, max]; with `above_min` in (min, max]. A max of infinity admits every finite number.
Result<std::optional<double>> number_field(const boost::json::object& object, std::string_view name, double min,
                                           double max, bool above_min = false);
Result<std::optional<std::string>> string_field(const boost::json::object& object, std::string_view name);
// A string, or a list of at most `count_max` of them.
Result<std::vector<std::string>> strings_field(const boost::json::object& object, std::string_view name,
                                               size_t count_max);
Result<std::vector<int32_t>> ids_from(const boost::json::value& value, std::string_view name);

// Each value of a document takes some 24 bytes once it is parsed, and two of text suffice for one. Twice the longest
// contexts, as a list of ids.
inline constexpr size_t kJsonValuesMax = 2 << 20;
inline constexpr size_t kJsonDepthMax = 64;

// A whole document that must be an object; says where it breaks. At most kJsonValuesMax values (names count too),
// kJsonDepthMax deep.
Result<boost::json::object> parse_object(std::string_view text);

// Appends `text` (valid UTF-8) as a JSON string with its quotes.
void append_json_string(std::string& out, std::string_view text);
[[nodiscard]] std::string json_string(std::string_view text);

}  // namespace baton::http
