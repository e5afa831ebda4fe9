// The tokens and the nodes; the grammar is in expr_operators.cc and expr_operands.cc.
#include "jinja/expr_parser.h"

#include <algorithm>

#include "jinja/parser.h"

namespace baton::jinja {

ExprParser::Nest::Nest(ExprParser& parser) : parser_(parser) {
  if (++parser_.depth_ > kParseDepthMax) {
    --parser_.depth_;
    parser_.fail_here(fmt::format("nested deeper than {} levels", kParseDepthMax));
  }
}

Token ExprParser::next() {
  Token token = current();
  if (token.kind != TokenKind::kEnd) ++at_;
  return token;
}

bool ExprParser::skip_name(std::string_view name) {
  const bool found = current().is_name(name);
  if (found) ++at_;
  return found;
}

bool ExprParser::skip_operator(std::string_view sign) {
  const bool found = current().is_operator(sign);
  if (found) ++at_;
  return found;
}

void ExprParser::expect_operator(std::string_view sign) {
  if (!skip_operator(sign)) fail_here(fmt::format("expected token '{}', got {}", sign, describe(current())));
}

void ExprParser::expect(TokenKind kind) {
  Token wanted;
  wanted.kind = kind;
  if (current().kind != kind) fail_here(fmt::format("expected {}, got {}", describe(wanted), describe(current())));
  if (kind != TokenKind::kEnd) ++at_;
}

std::string ExprParser::expect_name() {
  if (current().kind != TokenKind::kName) fail_here(fmt::format("expected a name, got {}", describe(current())));
  return next().text;
}

void ExprParser::fail_at(int line, std::string message) const { throw SyntaxFailure{line, std::move(message)}; }

std::string ExprParser::describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData:
      return "template data";
    case TokenKind::kVariableBegin:
      return "'{{'";
    case TokenKind::kVariableEnd:
      return "'}}'";
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kString:
      return "a string";
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return "a number";
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return fmt::format("'{}'", token.text);
  }
}

ExprPtr ExprParser::make(ExprKind kind, int line) {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  return node;
}

void ExprParser::add(Expr& parent, ExprPtr child) const {
  if (child != nullptr) parent.depth = std::max(parent.depth, child->depth + 1);
  if (parent.depth > kTreeDepthMax) fail_here(fmt::format("expression with more than {} levels", kTreeDepthMax));
  parent.children.push_back(std::move(child));
}

}  // namespace baton::jinja
