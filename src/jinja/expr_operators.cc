// Operators, the loosest first; each level calls the next tighter one.
#include <algorithm>
#include <optional>
#include <utility>

#include "jinja/expr_parser.h"

namespace baton::jinja {

namespace {

std::optional<Sign> compare_sign(const Token& token) {
  static constexpr std::pair<std::string_view, Sign> kSigns[] = {
      {"==", Sign::kEq}, {"!=", Sign::kNe}, {"<", Sign::kLt}, {"<=", Sign::kLe}, {">", Sign::kGt}, {">=", Sign::kGe}};
  for (const auto& [text, sign] : kSigns) {
    if (token.is_operator(text)) return sign;
  }
  return std::nullopt;
}

}  // namespace

ExprPtr ExprParser::binary(Sign sign, ExprPtr left, ExprPtr right, int line) const {
  ExprPtr node = make(ExprKind::kBinary, line);
  node->sign = sign;
  add(*node, std::move(left));
  add(*node, std::move(right));
  return node;
}

ExprPtr ExprParser::parse_expression(bool with_condition) {
  const Nest nest(*this);
  if (!with_condition) return parse_or();
  const std::size_t unknown = unknown_.size();
  ExprPtr value = parse_or();
  while (current().is_name("if")) {
    unknown_.resize(unknown);
    const int line = next().line;
    const bool lenient = std::exchange(lenient_, true);
    ExprPtr node = make(ExprKind::kConditional, line);
    add(*node, parse_or());
    add(*node, std::move(value));
    if (skip_name("else")) add(*node, parse_expression());
    lenient_ = lenient;
    value = std::move(node);
  }
  return value;
}

ExprPtr ExprParser::parse_or() {
  ExprPtr left = parse_and();
  while (current().is_name("or")) {
    ExprPtr node = make(ExprKind::kOr, next().line);
    add(*node, std::move(left));
    add(*node, parse_and());
    left = std::move(node);
  }
  return left;
}

ExprPtr ExprParser::parse_and() {
  ExprPtr left = parse_not();
  while (current().is_name("and")) {
    ExprPtr node = make(ExprKind::kAnd, next().line);
    add(*node, std::move(left));
    add(*node, parse_not());
    left = std::move(node);
  }
  return left;
}

ExprPtr ExprParser::parse_not() {
  if (!current().is_name("not")) return parse_compare();
  const Nest nest(*this);
  ExprPtr node = make(ExprKind::kNot, next().line);
  add(*node, parse_not());
  return node;
}

ExprPtr ExprParser::parse_compare() {
  const int line = current().line;
  ExprPtr first = parse_sum();
  ExprPtr node;
  while (true) {
    std::optional<Sign> sign = compare_sign(current());
    if (sign) {
      next();
    } else if (skip_name("in")) {
      sign = Sign::kIn;
    } else if (current().is_name("not") && look().is_name("in")) {
      next();
      next();
      sign = Sign::kNotIn;
    } else {
      break;
    }
    if (node == nullptr) {
      node = make(ExprKind::kCompare, line);
      add(*node, std::move(first));
    }
    node->signs.push_back(*sign);
    add(*node, parse_sum());
  }
  return node != nullptr ? std::move(node) : std::move(first);
}

ExprPtr ExprParser::parse_sum() {
  ExprPtr left = parse_concat();
  while (current().is_operator("+") || current().is_operator("-")) {
    const Token token = next();
    left = binary(token.text == "+" ? Sign::kAdd : Sign::kSub, std::move(left), parse_concat(), token.line);
  }
  return left;
}

ExprPtr ExprParser::parse_concat() {
  ExprPtr first = parse_product();
  if (!current().is_operator("~")) return first;
  ExprPtr node = make(ExprKind::kConcat, current().line);
  add(*node, std::move(first));
  while (skip_operator("~")) add(*node, parse_product());
  return node;
}

ExprPtr ExprParser::parse_product() {
  static constexpr std::pair<std::string_view, Sign> kSigns[] = {
      {"*", Sign::kMul}, {"/", Sign::kDiv}, {"//", Sign::kFloorDiv}, {"%", Sign::kMod}};
  ExprPtr left = parse_unary(true);
  while (true) {
    const auto* found = std::find_if(std::begin(kSigns), std::end(kSigns),
                                     [&](const auto& sign) { return current().is_operator(sign.first); });
    if (found == std::end(kSigns)) return left;
    const int line = next().line;
    left = binary(found->second, std::move(left), parse_unary(true), line);
  }
}

ExprPtr ExprParser::parse_unary(bool with_filters) {
  const Nest nest(*this);
  ExprPtr node;
  if (current().is_operator("-") || current().is_operator("+")) {
    const Token token = next();
    node = make(ExprKind::kUnary, token.line);
    node->sign = token.text == "-" ? Sign::kSub : Sign::kAdd;
    add(*node, parse_unary(false));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  while (with_filters) {
    if (current().is_operator("|")) {
      node = parse_filters(std::move(node));
    } else if (current().is_name("is")) {
      node = parse_test(std::move(node));
    } else if (current().is_operator("(")) {
      node = parse_call(std::move(node));
    } else {
      break;
    }
  }
  return node;
}

}  // namespace baton::jinja
