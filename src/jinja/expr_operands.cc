// What operators stand between: constants, names and brackets, and the subscripts, calls, filters and tests behind
// them.
#include <algorithm>

#include "jinja/expr_parser.h"
#include "jinja/filters.h"
#include "jinja/parser.h"
#include "jinja/predicates.h"

namespace baton::jinja {

ExprPtr ExprParser::parse_primary() {
  const Token token = current();
  ExprPtr node = make(ExprKind::kConstant, token.line);
  switch (token.kind) {
    case TokenKind::kName:
      next();
      if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
        node->value = Value(token.text == "true" || token.text == "True");
      } else if (token.text != "none" && token.text != "None") {
        node->kind = ExprKind::kName;
        node->value = Value(token.text);
      }
      return node;
    case TokenKind::kString: {
      std::string text;
      while (current().kind == TokenKind::kString) text += next().text;
      node->value = Value(std::move(text));
      return node;
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      node->value = next().number;
      return node;
    default:
      break;
  }
  if (skip_operator("(")) {
    node = parse_tuple(true, {}, true);
    expect_operator(")");
    return node;
  }
  if (token.is_operator("[")) return parse_list();
  if (token.is_operator("{")) return parse_dict();
  fail_here(fmt::format("unexpected {}", describe(token)));
}

ExprPtr ExprParser::parse_tuple(bool with_condition, std::string_view end, bool in_parentheses) {
  const int line = current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) expect_operator(",");
    const TokenKind kind = current().kind;
    if (kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || current().is_operator(")")) break;
    if (!end.empty() && current().is_name(end)) break;
    items.push_back(parse_expression(with_condition));
    if (!current().is_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items.front());
    if (!in_parentheses) fail_here(fmt::format("Expected an expression, got {}", describe(current())));
  }
  ExprPtr node = make(ExprKind::kTuple, line);
  for (ExprPtr& item : items) add(*node, std::move(item));
  return node;
}

ExprPtr ExprParser::parse_list() {
  ExprPtr node = make(ExprKind::kList, next().line);
  while (!current().is_operator("]")) {
    if (!node->children.empty()) expect_operator(",");
    if (current().is_operator("]")) break;
    add(*node, parse_expression());
  }
  expect_operator("]");
  return node;
}

ExprPtr ExprParser::parse_dict() {
  ExprPtr node = make(ExprKind::kDict, next().line);
  while (!current().is_operator("}")) {
    if (!node->children.empty()) expect_operator(",");
    if (current().is_operator("}")) break;
    add(*node, parse_expression());
    expect_operator(":");
    add(*node, parse_expression());
  }
  expect_operator("}");
  return node;
}

