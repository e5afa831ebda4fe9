#include "jinja/ops.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "jinja/arithmetic.h"
#include "jinja/format.h"
#include "jinja/methods.h"
#include "jinja/unicode.h"

namespace baton::jinja {
namespace {

// Values copied into a vector of their own.
void charge_copies(std::size_t count) {
  charge_steps(count / 4);
  charge_created(count * sizeof(Value));
}

void require_defined(const Value& value) {
  if (const Undefined* undefined = value.get<Undefined>()) fail("{}", undefined->reason());
}

// The attribute of an object in the sandbox: its own, or a method of its type.
std::optional<Value> find_attribute(const Value& object, std::string_view name) {
  if (const auto* held = object.get<std::shared_ptr<Object>>()) return (*held)->attribute(name);
  return find_method(object, name);
}

std::string character_at(const std::string& text, Int index) {
  std::size_t at = 0;
  for (; index > 0; --index) (void)decode_utf8(text, at);
  const std::size_t begin = at;
  (void)decode_utf8(text, at);
  return text.substr(begin, at - begin);
}

// object[key] as Python has it, or nothing where Python raises TypeError or LookupError.
std::optional<Value> find_item(const Value& object, const Value& key) {
  if (const Dict* dict = object.dict()) {
    if (key.items() != nullptr || key.dict() != nullptr) {
      if (key.get<Tuple>() == nullptr) return std::nullopt;  // not hashable
    }
    const Value* found = dict->find(key);
    if (found == nullptr) return std::nullopt;
    return *found;
  }
  const Range* range = object.object<Range>();
  if (!key.is_integral() || (object.items() == nullptr && !object.is_text() && range == nullptr)) return std::nullopt;
  const Int size = range != nullptr ? range->length() : static_cast<Int>(length(object));
  Int index = key.integer();
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  if (const auto* items = object.items()) return (*items)[static_cast<std::size_t>(index)];
  if (range != nullptr) return Value(range->at(index));
  charge_read(object.text()->size());
  return Value(character_at(*object.text(), index), object.get<Text>()->markup);
}

Value missing_member(const Value& object, const Value& name) {
  if (name.is_text()) return Value(Undefined{Undefined::Why::kMember, object.type_name(), name.get<Text>()->bytes});
  return Value::undefined(fmt::format(
      "{} has no element {}", object.is_none() ? "None" : fmt::format("{} object", object.type_name()), repr(name)));
}

struct SliceBounds {
  Int start;
  Int step;
  Int count;
};

Int slice_index(const Value& value) {
  if (!value.is_integral()) fail("slice indices must be integers or None, not '{}'", value.type_name());
  return value.integer();
}

// slice.indices() of Python.
SliceBounds resolve_slice(Int size, const Value& start, const Value& stop, const Value& step_value) {
  const Int step = step_value.is_none() ? 1 : slice_index(step_value);
  if (step == 0) fail("slice step cannot be zero");
  const Int lowest = step < 0 ? -1 : 0;
  const Int highest = step < 0 ? size - 1 : size;
  const auto clamp = [&](const Value& value, Int preset) {
    if (value.is_none()) return preset;
    Int index = slice_index(value);
    if (index < 0) index += size;
    return std::clamp(index, lowest, highest);
  };
  const Int first = clamp(start, step < 0 ? highest : lowest);
  const Int last = clamp(stop, step < 0 ? lowest : highest);
  const Int distance = step < 0 ? first - last : last - first;
  const Int stride = step < 0 ? -step : step;
  return {first, step, distance > 0 ? (distance - 1) / stride + 1 : 0};
}

std::string slice_text(const std::string& text, const SliceBounds& bounds) {
  charge_read(text.size());
  std::string out;
  if (bounds.step == 1) {
    std::size_t begin = 0;
    for (Int i = 0; i < bounds.start; ++i) (void)decode_utf8(text, begin);
    std::size_t end = begin;
    for (Int i = 0; i < bounds.count; ++i) (void)decode_utf8(text, end);
    return text.substr(begin, end - begin);
  }
  const std::u32string characters = decode_all(text);
  for (Int i = 0; i < bounds.count; ++i) {
    append_utf8(out, characters[static_cast<std::size_t>(bounds.start + i * bounds.step)]);
  }
  return out;
}

[[noreturn]] void fail_operands(const char* sign, const Value& left, const Value& right) {
  fail("unsupported operand type(s) for {}: '{}' and '{}'", sign, left.type_name(), right.type_name());
}

Value add(const Value& left, const Value& right) {
  const Text* a = left.get<Text>();
  const Text* b = right.get<Text>();
  if (a != nullptr && b != nullptr) {
    check_text_size(a->bytes->size() + b->bytes->size());
    if (a->markup == b->markup) return Value(*a->bytes + *b->bytes, a->markup);
    return Value((a->markup ? *a->bytes : escape_html(*a->bytes)) + (b->markup ? *b->bytes : escape_html(*b->bytes)),
                 true);
  }
  const bool lists = left.get<List>() != nullptr && right.get<List>() != nullptr;
  const bool tuples = left.get<Tuple>() != nullptr && right.get<Tuple>() != nullptr;
  if (!lists && !tuples) fail_operands("+", left, right);
  const std::size_t size = left.items()->size() + right.items()->size();
  charge_created(size * sizeof(Value));
  std::vector<Value> items;
  items.reserve(size);
  items.insert(items.end(), left.items()->begin(), left.items()->end());
  items.insert(items.end(), right.items()->begin(), right.items()->end());
  return lists ? Value::list(std::move(items)) : Value::tuple(std::move(items));
}

Value repeat(const Value& what, Int count) {
  if (count < 0) count = 0;
  const std::size_t unit = what.is_text() ? what.text()->size() : what.items()->size();
  static constexpr Int kUnitsMax = Int{1} << 40;  // keeps the products below from overflowing
  if (static_cast<Int>(unit) * std::min(count, kUnitsMax) > kUnitsMax || (unit > 0 && count > kUnitsMax)) {
    fail("{} times {} elements: too large", count, unit);
  }
  if (unit == 0) count = 0;
  const auto times = static_cast<std::size_t>(count);
  if (const Text* text = what.get<Text>()) {
    check_text_size(unit * times);
    std::string out;
    out.reserve(unit * times);
    for (std::size_t i = 0; i < times; ++i) out += *text->bytes;
    return Value(std::move(out), text->markup);
  }
  charge_created(unit * times * sizeof(Value));
  charge_steps(unit * times / 16);
  std::vector<Value> items;
  items.reserve(unit * times);
  for (std::size_t i = 0; i < times; ++i) items.insert(items.end(), what.items()->begin(), what.items()->end());
  return what.get<List>() != nullptr ? Value::list(std::move(items)) : Value::tuple(std::move(items));
}

}  // namespace

Value get_attribute(const Value& object, const Value& name) {
  require_defined(object);
  if (auto found = find_attribute(object, *name.text())) return std::move(*found);
  const Dict* dict = object.dict();
  const Value* item = dict == nullptr ? nullptr : dict->find(std::string_view(*name.text()));
  return item != nullptr ? *item : missing_member(object, name);
}

Value get_item(const Value& object, const Value& key) {
  require_defined(object);
  if (auto found = find_item(object, key)) return std::move(*found);
  if (const std::string* name = key.text()) {
    if (auto found = find_attribute(object, *name)) return std::move(*found);
  }
  return missing_member(object, key);
}

Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  require_defined(object);
  const Range* range = object.object<Range>();
  const auto* items = object.items();
  if (range == nullptr && items == nullptr && !object.is_text())
    fail("'{}' object cannot be sliced", object.type_name());
  const Int size = range != nullptr ? range->length() : static_cast<Int>(length(object));
  const SliceBounds bounds = resolve_slice(size, start, stop, step);
  if (const Text* text = object.get<Text>()) return Value(slice_text(*text->bytes, bounds), text->markup);
  if (range != nullptr) {
    auto out = std::make_shared<Range>();
    out->start = range->at(bounds.start);
    out->step = range->step * bounds.step;
    out->stop = out->start + bounds.count * out->step;
    return Value(std::shared_ptr<Object>(std::move(out)));
  }
  charge_created(static_cast<std::size_t>(bounds.count) * sizeof(Value));
  std::vector<Value> out;
  out.reserve(static_cast<std::size_t>(bounds.count));
  for (Int i = 0; i < bounds.count; ++i)
    out.push_back((*items)[static_cast<std::size_t>(bounds.start + i * bounds.step)]);
  return object.get<List>() != nullptr ? Value::list(std::move(out)) : Value::tuple(std::move(out));
}

