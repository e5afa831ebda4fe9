// The values of a template: Python's none, bool, int, float, str, list, tuple, dict, and the few objects a template can
// hold.
//
// Containers are immutable once made (the sandbox of the reference forbids append, update and the like), so values
// share them freely between threads. Namespaces and generators are the only mutable objects; they belong to one
// rendering.
//
// What makes or walks over values charges its work (meter.h).
//
// Errors inside the engine are thrown as Failure and turned into Result at the border (text/chat_template.h).
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace baton::jinja {

// Thrown for every error of a template. The line is added where it is caught.
struct Failure {
  std::string message;
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{fmt::format(format, std::forward<Args>(args)...)};
}

// Wide enough for every 64-bit JSON number; Python's own integers have no bound, ours fail with "integer overflow".
using Int = __int128;

// Containers nest at most this deep, so that walking or destroying a value cannot exhaust the stack.
inline constexpr int kNestingMax = 200;

class Value;
class Dict;
class Object;

// A name, attribute or item that is not there. Printing it gives "", most other uses fail with the reason.
struct Undefined {
  enum class Why : std::uint8_t { kName, kMember, kReason };
  Why why = Why::kReason;
  const char* holder = nullptr;             // kMember: the type it was looked up in
  std::shared_ptr<const std::string> text;  // the name, or the reason
  [[nodiscard]] std::string reason() const;
};

struct None {};

struct Text {
  std::shared_ptr<const std::string> bytes;  // UTF-8
  bool markup = false;                       // made by |safe or |escape: + escapes what is joined to it
};

struct Items {
  std::vector<Value> items;
  int depth = 1;
};

struct List {
  std::shared_ptr<const Items> sequence;
};

struct Tuple {
  std::shared_ptr<const Items> sequence;
};

class Value {
 public:
  using State = std::variant<Undefined, None, bool, Int, double, Text, List, Tuple, std::shared_ptr<const Dict>,
                             std::shared_ptr<Object>>;

  Value() : state_(None{}) {}
  explicit Value(bool value) : state_(value) {}
  explicit Value(Int value) : state_(value) {}
  explicit Value(double value) : state_(value) {}
  explicit Value(Undefined value) : state_(std::move(value)) {}
  explicit Value(Text value) : state_(std::move(value)) {}
  explicit Value(std::string value, bool markup = false);  // fails when the text is too large
  explicit Value(std::shared_ptr<const Dict> value) : state_(std::move(value)) {}
  explicit Value(std::shared_ptr<Object> value) : state_(std::move(value)) {}
  explicit Value(const char*) = delete;  // would be a bool

  // Fail when the nesting becomes too deep.
  [[nodiscard]] static Value list(std::vector<Value> items);
  [[nodiscard]] static Value tuple(std::vector<Value> items);
  [[nodiscard]] static Value undefined(std::string reason);
  [[nodiscard]] static Value size(std::size_t n) { return Value(static_cast<Int>(n)); }

  template <typename T>
  [[nodiscard]] const T* get() const {
    return std::get_if<T>(&state_);
  }
  [[nodiscard]] bool is_undefined() const { return get<Undefined>() != nullptr; }
  [[nodiscard]] bool is_none() const { return get<None>() != nullptr; }
  [[nodiscard]] bool is_text() const { return get<Text>() != nullptr; }
  [[nodiscard]] bool is_integral() const { return get<Int>() != nullptr || get<bool>() != nullptr; }
  [[nodiscard]] bool is_number() const { return is_integral() || get<double>() != nullptr; }

  // nullptr unless it is that.
  [[nodiscard]] const std::string* text() const;
  [[nodiscard]] const std::vector<Value>* items() const;  // of a list or tuple
  [[nodiscard]] const Dict* dict() const;
  template <typename T>
  [[nodiscard]] T* object() const;  // an Object of that class

  // The value of an int or a bool. Requires is_integral().
  [[nodiscard]] Int integer() const;
  // The value of any number. Requires is_number().
  [[nodiscard]] double real() const;

  [[nodiscard]] bool truthy() const;
  [[nodiscard]] const char* type_name() const;  // as Python says it: "str", "list", "NoneType"
  [[nodiscard]] int depth() const;

 private:
  State state_;
};

// An ordered dictionary with any hashable key. Built once, then shared.
class Dict {
 public:
  using Entry = std::pair<Value, Value>;

  // Fail when the key is not hashable or the nesting becomes too deep. A second set() of a key keeps its place.
  void set(Value key, Value value);
  void set(std::string key, Value value) { set(Value(std::move(key)), std::move(value)); }

  [[nodiscard]] const Value* find(const Value& key) const;  // fails when the key is not hashable
  [[nodiscard]] const Value* find(std::string_view key) const;
  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }
  [[nodiscard]] int depth() const { return depth_; }

 private:
  template <typename Equal>
  [[nodiscard]] const Entry* find_entry(std::size_t hash, Equal equal) const;

  std::vector<Entry> entries_;
  std::vector<std::size_t> hashes_;                                // of the keys
  std::unordered_multimap<std::size_t, std::uint32_t> positions_;  // filled beyond kLinearMax entries
  int depth_ = 1;
};

