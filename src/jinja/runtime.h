// What one rendering carries besides its variables: the depth of its calls, and how functions receive arguments.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jinja/limits.h"
#include "jinja/meter.h"
#include "jinja/value.h"

namespace baton::jinja {

// Not thread safe.
class Runtime {
 public:
  explicit Runtime(const RenderLimits& limits) : limits_(limits) {}

  // A level of calls or nested expressions; fails when there are too many.
  void enter();
  void leave() { --depth_; }
  [[nodiscard]] const RenderLimits& limits() const { return limits_; }

 private:
  const RenderLimits& limits_;
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