Value apply_unary(Sign sign, const Value& operand) {
  require_defined(operand);
  if (const double* real = operand.get<double>()) return Value(sign == Sign::kSub ? -*real : *real);
  if (!operand.is_integral()) fail("bad operand type for unary {}: '{}'", sign_text(sign), operand.type_name());
  return sign == Sign::kSub ? integer_arithmetic(Sign::kSub, 0, operand.integer()) : Value(operand.integer());
}

Value apply_binary(Sign sign, const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) return integer_arithmetic(sign, left.integer(), right.integer());
  if (left.is_number() && right.is_number()) return real_arithmetic(sign, left.real(), right.real());
  if (sign == Sign::kMod && left.is_text()) fail("the formatting of a text by % is not supported");
  require_defined(left);
  require_defined(right);
  if (sign == Sign::kAdd) return add(left, right);
  const auto repeats = [](const Value& what, const Value& count) {
    return (what.is_text() || what.items() != nullptr) && count.is_integral();
  };
  if (sign == Sign::kMul && repeats(left, right)) return repeat(left, right.integer());
  if (sign == Sign::kMul && repeats(right, left)) return repeat(right, left.integer());
  fail_operands(sign_text(sign), left, right);
}

bool compare(Sign sign, const Value& left, const Value& right) {
  switch (sign) {
    case Sign::kEq:
      return equal(left, right);
    case Sign::kNe:
      return !equal(left, right);
    case Sign::kLt:
      return less(left, right, "<");
    case Sign::kGt:
      return less(right, left, ">");
    case Sign::kLe:
    case Sign::kGe: {
      const Value& a = sign == Sign::kLe ? left : right;
      const Value& b = sign == Sign::kLe ? right : left;
      if (a.is_number() && b.is_number()) return less(a, b, sign_text(sign)) || equal(a, b);
      return !less(b, a, sign_text(sign));
    }
    case Sign::kNotIn:
      return !contains(right, left);
    default:
      return contains(right, left);
  }
}

