// The `loop` variable of a {% for %} and the walk over its items.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jinja/interpreter.h"

namespace baton::jinja {

class LoopVariable final : public Object {
 public:
  // The items that pass the `if` of the statement are found one by one, so that the body of the loop can change what it
  // says.
  LoopVariable(Interpreter& interpreter, const Statement& statement, std::vector<Value> items,
               std::shared_ptr<Scope> outer);

  // The next item, or nothing at the end.
  [[nodiscard]] std::optional<Value> advance();
  // Drops all values: the loop is over, though a template may still hold it.
  void finish();

  [[nodiscard]] std::optional<Value> attribute(std::string_view name) override;
  [[nodiscard]] const char* type_name() const override { return "LoopContext"; }
  [[nodiscard]] std::string repr() const override;

 private:
  [[nodiscard]] std::optional<Value> pull();
  [[nodiscard]] const std::optional<Value>& peek();
  [[nodiscard]] Int length();

  Interpreter& interpreter_;
  const Statement& statement_;
  std::vector<Value> items_;
  std::size_t position_ = 0;
  std::shared_ptr<Scope> outer_;
  Int index0_ = -1;
  std::optional<Int> length_;
  bool tested_ = false;  // all of items_ passed
  bool peeked_ = false;
  std::optional<Value> after_;  // the next item, if peeked_
  std::optional<Value> current_;
  std::optional<Value> before_;
};

}  // namespace baton::jinja
