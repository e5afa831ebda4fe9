// Template text to syntax tree. Throws SyntaxFailure (lexer.h).
#pragma once

#include <string_view>

#include "jinja/ast.h"

namespace baton::jinja {

inline constexpr std::size_t kSourceBytesMax = 1 << 20;
inline constexpr int kParseDepthMax = 200;         // of nested brackets and blocks
inline constexpr std::size_t kArgumentsMax = 255;  // of a call or macro: they are searched one by one
inline constexpr int kTreeDepthMax = 400;          // of an expression's tree, which a chain of operators deepens too

[[nodiscard]] Template parse_template(std::string_view source);

}  // namespace baton::jinja
