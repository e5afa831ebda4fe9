// The arithmetic of numbers, with Python's meaning. Fails for a division by zero and for what 127 bits do not hold.
#pragma once

#include "jinja/ast.h"
#include "jinja/value.h"

namespace baton::jinja {

[[nodiscard]] const char* sign_text(Sign sign);
[[nodiscard]] Value integer_arithmetic(Sign sign, Int a, Int b);
[[nodiscard]] Value real_arithmetic(Sign sign, double a, double b);

}  // namespace baton::jinja
