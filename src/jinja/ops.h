// The operators of a template, with Python's meaning and the sandbox's limits.
#pragma once

#include <vector>

#include "jinja/ast.h"
#include "jinja/runtime.h"

namespace baton::jinja {

// object.name: an attribute or method first, then an item; Undefined when there is none. `name` is a text.
[[nodiscard]] Value get_attribute(const Value& object, const Value& name);
// object[key]: an item first, then an attribute.
[[nodiscard]] Value get_item(const Value& object, const Value& key);
// object[start:stop:step]; none is "not given".
[[nodiscard]] Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step);

[[nodiscard]] Value apply_unary(Sign sign, const Value& operand);
[[nodiscard]] Value apply_binary(Sign sign, const Value& left, const Value& right);
[[nodiscard]] bool compare(Sign sign, const Value& left, const Value& right);
[[nodiscard]] bool contains(const Value& container, const Value& item);

// All elements: of containers, the characters of a text, the keys of a dictionary. Uses up a generator.
[[nodiscard]] std::vector<Value> iterate(const Value& value);
[[nodiscard]] std::size_t length(const Value& value);  // len()
[[nodiscard]] bool has_length(const Value& value);
[[nodiscard]] bool is_iterable(const Value& value);
[[nodiscard]] Value call(Runtime& runtime, const Value& callee, const Arguments& arguments);

}  // namespace baton::jinja
