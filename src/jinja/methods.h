// The methods of str and dict that a template can call.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "jinja/runtime.h"

namespace baton::jinja {

// receiver.name as a bound method; an Undefined that says why if the sandbox forbids it (a list's append, for example)
// or it is left out here; nothing if the type has no such method.
[[nodiscard]] std::optional<Value> find_method(const Value& receiver, std::string_view name);

// str.replace(); a negative count replaces all. An empty `old` stands between all characters.
[[nodiscard]] std::string replace_text(std::string_view text, std::string_view old, std::string_view replacement,
                                       Int count);

}  // namespace baton::jinja
