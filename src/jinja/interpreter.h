// Runs a template's tree over a context. One object per rendering; not thread safe. Throws Failure.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jinja/ast.h"
#include "jinja/runtime.h"

namespace baton::jinja {

// The variables of a block. What it does not have is looked up outside, at the time of the look-up: Jinja decides when
// it compiles, which differs only for a name that a macro or loop reads before an outer block assigns it on every path.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> outer) : parent(std::move(outer)) {}
  void set(std::string_view name, Value value);

  const std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string_view, Value>> variables;  // names live in the tree
};

class Interpreter final : public Runtime {
 public:
  // The template must outlive the interpreter.
  Interpreter(const Template& parsed, const Dict& context, const RenderLimits& limits);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // Once.
  [[nodiscard]] std::string run();
  // Of what ran last: after a Failure, where it happened.
  [[nodiscard]] int line() const { return line_; }

  // For the functions and objects of a template.
  [[nodiscard]] Value eval(const Expr& expr);
  [[nodiscard]] Value call_macro(const Statement& definition, const std::shared_ptr<Scope>& closure,
                                 const Arguments& given);
  [[nodiscard]] Value make_namespace(const Dict& attributes);
  // Whether the `if` of a {% for %} accepts an item; evaluated in `outer`.
  [[nodiscard]] bool accepts(const Statement& loop, const Value& item, const std::shared_ptr<Scope>& outer);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  Flow exec_all(const Body& body);
  Flow exec(const Statement& statement);
  Flow exec_if(const Statement& statement);
  Flow exec_for(const Statement& statement);
  Flow exec_set_block(const Statement& statement);
  Flow exec_filter_block(const Statement& statement);

  // Runs a body in a scope of its own, with what it prints going to `capture` if that is not null.
  Flow exec_scoped(const Body& body, std::shared_ptr<Scope> scope, std::string* capture = nullptr);
  [[nodiscard]] static std::shared_ptr<Scope> open_scope(std::shared_ptr<Scope> parent);
  [[nodiscard]] Value make_macro(const Statement& statement);
  void assign(const Target& target, const Value& value);
  void print(std::string_view text);

  [[nodiscard]] Value lookup(const Value& name) const;
  [[nodiscard]] Value eval_kind(const Expr& expr);
  [[nodiscard]] Value eval_dict(const Expr& expr);
  [[nodiscard]] Value eval_compare(const Expr& expr);
  [[nodiscard]] Value eval_conditional(const Expr& expr);
  [[nodiscard]] Value eval_slice(const Expr& expr);
  [[nodiscard]] Value eval_concat(const Expr& expr);
  // A chain of filters over a text, for {% filter %}.
  [[nodiscard]] Value eval_filters(const Expr& expr, const Value& input);
  [[nodiscard]] Value apply_filter(const Expr& expr, const Value& input);
  [[nodiscard]] Value eval_test(const Expr& expr);
  [[nodiscard]] std::vector<Value> eval_all(const std::vector<ExprPtr>& exprs);
  [[nodiscard]] Arguments eval_arguments(const ArgumentExprs& exprs);

  const Template& template_;
  const Dict& context_;
  std::shared_ptr<Scope> scope_;
  std::string* out_ = nullptr;
  int line_ = 1;
  // Both can hold themselves: emptied when the rendering ends.
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<std::shared_ptr<Scope>> captured_;
};

}  // namespace baton::jinja
