// The tests of a template: what stands behind `is`.
#pragma once

#include <string>
#include <string_view>

#include "jinja/runtime.h"

namespace baton::jinja {

struct PredicateEntry {
  std::string_view name;
  bool (*run)(const Value& value, const Arguments& arguments);
};

// nullptr: there is no such test; no_such_test() says whether Jinja has it.
[[nodiscard]] const PredicateEntry* find_predicate(std::string_view name);
[[nodiscard]] std::string no_such_test(std::string_view name);

}  // namespace baton::jinja
