// Splits a template into data and the tokens of its tags, with the white space rules of trim_blocks and lstrip_blocks
// on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "jinja/value.h"

namespace baton::jinja {

enum class TokenKind : std::uint8_t {
  kData,           // text between tags: Token::text
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,      // text
  kString,    // text, unescaped
  kInteger,   // number
  kFloat,     // number
  kOperator,  // text: "+", "//", "(", ...
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;
  Value number;

  [[nodiscard]] bool is_name(std::string_view name) const { return kind == TokenKind::kName && text == name; }
  [[nodiscard]] bool is_operator(std::string_view sign) const { return kind == TokenKind::kOperator && text == sign; }
};

// Failure of the template's text at a line.
struct SyntaxFailure {
  int line = 1;
  std::string message;
};

// The tokens, the last one kEnd. Throws SyntaxFailure.
[[nodiscard]] std::vector<Token> tokenize(std::string_view source);

}  // namespace baton::jinja
