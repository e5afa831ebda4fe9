// The functions every template finds: range, dict, namespace, raise_exception, strftime_now.
#pragma once

#include <optional>
#include <string_view>

#include "jinja/interpreter.h"

namespace baton::jinja {

[[nodiscard]] std::optional<Value> find_global(std::string_view name);

}  // namespace baton::jinja
