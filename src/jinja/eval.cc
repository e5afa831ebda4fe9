// The expression half of the interpreter.
#include <utility>

#include "jinja/filters.h"
#include "jinja/format.h"
#include "jinja/globals.h"
#include "jinja/interpreter.h"
#include "jinja/ops.h"
#include "jinja/predicates.h"

namespace baton::jinja {
Value Interpreter::lookup(const Value& name_value) const {
  const std::string& name = *name_value.text();
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [other, value] : scope->variables) {
      if (other == name) return value;
    }
    charge_steps(scope->variables.size() / 16);
  }
  if (const Value* found = context_.find(std::string_view(name))) return *found;
  if (auto found = find_global(name)) return std::move(*found);
  return Value(Undefined{Undefined::Why::kName, nullptr, name_value.get<Text>()->bytes});
}

Value Interpreter::eval(const Expr& expr) {
  charge_steps(1);
  enter();
  const int outer = std::exchange(line_, expr.line);
  Value value = eval_kind(expr);
  line_ = outer;
  leave();
  return value;
}

Value Interpreter::eval_kind(const Expr& expr) {
  const auto operand = [&](std::size_t i) { return eval(*expr.children[i]); };
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.value;
    case ExprKind::kName:
      return lookup(expr.value);
    case ExprKind::kList:
      return Value::list(eval_all(expr.children));
    case ExprKind::kTuple:
      return Value::tuple(eval_all(expr.children));
    case ExprKind::kDict:
      return eval_dict(expr);
    case ExprKind::kAnd: {
      Value left = operand(0);
      return left.truthy() ? operand(1) : left;
    }
    case ExprKind::kOr: {
      Value left = operand(0);
      return left.truthy() ? left : operand(1);
    }
    case ExprKind::kNot:
      return Value(!operand(0).truthy());
    case ExprKind::kUnary:
      return apply_unary(expr.sign, operand(0));
    case ExprKind::kBinary: {
      const Value left = operand(0);
      return apply_binary(expr.sign, left, operand(1));
    }
    case ExprKind::kConcat:
      return eval_concat(expr);
    case ExprKind::kCompare:
      return eval_compare(expr);
    case ExprKind::kConditional:
      return eval_conditional(expr);
    case ExprKind::kAttribute:
      return get_attribute(operand(0), expr.value);
    case ExprKind::kItem: {
      const Value object = operand(0);
      return get_item(object, operand(1));
    }
    case ExprKind::kSlice:
      return eval_slice(expr);
    case ExprKind::kCall: {
      const Value callee = operand(0);
      return call(*this, callee, eval_arguments(expr.arguments));
    }
    case ExprKind::kFilter:
      return apply_filter(expr, operand(0));
    case ExprKind::kTest:
      return eval_test(expr);
  }
  return Value();
}

Value Interpreter::eval_dict(const Expr& expr) {
  Dict dict;
  for (std::size_t i = 0; i < expr.children.size(); i += 2) {
    Value key = eval(*expr.children[i]);
    dict.set(std::move(key), eval(*expr.children[i + 1]));
  }
  return Value(std::make_shared<const Dict>(std::move(dict)));
}

Value Interpreter::eval_compare(const Expr& expr) {  // a < b < c: each neighbour pair, until one is false
  Value left = eval(*expr.children[0]);
  for (std::size_t i = 0; i < expr.signs.size(); ++i) {
    Value right = eval(*expr.children[i + 1]);
    if (!compare(expr.signs[i], left, right)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Interpreter::eval_conditional(const Expr& expr) {
  if (eval(*expr.children[0]).truthy()) return eval(*expr.children[1]);
  if (expr.children.size() > 2) return eval(*expr.children[2]);
  return Value::undefined("the inline if-expression evaluated to false and no else section was defined.");
}

Value Interpreter::eval_slice(const Expr& expr) {
  const Value object = eval(*expr.children[0]);
  Value bounds[3];
  for (std::size_t i = 0; i < 3; ++i) {
    if (expr.children[i + 1] != nullptr) bounds[i] = eval(*expr.children[i + 1]);
  }
  return get_slice(object, bounds[0], bounds[1], bounds[2]);
}

Value Interpreter::eval_concat(const Expr& expr) {
  std::string joined;
  for (const ExprPtr& child : expr.children) {
    const Value value = eval(*child);
    if (const std::string* text = value.text()) {
      joined += *text;
    } else {
      joined += to_string(value);
    }
    check_text_size(joined.size());
  }
  return Value(std::move(joined));
}

Value Interpreter::eval_filters(const Expr& expr, const Value& input) {
  enter();
  const ExprPtr& inner = expr.children.front();
  Value result = apply_filter(expr, inner == nullptr ? input : eval_filters(*inner, input));
  leave();
  return result;
}

Value Interpreter::apply_filter(const Expr& expr, const Value& input) {
  if (expr.filter == nullptr) fail("{}", no_such_filter(*expr.value.text()));
  return expr.filter->run(input, eval_arguments(expr.arguments));
}

Value Interpreter::eval_test(const Expr& expr) {
  const Value input = eval(*expr.children.front());
  if (expr.predicate == nullptr) fail("{}", no_such_test(*expr.value.text()));
  return Value(expr.predicate->run(input, eval_arguments(expr.arguments)));
}

std::vector<Value> Interpreter::eval_all(const std::vector<ExprPtr>& exprs) {
  std::vector<Value> out;
  out.reserve(exprs.size());
  for (const ExprPtr& expr : exprs) out.push_back(eval(*expr));
  return out;
}

Arguments Interpreter::eval_arguments(const ArgumentExprs& exprs) {
  Arguments out;
  out.positional = eval_all(exprs.positional);
  for (const auto& [name, expr] : exprs.keyword) out.keyword.emplace_back(name, eval(*expr));
  return out;
}

}  // namespace baton::jinja
