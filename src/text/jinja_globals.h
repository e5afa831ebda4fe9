// The functions every template finds: range, dict, namespace, raise_exception, strftime_now.
#pragma once

#include <optional>
#include <string_view>

#include "text/jinja_interpreter.h"

namespace baton::jinja {

[[nodiscard]] std::optional<Value> find_global(std::string_view name);

}  // namespace baton::jinja
