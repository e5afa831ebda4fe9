#include "jinja/interpreter.h"

#include <algorithm>
#include <utility>

#include "jinja/format.h"
#include "jinja/loop.h"
#include "jinja/ops.h"

namespace baton::jinja {
namespace {

struct Macro final : Function {
  Macro(const Statement& what, std::shared_ptr<Scope> scope) : definition(what), closure(std::move(scope)) {}
  Value call(Runtime& runtime, const Arguments& arguments) override {
    return static_cast<Interpreter&>(runtime).call_macro(definition, closure, arguments);
  }
  [[nodiscard]] const char* type_name() const override { return "Macro"; }
  [[nodiscard]] std::string repr() const override { return fmt::format("<Macro '{}'>", definition.text); }
  [[nodiscard]] std::optional<Value> attribute(std::string_view name) override {
    if (name == "name") return definition.text.empty() ? Value() : Value(definition.text);
    if (name == "caller") return Value(definition.uses_caller);
    if (name == "catch_kwargs") return Value(definition.uses_kwargs);
    if (name == "catch_varargs") return Value(definition.uses_varargs);
    if (name != "arguments") return std::nullopt;
    std::vector<Value> names;
    for (const Parameter& parameter : definition.parameters) names.emplace_back(parameter.name);
    return Value::tuple(std::move(names));
  }
  const Statement& definition;
  const std::shared_ptr<Scope> closure;
};

// Takes a named argument out of the list.
std::optional<Value> take_keyword(Arguments& arguments, std::string_view name) {
  const auto found = std::find_if(arguments.keyword.begin(), arguments.keyword.end(),
                                  [&](const auto& argument) { return argument.first == name; });
  if (found == arguments.keyword.end()) return std::nullopt;
  Value value = std::move(found->second);
  arguments.keyword.erase(found);
  return value;
}

}  // namespace

void Scope::set(std::string_view name, std::optional<Value> value) {
  for (auto& [other, old] : variables) {
    if (other == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

Interpreter::Interpreter(const Template& parsed, const Dict& context, const RenderLimits& limits)
    : Runtime(limits), template_(parsed), context_(context) {}

Interpreter::~Interpreter() {
  for (const auto& held : namespaces_) held->attributes.clear();
  for (const auto& held : captured_) held->variables.clear();
}

std::string Interpreter::run() {
  std::string out;
  out_ = &out;
  exec_scoped(template_.body, open_scope(template_.hidden, nullptr));
  return out;
}

std::shared_ptr<Scope> Interpreter::open_scope(const HiddenNames& hidden, std::shared_ptr<Scope> parent) const {
  auto scope = std::make_shared<Scope>(std::move(parent));
  for (const std::string& name : hidden) scope->variables.emplace_back(name, std::nullopt);
  return scope;
}

void Interpreter::print(std::string_view text) {
  const std::size_t bytes_max = limits().output_bytes_max;
  if (text.size() > bytes_max - out_->size()) {
    fail("the output would have more than {} bytes", bytes_max);
  }
  out_->append(text);
}

Interpreter::Flow Interpreter::exec_scoped(const Body& body, std::shared_ptr<Scope> scope, std::string* capture) {
  std::shared_ptr<Scope> outer = std::exchange(scope_, std::move(scope));
  std::string* const out = capture != nullptr ? std::exchange(out_, capture) : out_;
  const Flow flow = exec_all(body);
  out_ = out;
  scope_ = std::move(outer);
  return flow;
}

Interpreter::Flow Interpreter::exec_all(const Body& body) {
  enter();
  Flow flow = Flow::kNext;
  for (auto it = body.begin(); it != body.end() && flow == Flow::kNext; ++it) flow = exec(**it);
  leave();
  return flow;
}

Interpreter::Flow Interpreter::exec(const Statement& statement) {
  step();
  line_ = statement.line;
  switch (statement.kind) {
    case StatementKind::kText:
      print(statement.text);
      break;
    case StatementKind::kPrint:
      for (const ExprPtr& expr : statement.exprs) {
        const Value value = eval(*expr);
        if (const std::string* text = value.text()) {
          print(*text);
        } else {
          print(to_string(value));
        }
      }
      break;
    case StatementKind::kIf:
      return exec_if(statement);
    case StatementKind::kFor:
      return exec_for(statement);
    case StatementKind::kSet:
      assign(statement.target, eval(*statement.exprs.front()));
      break;
    case StatementKind::kSetBlock:
      return exec_set_block(statement);
    case StatementKind::kMacro:
      scope_->set(statement.text, make_macro(statement));
      break;
    case StatementKind::kCallBlock:
      exec_call_block(statement);
      break;
    case StatementKind::kFilterBlock:
      return exec_filter_block(statement);
    case StatementKind::kWith:
      return exec_with(statement);
    case StatementKind::kGeneration:
      return exec_scoped(statement.body, open_scope(statement.hidden, scope_));
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_if(const Statement& statement) {
  for (const Branch& branch : statement.branches) {
    if (branch.test == nullptr || eval(*branch.test).truthy()) return exec_all(branch.body);
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_for(const Statement& statement) {
  const Value iterable = eval(*statement.exprs.front());
  const auto loop = std::make_shared<Loop>(*this, statement, iterate(*this, iterable), scope_);
  struct Finish {
    Loop& loop;
    ~Finish() { loop.finish(); }
  } const finish{*loop};
  const std::shared_ptr<Scope> outer = scope_;
  bool ran = false;  // some item's body to its end: Jinja takes else even after a first break or continue
  while (const std::optional<Value> item = loop->advance()) {
    step();
    scope_ = open_scope(statement.hidden, outer);
    scope_->set("loop", Value(std::shared_ptr<Object>(loop)));
    assign(statement.target, *item);
    const Flow flow = exec_all(statement.body);
    scope_ = outer;
    if (flow == Flow::kBreak) break;
    ran = ran || flow == Flow::kNext;
  }
  if (ran || statement.otherwise.empty()) return Flow::kNext;
  return exec_scoped(statement.otherwise, open_scope(statement.hidden_in_else, outer));
}

bool Interpreter::accepts(const Statement& loop, const Value& item, const std::shared_ptr<Scope>& outer) {
  step();
  std::shared_ptr<Scope> saved = std::exchange(scope_, open_scope(loop.hidden_in_filter, outer));
  assign(loop.target, item);
  const bool accepted = eval(*loop.test).truthy();
  scope_ = std::move(saved);
  return accepted;
}

Interpreter::Flow Interpreter::exec_set_block(const Statement& statement) {
  std::string captured;
  const auto scope = open_scope(statement.hidden, scope_);
  const Flow flow = exec_scoped(statement.body, scope, &captured);
  if (flow != Flow::kNext) return flow;
  Value value = text(std::move(captured));
  if (statement.test != nullptr) {
    const auto outer = std::exchange(scope_, scope);
    value = eval_filters(*statement.test, value);
    scope_ = outer;
  }
  assign(statement.target, value);
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_filter_block(const Statement& statement) {
  std::string captured;
  const auto scope = open_scope(statement.hidden, scope_);
  const Flow flow = exec_scoped(statement.body, scope, &captured);
  if (flow != Flow::kNext) return flow;
  const auto outer = std::exchange(scope_, scope);
  print(to_string(eval_filters(*statement.exprs.front(), text(std::move(captured)))));
  scope_ = outer;
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_with(const Statement& statement) {
  const std::vector<Value> values = eval_all(statement.exprs);
  const auto outer = std::exchange(scope_, open_scope(statement.hidden, scope_));
  for (std::size_t i = 0; i < values.size(); ++i) assign(statement.targets[i], values[i]);
  const Flow flow = exec_all(statement.body);
  scope_ = outer;
  return flow;
}

Value Interpreter::make_macro(const Statement& statement) {
  captured_.push_back(scope_);
  return Value(std::shared_ptr<Object>(std::make_shared<Macro>(statement, scope_)));
}

// {% call f(...) %}: f gets the body as `caller`.
void Interpreter::exec_call_block(const Statement& statement) {
  const Expr& expr = *statement.exprs.front();
  const Value callee = eval(*expr.children.front());
  Arguments arguments = eval_arguments(expr.arguments);
  arguments.keyword.emplace_back("caller", make_macro(statement));
  print(to_string(call(*this, callee, arguments)));
}

Value Interpreter::call_macro(const Statement& definition, const std::shared_ptr<Scope>& closure,
                              const Arguments& given) {
  Arguments arguments = given;
  const std::size_t count = definition.parameters.size();
  const auto scope = open_scope(definition.hidden, closure);
  const auto outer = std::exchange(scope_, scope);
  bool found_caller = false;
  for (std::size_t i = 0; i < count; ++i) {
    const Parameter& parameter = definition.parameters[i];
    found_caller = found_caller || parameter.name == "caller";
    std::optional<Value> value;
    if (i < arguments.positional.size()) {
      value = arguments.positional[i];
    } else {
      value = take_keyword(arguments, parameter.name);
    }
    if (!value && parameter.preset != nullptr) value = eval(*parameter.preset);
    scope->set(parameter.name,
               value ? *value : Value::undefined(fmt::format("parameter '{}' was not provided", parameter.name)));
  }
  if (definition.uses_caller && !found_caller) {
    const std::optional<Value> caller = take_keyword(arguments, "caller");
    scope->set("caller", caller && !caller->is_none() ? *caller : Value::undefined("No caller defined"));
  }
  if (definition.uses_kwargs) {
    Dict rest;
    for (const auto& [name, value] : arguments.keyword) rest.set(name, value);
    scope->set("kwargs", Value(std::make_shared<const Dict>(std::move(rest))));
  } else if (!arguments.keyword.empty()) {
    fail("macro '{}' takes no keyword argument '{}'", definition.text, arguments.keyword.front().first);
  }
  if (definition.uses_varargs) {
    const std::size_t taken = std::min(count, arguments.positional.size());
    scope->set("varargs",
               Value::tuple(std::vector<Value>(arguments.positional.begin() + static_cast<std::ptrdiff_t>(taken),
                                               arguments.positional.end())));
  } else if (arguments.positional.size() > count) {
    fail("macro '{}' takes not more than {} argument(s)", definition.text, count);
  }
  std::string captured;
  exec_scoped(definition.body, scope, &captured);
  scope_ = outer;
  return text(std::move(captured));
}

Value Interpreter::make_namespace(const Dict& attributes) {
  static constexpr std::size_t kAttributesMax = 1000;  // they are searched one by one
  if (attributes.entries().size() > kAttributesMax) fail("a namespace of more than {} attributes", kAttributesMax);
  auto made = std::make_shared<Namespace>();
  for (const auto& [key, value] : attributes.entries()) {
    if (!key.is_text()) fail("namespace(): a name must be str, not '{}'", key.type_name());
    made->set(*key.text(), value);
  }
  namespaces_.push_back(made);
  return Value(std::shared_ptr<Object>(std::move(made)));
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (target.is_tuple) {
    const std::vector<Value> values = iterate(*this, value);
    if (values.size() != target.members.size()) {
      fail("cannot unpack {} values into {} names", values.size(), target.members.size());
    }
    for (std::size_t i = 0; i < values.size(); ++i) assign(target.members[i], values[i]);
  } else if (target.attribute.empty()) {
    scope_->set(target.name, value);
  } else {
    Namespace* held = lookup(Value(target.name)).object<Namespace>();
    if (held == nullptr) fail("cannot assign attribute on non-namespace object");
    held->set(target.attribute, value);
  }
}

}  // namespace baton::jinja
