// What one rendering carries besides its variables: the bounds on its work, and how functions receive arguments.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jinja/limits.h"
#include "jinja/value.h"

namespace baton::jinja {

// Counts the work of one rendering. Not thread safe. Every function fails when its bound is passed.
class Runtime {
 public:
  explicit Runtime(const RenderLimits& limits) : limits_(limits) {}

  void step(std::size_t count = 1);
  // Values copied into a new container.
  void charge_items(std::size_t count) { step(count / 4 + 1); }
  // An operation that may read all of a value.
  void charge_read(const Value& value);
  // A new text of that size.
  void charge_bytes(std::size_t bytes);
  [[nodiscard]] Value text(std::string bytes, bool markup = false);
  void enter();
  void leave() { --depth_; }
  [[nodiscard]] const RenderLimits& limits() const { return limits_; }

 private:
  const RenderLimits limits_;
  std::size_t steps_ = 0;
  int depth_ = 0;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keyword;
};

// Arguments sorted into the named parameters of a function: one pointer each, nullptr where not given.
class Bound {
 public:
  // The first `required` parameters must be given. Parameter names that start with '/' cannot be given by name.
  Bound(std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> names,
        std::size_t required = 0);

  [[nodiscard]] const Value* operator[](std::size_t i) const { return values_[i]; }
  [[nodiscard]] bool has(std::size_t i) const { return values_[i] != nullptr; }
  [[nodiscard]] bool given(std::size_t i) const { return has(i) && !values_[i]->is_none(); }  // and is not none
  [[nodiscard]] bool truthy(std::size_t i, bool otherwise = false) const {
    return has(i) ? values_[i]->truthy() : otherwise;
  }
  [[nodiscard]] Int integer(std::size_t i, Int otherwise) const;
  [[nodiscard]] const std::string& text(std::size_t i) const;  // fails unless it is a text

 private:
  std::string_view function_;
  std::vector<const Value*> values_;
};

// Anything a template can call.
struct Function : Object {
  [[nodiscard]] virtual Value call(Runtime& runtime, const Arguments& arguments) = 0;
};

}  // namespace baton::jinja
