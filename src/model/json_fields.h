// Reads fields of a JSON object that people and tools wrote: null counts as absent, and the first bad field is
// remembered.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::model {

// A tree takes up to thirty times the bytes of its text. Published config.json have up to 200 kB.
inline constexpr size_t kConfigBytesMax = size_t{4} << 20;

// The content of a regular file of at most bytes_max that is JSON with an object at its root. kNotFound, kCorrupt.
Result<boost::json::object> read_json_object(const std::string& path, size_t bytes_max = kConfigBytesMax);
// Whether something has that name, be it readable or not.
[[nodiscard]] bool file_exists(const std::string& path);

// Borrows the object. After a bad field every getter still returns something in range; status() has the first error,
// which names the file, the field and its value.
class JsonFields {
 public:
  JsonFields(const boost::json::object& object, std::string where) : object_(object), where_(std::move(where)) {}

  // Null if absent or null.
  [[nodiscard]] const boost::json::value* find(std::string_view name) const;
  // First of the names that is there.
  [[nodiscard]] const boost::json::value* find_any(std::initializer_list<std::string_view> names) const;

  // In [low, high]. Without a fallback the field is required.
  int64_t integer(std::string_view name, int64_t low, int64_t high, std::optional<int64_t> fallback = {});
  int count(std::string_view name, int low, int high, std::optional<int> fallback = {}) {
    return static_cast<int>(integer(name, low, high, fallback));
  }
  double number(std::string_view name, double low, double high, std::optional<double> fallback = {});
  bool boolean(std::string_view name, bool fallback);
  // At most kTextMax bytes, all of them printable.
  std::string text(std::string_view name, std::string_view fallback);
  // A list of at most count_max numbers, each in [low, high]. Required.
  std::vector<double> numbers_between(std::string_view name, double low, double high, size_t count_max);
  // A number or a list of at most count_max numbers; empty if absent.
  std::vector<int32_t> ids(std::string_view name, size_t count_max = kIdsMax);
  // The same, of tokens. Those that the vocabulary does not have are left out, which `warnings` is told: published
  // configs name tokens of the tokenizer that their checkpoint was cut from.
  std::vector<int32_t> token_ids(std::string_view name, int vocab, std::vector<std::string>& warnings);

  void fail(Error failure) {
    if (!failure_) failure_ = std::move(failure);
  }
  [[nodiscard]] Status status() const {
    if (failure_) return *failure_;
    return {};
  }
  [[nodiscard]] const std::string& where() const { return where_; }
  // Fails with "WHERE: NAME is VALUE, must be WANTED".
  void fail_field(std::string_view name, const boost::json::value& value, std::string_view wanted);

 private:
  static constexpr size_t kTextMax = 128;
  static constexpr size_t kIdsMax = 4096;
  // The whole numbers of a field, whatever their size.
  std::vector<int64_t> numbers(std::string_view name, size_t count_max);
  const boost::json::object& object_;
  std::string where_;
  std::optional<Error> failure_;
};

}  // namespace baton::model
