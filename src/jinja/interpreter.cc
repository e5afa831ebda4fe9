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
  const Statement& definition;
  const std::shared_ptr<Scope> closure;
};

}  // namespace

void Scope::set(std::string_view name, Value value) {
  charge_steps(variables.size() / 16);
  charge_created(sizeof(variables[0]));
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
  exec_scoped(template_.body, open_scope(nullptr));
  return out;
}

std::shared_ptr<Scope> Interpreter::open_scope(std::shared_ptr<Scope> parent) {
  charge_created(2 * sizeof(Scope));
  return std::make_shared<Scope>(std::move(parent));
}

void Interpreter::print(std::string_view text) {
  charge_read(text.size());
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
  charge_steps(1);
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
    case StatementKind::kFilterBlock:
      return exec_filter_block(statement);
    case StatementKind::kGeneration:
      return exec_scoped(statement.body, open_scope(scope_));
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
  charge_created(sizeof(LoopVariable));
  const auto loop = std::make_shared<LoopVariable>(*this, statement, iterate(iterable), scope_);
  struct Finish {
    LoopVariable& loop;
    ~Finish() { loop.finish(); }
  } const finish{*loop};
  const std::shared_ptr<Scope> outer = scope_;
  bool ran = false;  // some item's body to its end: Jinja takes else even after a first break or continue
  while (const std::optional<Value> item = loop->advance()) {
    charge_steps(1);
    scope_ = open_scope(outer);
    scope_->set("loop", Value(std::shared_ptr<Object>(loop)));
    assign(statement.target, *item);
    const Flow flow = exec_all(statement.body);
    scope_ = outer;
    if (flow == Flow::kBreak) break;
    ran = ran || flow == Flow::kNext;
  }
  if (ran || statement.otherwise.empty()) return Flow::kNext;
  return exec_scoped(statement.otherwise, open_scope(outer));
}

bool Interpreter::accepts(const Statement& loop, const Value& item, const std::shared_ptr<Scope>& outer) {
  charge_steps(1);
  std::shared_ptr<Scope> saved = std::exchange(scope_, open_scope(outer));
  assign(loop.target, item);
  const bool accepted = eval(*loop.test).truthy();
  scope_ = std::move(saved);
  return accepted;
}

Interpreter::Flow Interpreter::exec_set_block(const Statement& statement) {
  std::string captured;
  const Flow flow = exec_scoped(statement.body, open_scope(scope_), &captured);
  if (flow == Flow::kNext) assign(statement.target, Value(std::move(captured)));
  return flow;
}

Interpreter::Flow Interpreter::exec_filter_block(const Statement& statement) {
  std::string captured;
  const auto scope = open_scope(scope_);
  const Flow flow = exec_scoped(statement.body, scope, &captured);
  if (flow != Flow::kNext) return flow;
  const auto outer = std::exchange(scope_, scope);
  print(to_string(eval_filters(*statement.exprs.front(), Value(std::move(captured)))));
  scope_ = outer;
  return Flow::kNext;
}

Value Interpreter::make_macro(const Statement& statement) {
  charge_created(sizeof(Macro));
  captured_.push_back(scope_);
  return Value(std::shared_ptr<Object>(std::make_shared<Macro>(statement, scope_)));
}

Value Interpreter::call_macro(const Statement& definition, const std::shared_ptr<Scope>& closure,
                              const Arguments& given) {
  const std::size_t count = definition.parameters.size();
  if (given.positional.size() > count) {
    fail("macro '{}' takes not more than {} argument(s)", definition.text, count);
  }
  std::vector<std::optional<Value>> values(given.positional.begin(), given.positional.end());
  values.resize(count);
  for (const auto& [name, value] : given.keyword) {
    std::size_t at = 0;
    while (at < count && definition.parameters[at].name != name) ++at;
    if (at == count || values[at]) fail("macro '{}' takes no keyword argument '{}'", definition.text, name);
    values[at] = value;
  }
  const auto scope = open_scope(closure);
  const auto outer = std::exchange(scope_, scope);
  for (std::size_t i = 0; i < count; ++i) {
    const Parameter& parameter = definition.parameters[i];
    if (!values[i] && parameter.preset != nullptr) values[i] = eval(*parameter.preset);
    if (!values[i]) values[i] = Value::undefined(fmt::format("parameter '{}' was not provided", parameter.name));
    scope->set(parameter.name, *values[i]);
  }
  std::string captured;
  exec_scoped(definition.body, scope, &captured);
  scope_ = outer;
  return Value(std::move(captured));
}

Value Interpreter::make_namespace(const Dict& attributes) {
  static constexpr std::size_t kAttributesMax = 1000;  // they are searched one by one
  if (attributes.entries().size() > kAttributesMax) fail("a namespace of more than {} attributes", kAttributesMax);
  charge_created(sizeof(Namespace) + attributes.entries().size() * sizeof(Dict::Entry));
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
    const std::vector<Value> values = iterate(value);
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
