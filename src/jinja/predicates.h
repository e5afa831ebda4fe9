// The tests of a template: what stands behind `is`.
#pragma once

#include <string_view>

#include "jinja/runtime.h"

namespace baton::jinja {

struct PredicateEntry {
  std::string_view name;
  bool (*run)(Runtime& runtime, const Value& value, const Arguments& arguments);
};

// nullptr: there is no such test.
[[nodiscard]] const PredicateEntry* find_predicate(std::string_view name);

}  // namespace baton::jinja