ExprPtr ExprParser::parse_postfix(ExprPtr node) {
  while (true) {
    if (current().is_operator(".") || current().is_operator("[")) {
      node = parse_subscript(std::move(node));
    } else if (current().is_operator("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExprParser::parse_subscript(ExprPtr object) {
  const Token opener = next();
  if (opener.text == ".") {
    const Token token = next();
    if (token.kind != TokenKind::kName && token.kind != TokenKind::kInteger)
      fail_at(token.line, "expected name or number");
    ExprPtr node = make(token.kind == TokenKind::kName ? ExprKind::kAttribute : ExprKind::kItem, opener.line);
    add(*node, std::move(object));
    if (token.kind == TokenKind::kName) {
      node->value = Value(token.text);
    } else {
      ExprPtr index = make(ExprKind::kConstant, token.line);
      index->value = token.number;
      add(*node, std::move(index));
    }
    return node;
  }
  if (current().is_operator(":")) return parse_slice(std::move(object), nullptr, opener.line);
  ExprPtr node = make(ExprKind::kItem, opener.line);
  ExprPtr index;
  if (!current().is_operator("]")) {
    index = parse_expression();
    if (current().is_operator(":")) return parse_slice(std::move(object), std::move(index), opener.line);
  }
  if (!current().is_operator("]")) {  // several: a tuple as key
    ExprPtr tuple = make(ExprKind::kTuple, opener.line);
    add(*tuple, std::move(index));
    while (!current().is_operator("]")) {
      expect_operator(",");
      if (current().is_operator(":")) fail_here("a slice cannot be part of a tuple");
      add(*tuple, parse_expression());
      if (current().is_operator(":")) fail_here("a slice cannot be part of a tuple");
    }
    index = std::move(tuple);
  } else if (index == nullptr) {
    index = make(ExprKind::kTuple, opener.line);  // x[]: the empty tuple as key
  }
  expect_operator("]");
  add(*node, std::move(object));
  add(*node, std::move(index));
  return node;
}

ExprPtr ExprParser::parse_slice(ExprPtr object, ExprPtr start, int line) {
  ExprPtr node = make(ExprKind::kSlice, line);
  add(*node, std::move(object));
  add(*node, std::move(start));
  expect_operator(":");
  const bool has_stop = !current().is_operator(":") && !current().is_operator("]");
  add(*node, has_stop ? parse_expression() : nullptr);
  const bool has_step = skip_operator(":") && !current().is_operator("]");
  add(*node, has_step ? parse_expression() : nullptr);
  expect_operator("]");
  return node;
}

ArgumentExprs ExprParser::parse_arguments() {
  const int line = current().line;
  ArgumentExprs out;
  bool first = true;
  expect_operator("(");
  while (!current().is_operator(")")) {
    if (!first) {
      expect_operator(",");
      if (current().is_operator(")")) break;
    }
    first = false;
    if (out.positional.size() + out.keyword.size() == kArgumentsMax) {
      fail_at(line, fmt::format("more than {} arguments", kArgumentsMax));
    }
    if (current().is_operator("*")) fail_at(line, "* and ** before an argument are not supported");
    if (current().kind == TokenKind::kName && look().is_operator("=")) {
      std::string name = next().text;
      next();
      for (const auto& [other, value] : out.keyword) {
        if (other == name) fail_at(line, fmt::format("keyword argument repeated: {}", name));
      }
      out.keyword.emplace_back(std::move(name), parse_expression());
    } else {
      if (!out.keyword.empty()) fail_at(line, "a positional argument behind a keyword argument");
      out.positional.push_back(parse_expression());
    }
  }
  expect_operator(")");
  return out;
}

void ExprParser::add_arguments(Expr& node, ArgumentExprs arguments) const {
  const auto deepen = [&](const ExprPtr& child) {
    if (child != nullptr) node.depth = std::max(node.depth, child->depth + 1);
  };
  for (const ExprPtr& child : arguments.positional) deepen(child);
  for (const auto& [name, child] : arguments.keyword) deepen(child);
  if (node.depth > kTreeDepthMax) fail_here(fmt::format("expression with more than {} levels", kTreeDepthMax));
  node.arguments = std::move(arguments);
}

void ExprParser::note_unknown(int line, std::string message) {
  if (!lenient_) unknown_.emplace_back(line, std::move(message));
}

ExprPtr ExprParser::parse_call(ExprPtr callee) {
  ExprPtr node = make(ExprKind::kCall, current().line);
  add(*node, std::move(callee));
  add_arguments(*node, parse_arguments());
  return node;
}

ExprPtr ExprParser::parse_filters(ExprPtr input, bool first) {
  while (first || skip_operator("|")) {
    first = false;
    ExprPtr node = make(ExprKind::kFilter, current().line);
    std::string name = expect_name();
    while (skip_operator(".")) name += "." + expect_name();
    node->filter = find_filter(name);
    if (node->filter == nullptr) note_unknown(node->line, no_such_filter(name));
    node->value = Value(std::move(name));
    add(*node, std::move(input));
    if (current().is_operator("(")) add_arguments(*node, parse_arguments());
    input = std::move(node);
  }
  return input;
}

ExprPtr ExprParser::parse_test(ExprPtr input) {
  ExprPtr node = make(ExprKind::kTest, next().line);
  const int line = node->line;
  const bool negated = skip_name("not");
  std::string name = expect_name();
  while (skip_operator(".")) name += "." + expect_name();
  node->predicate = find_predicate(name);
  if (node->predicate == nullptr) note_unknown(line, no_such_test(name));
  node->value = Value(std::move(name));
  add(*node, std::move(input));
  const TokenKind kind = current().kind;
  if (current().is_operator("(")) {
    add_arguments(*node, parse_arguments());
  } else if ((kind == TokenKind::kName && !current().is_name("else") && !current().is_name("or") &&
              !current().is_name("and")) ||
             kind == TokenKind::kString || kind == TokenKind::kInteger || kind == TokenKind::kFloat ||
             current().is_operator("[") || current().is_operator("{")) {
    if (current().is_name("is")) fail_here("You cannot chain multiple tests with is");
    ArgumentExprs arguments;
    arguments.positional.push_back(parse_postfix(parse_primary()));
    add_arguments(*node, std::move(arguments));
  }
  if (!negated) return node;
  ExprPtr inverse = make(ExprKind::kNot, line);
  add(*inverse, std::move(node));
  return inverse;
}

}  // namespace baton::jinja