// Base of everything else a template can hold.
class Object {
 public:
  virtual ~Object() = default;
  [[nodiscard]] virtual const char* type_name() const = 0;
  [[nodiscard]] virtual std::string repr() const = 0;
  // What object.name is, if the object has it.
  [[nodiscard]] virtual std::optional<Value> attribute(std::string_view) { return std::nullopt; }
  // Of the values it holds for as long as it lives (Value::depth).
  [[nodiscard]] virtual int depth() const { return 0; }
};

struct Range final : Object {
  Int start = 0;
  Int stop = 0;
  Int step = 1;
  [[nodiscard]] Int length() const;
  [[nodiscard]] Int at(Int index) const { return start + index * step; }
  [[nodiscard]] const char* type_name() const override { return "range"; }
  [[nodiscard]] std::string repr() const override;
};

// keys(), values() or items() of a dictionary.
struct DictView final : Object {
  enum class Part : std::uint8_t { kKeys, kValues, kItems };
  std::shared_ptr<const Dict> dict;
  Part part = Part::kKeys;
  [[nodiscard]] std::vector<Value> items() const;
  [[nodiscard]] int depth() const override { return dict->depth() + 1; }
  [[nodiscard]] const char* type_name() const override;
  [[nodiscard]] std::string repr() const override;
};

// What select, map and the like return: can be walked once.
struct Generator final : Object {
  explicit Generator(std::vector<Value> all);  // fails when the nesting becomes too deep
  const std::vector<Value> items;
  std::size_t position = 0;
  const int nesting;
  [[nodiscard]] int depth() const override { return nesting; }
  [[nodiscard]] std::vector<Value> take_rest();
  [[nodiscard]] const char* type_name() const override { return "generator"; }
  [[nodiscard]] std::string repr() const override { return "<generator object>"; }
};

// namespace(): the one thing a template can assign into.
// Its owner must empty it in the end, since it can hold itself.
struct Namespace final : Object {
  std::vector<std::pair<std::string, Value>> attributes;
  void set(std::string_view name, Value value);
  [[nodiscard]] std::optional<Value> attribute(std::string_view name) override;
  [[nodiscard]] const char* type_name() const override { return "Namespace"; }
  [[nodiscard]] std::string repr() const override;
};

template <typename T>
T* Value::object() const {
  const auto* held = get<std::shared_ptr<Object>>();
  return held == nullptr ? nullptr : dynamic_cast<T*>(held->get());
}

// Fails for lists, dictionaries and mutable objects. Equal values have equal hashes (1 == 1.0 == true).
[[nodiscard]] std::size_t hash_value(const Value& value);
[[nodiscard]] bool equal(const Value& a, const Value& b);
// a < b; fails when Python would not compare them.
[[nodiscard]] bool less(const Value& a, const Value& b, const char* sign = "<");

}  // namespace baton::jinja
