// The syntax tree of a template: immutable after parsing, shared by all renderings.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "jinja/value.h"

namespace baton::jinja {

struct FilterEntry;     // filters.h
struct PredicateEntry;  // predicates.h

enum class ExprKind : std::uint8_t {
  kConstant,     // value
  kName,         // value: the name as text
  kList,         // children
  kTuple,        // children
  kDict,         // children: key, value, key, value, ...
  kAnd,          // children: left, right
  kOr,           // children: left, right
  kNot,          // children: operand
  kUnary,        // sign: + or -; children: operand
  kBinary,       // sign: + - * / // %; children: left, right
  kConcat,       // children
  kCompare,      // children: first and one for each of signs
  kConditional,  // children: test, then[, else]
  kAttribute,    // value: the name; children: object
  kItem,         // children: object, index
  kSlice,        // children: object, start, stop, step; each but the object may be null
  kCall,         // children: callee; arguments
  kFilter,       // filter, value: its name; children: input, null inside {% filter %}; arguments
  kTest,         // predicate, value: its name; children: input; arguments
};

enum class Sign : std::uint8_t { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct ArgumentExprs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> keyword;
};

struct Expr {
  ExprKind kind = ExprKind::kConstant;
  int line = 0;
  int depth = 1;  // of the tree, bounded so that walking and destroying it cannot exhaust the stack
  Sign sign = Sign::kAdd;
  Value value;
  std::vector<Sign> signs;
  std::vector<ExprPtr> children;
  ArgumentExprs arguments;
  const FilterEntry* filter = nullptr;        // null: unknown, an error only when it runs
  const PredicateEntry* predicate = nullptr;  // as filter
};

// What {% set %} and {% for %} assign to: a name, an attribute of a namespace, or a tuple of targets.
struct Target {
  std::string name;
  std::string attribute;        // not empty: name.attribute
  std::vector<Target> members;  // a tuple if is_tuple
  bool is_tuple = false;
};

enum class StatementKind : std::uint8_t {
  kText,         // text
  kPrint,        // exprs
  kIf,           // branches; the else branch has no test
  kFor,          // target, exprs: iterable; test; body; otherwise
  kSet,          // target, exprs: value
  kSetBlock,     // target, body
  kMacro,        // name, parameters, body
  kFilterBlock,  // exprs: the filter chain; body
  kGeneration,   // body: what the assistant said, for training; here only a scope
  kBreak,
  kContinue,
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Branch {
  ExprPtr test;
  Body body;
};

struct Parameter {
  std::string name;
  ExprPtr preset;  // null: none
};

struct Statement {
  StatementKind kind = StatementKind::kText;
  int line = 0;
  std::string text;  // kText: the text; kMacro: the name
  std::vector<ExprPtr> exprs;
  ExprPtr test;
  std::vector<Branch> branches;
  Target target;
  std::vector<Parameter> parameters;
  Body body;
  Body otherwise;
};

struct Template {
  Body body;
};

}  // namespace baton::jinja
