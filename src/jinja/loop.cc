#include "jinja/loop.h"

#include <utility>

namespace baton::jinja {
LoopVariable::LoopVariable(Interpreter& interpreter, const Statement& statement, std::vector<Value> items,
                           std::shared_ptr<Scope> outer)
    : interpreter_(interpreter), statement_(statement), items_(std::move(items)), outer_(std::move(outer)) {}

std::optional<Value> LoopVariable::pull() {
  while (position_ < items_.size()) {
    Value item = items_[position_++];
    if (statement_.test == nullptr || tested_ || interpreter_.accepts(statement_, item, outer_)) return item;
  }
  return std::nullopt;
}

const std::optional<Value>& LoopVariable::peek() {
  if (!peeked_) {
    after_ = pull();
    peeked_ = true;
  }
  return after_;
}

std::optional<Value> LoopVariable::advance() {
  std::optional<Value> next = peeked_ ? std::exchange(after_, std::nullopt) : pull();
  peeked_ = false;
  if (!next) return std::nullopt;
  ++index0_;
  before_ = std::move(current_);
  current_ = next;
  return next;
}

void LoopVariable::finish() {
  items_.clear();
  position_ = 0;
  outer_.reset();
  peeked_ = false;
  after_.reset();
  current_.reset();
  before_.reset();
}

Int LoopVariable::length() {
  if (!length_) {
    std::vector<Value> rest;
    while (std::optional<Value> item = pull()) rest.push_back(std::move(*item));
    length_ = static_cast<Int>(rest.size()) + index0_ + 1 + (peeked_ && after_ ? 1 : 0);
    items_ = std::move(rest);  // these passed the test: walk over them
    position_ = 0;
    tested_ = true;
  }
  return *length_;
}

std::optional<Value> LoopVariable::attribute(std::string_view name) {
  if (name == "index") return Value(index0_ + 1);
  if (name == "index0") return Value(index0_);
  if (name == "first") return Value(index0_ == 0);
  if (name == "last") return Value(!peek().has_value());
  if (name == "length") return Value(length());
  if (name == "revindex") return Value(length() - index0_);
  if (name == "revindex0") return Value(length() - index0_ - 1);
  if (name == "previtem") return before_ && index0_ > 0 ? *before_ : Value::undefined("there is no previous item");
  if (name == "nextitem") return peek() ? *after_ : Value::undefined("there is no next item");
  for (const std::string_view left_out : {"cycle", "changed", "depth", "depth0"}) {
    if (name == left_out) fail("loop.{} is not supported", name);
  }
  return std::nullopt;
}

std::string LoopVariable::repr() const {
  return fmt::format("<LoopContext {}/{}>", index0_ + 1, length_.value_or(static_cast<Int>(items_.size())));
}

}  // namespace baton::jinja