bool contains(const Value& container, const Value& item) {
  if (const std::string* text = container.text()) {
    if (!item.is_text()) fail("'in <string>' requires string as left operand, not {}", item.type_name());
    return find_text(*text, *item.text()) != std::string::npos;
  }
  if (const Dict* dict = container.dict()) return dict->find(item) != nullptr;
  if (const Range* range = container.object<Range>()) {
    if (!item.is_number() || item.real() != std::floor(item.real())) return false;
    const Int value = item.is_integral() ? item.integer() : static_cast<Int>(item.real());
    const Int index = (value - range->start) / range->step;
    return index >= 0 && index < range->length() && range->at(index) == value;
  }
  if (Generator* generator = container.object<Generator>()) {  // uses it up to the item
    while (generator->position < generator->items.size()) {
      if (equal(generator->items[generator->position++], item)) return true;
    }
    return false;
  }
  if (const DictView* view = container.object<DictView>(); view != nullptr && view->part == DictView::Part::kKeys) {
    return view->dict->find(item) != nullptr;
  }
  if (!is_iterable(container)) fail("argument of type '{}' is not iterable", container.type_name());
  const std::vector<Value> items = iterate(container);
  return std::any_of(items.begin(), items.end(), [&](const Value& other) { return equal(other, item); });
}

std::vector<Value> iterate(const Value& value) {
  if (value.is_undefined()) return {};
  if (const auto* items = value.items()) {
    charge_copies(items->size());
    return *items;
  }
  std::vector<Value> out;
  if (const std::string* text = value.text()) {
    for (std::size_t at = 0; at < text->size();) {
      const std::size_t begin = at;
      (void)decode_utf8(*text, at);
      out.emplace_back(text->substr(begin, at - begin));
    }
  } else if (const Dict* dict = value.dict()) {
    charge_copies(dict->entries().size());
    for (const auto& [key, item] : dict->entries()) out.push_back(key);
  } else if (const Range* range = value.object<Range>()) {
    const Int size = range->length();
    charge_copies(static_cast<std::size_t>(size));
    for (Int i = 0; i < size; ++i) out.emplace_back(range->at(i));
  } else if (const DictView* view = value.object<DictView>()) {
    charge_copies(view->dict->entries().size());
    out = view->items();
  } else if (Generator* generator = value.object<Generator>()) {
    charge_copies(generator->items.size());
    out = generator->take_rest();
  } else {
    fail("'{}' object is not iterable", value.type_name());
  }
  return out;
}

bool is_iterable(const Value& value) {
  return value.is_undefined() || value.is_text() || value.items() != nullptr || value.dict() != nullptr ||
         value.object<Range>() != nullptr || value.object<DictView>() != nullptr ||
         value.object<Generator>() != nullptr;
}

bool has_length(const Value& value) { return is_iterable(value) && value.object<Generator>() == nullptr; }

std::size_t length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (const std::string* text = value.text()) return count_code_points(*text);
  if (const auto* items = value.items()) return items->size();
  if (const Dict* dict = value.dict()) return dict->entries().size();
  if (const Range* range = value.object<Range>()) return static_cast<std::size_t>(range->length());
  if (const DictView* view = value.object<DictView>()) return view->dict->entries().size();
  fail("object of type '{}' has no len()", value.type_name());
}

Value call(Runtime& runtime, const Value& callee, const Arguments& arguments) {
  require_defined(callee);
  Function* function = callee.object<Function>();
  if (function == nullptr) fail("'{}' object is not callable", callee.type_name());
  runtime.enter();
  Value result = function->call(runtime, arguments);
  runtime.leave();
  return result;
}

}  // namespace baton::jinja
