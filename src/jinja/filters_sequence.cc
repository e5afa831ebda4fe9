#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "jinja/filters.h"
#include "jinja/format.h"
#include "jinja/ops.h"
#include "jinja/predicates.h"
#include "jinja/unicode.h"

namespace baton::jinja {
namespace {

Value generator(std::vector<Value> items) {
  return Value(std::shared_ptr<Object>(std::make_shared<Generator>(std::move(items))));
}

Value fold_case(const Value& value) { return value.is_text() ? Value(to_lower(*value.text())) : value; }

// An attribute argument such as "function.name" or 0: item.function.name, item[0].
class AttributePath {
 public:
  explicit AttributePath(const Value* attribute) {
    if (attribute == nullptr || attribute->is_none()) return;
    const std::string* text = attribute->text();
    if (text == nullptr) {
      parts_.push_back(*attribute);
      return;
    }
    for (std::size_t begin = 0; begin <= text->size();) {
      const std::size_t end = std::min(text->find('.', begin), text->size());
      const std::string part = text->substr(begin, end - begin);
      const bool digits = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
      parts_.push_back(digits ? Value(parse_int(part).value_or(0)) : Value(part));
      begin = end + 1;
    }
  }

  [[nodiscard]] Value of(Runtime& runtime, Value item, const Value* otherwise = nullptr) const {
    for (const Value& part : parts_) {
      item = get_item(runtime, item, part);
      if (item.is_undefined() && otherwise != nullptr && !otherwise->is_none()) item = *otherwise;
    }
    return item;
  }

 private:
  std::vector<Value> parts_;
};

Value filter_list(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("list", arguments, {});
  return Value::list(iterate(runtime, input));
}

Value filter_join(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("join", arguments, {"d", "attribute"});
  const std::string separator = bound.has(0) ? to_string(*bound[0]) : "";
  const AttributePath path(bound[1]);
  std::string out;
  bool first = true;
  for (const Value& item : iterate(runtime, input)) {
    if (!first) out += separator;
    first = false;
    out += to_string(path.of(runtime, item));
    runtime.charge_bytes(out.size() < runtime.limits().output_bytes_max ? 0 : out.size());
  }
  return runtime.text(std::move(out));
}

Value filter_first(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("first", arguments, {});
  if (Generator* source = input.object<Generator>(); source != nullptr && source->position < source->items.size()) {
    return source->items[source->position++];
  }
  const std::vector<Value> items = iterate(runtime, input);
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
}

Value filter_last(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("last", arguments, {});
  if (!has_length(input)) fail("'{}' object is not reversible", input.type_name());
  const std::vector<Value> items = iterate(runtime, input);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value filter_items(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("items", arguments, {});
  if (input.is_undefined()) return generator({});
  const Dict* dict = input.dict();
  if (dict == nullptr) fail("Can only get item pairs from a mapping.");
  runtime.charge_items(dict->entries().size());
  std::vector<Value> items;
  for (const auto& [key, value] : dict->entries()) items.push_back(Value::tuple({key, value}));
  return generator(std::move(items));
}

Value filter_reverse(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("reverse", arguments, {});
  if (const Text* text = input.get<Text>()) {
    const std::u32string characters = decode_all(*text->bytes);
    std::string out;
    for (auto it = characters.rbegin(); it != characters.rend(); ++it) append_utf8(out, *it);
    return runtime.text(std::move(out), text->markup);
  }
  if (!is_iterable(input)) fail("argument must be iterable");
  std::vector<Value> items = iterate(runtime, input);
  std::reverse(items.begin(), items.end());
  return has_length(input) ? generator(std::move(items)) : Value::list(std::move(items));
}

// Sorts by keys made once. Comparing counts as work.
std::vector<Value> sort_by(Runtime& runtime, std::vector<std::pair<Value, Value>> keyed, bool reverse) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    runtime.step();
    return reverse ? less(b.first, a.first) : less(a.first, b.first);
  });
  std::vector<Value> out;
  out.reserve(keyed.size());
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return out;
}

Value filter_sort(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<AttributePath> paths;  // "a,b" sorts by several
  if (bound.has(2) && bound[2]->is_text()) {
    const std::string& names = *bound[2]->text();
    for (std::size_t begin = 0; begin <= names.size();) {
      const std::size_t end = std::min(names.find(',', begin), names.size());
      const Value name(names.substr(begin, end - begin));
      paths.emplace_back(&name);
      begin = end + 1;
    }
  } else {
    paths.emplace_back(bound[2]);
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : iterate(runtime, input)) {
    std::vector<Value> keys;
    for (const AttributePath& path : paths) {
      const Value key = path.of(runtime, item);
      keys.push_back(bound.truthy(1) ? key : fold_case(key));
    }
    keyed.emplace_back(Value::list(std::move(keys)), std::move(item));
  }
  return Value::list(sort_by(runtime, std::move(keyed), bound.integer(0, 0) != 0));
}

Value filter_dictsort(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = bound.has(1) ? to_string(*bound[1]) : "key";
  if (by != "key" && by != "value") fail("You can only sort by either \"key\" or \"value\"");
  if (const Undefined* undefined = input.get<Undefined>()) fail("{}", undefined->reason());
  const Dict* dict = input.dict();
  if (dict == nullptr) fail("'{}' object has no attribute 'items'", input.type_name());
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : dict->entries()) {
    const Value& chosen = by == "key" ? key : value;
    keyed.emplace_back(bound.truthy(0) ? chosen : fold_case(chosen), Value::tuple({key, value}));
  }
  return Value::list(sort_by(runtime, std::move(keyed), bound.integer(2, 0) != 0));
}

Value filter_unique(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("unique", arguments, {"case_sensitive", "attribute"});
  const AttributePath path(bound[1]);
  Dict seen;
  std::vector<Value> out;
  for (Value& item : iterate(runtime, input)) {
    const Value key = path.of(runtime, item);
    const Value folded = bound.truthy(0) ? key : fold_case(key);
    if (seen.find(folded) != nullptr) continue;
    seen.set(folded, Value());
    out.push_back(std::move(item));
  }
  return generator(std::move(out));
}

template <bool largest>
Value filter_extreme(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("min", arguments, {"case_sensitive", "attribute"});
  const AttributePath path(bound[1]);
  const std::vector<Value> items = iterate(runtime, input);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const auto key_of = [&](const Value& item) {
    const Value key = path.of(runtime, item);
    return bound.truthy(0) ? key : fold_case(key);
  };
  std::size_t best = 0;
  Value best_key = key_of(items[0]);
  for (std::size_t i = 1; i < items.size(); ++i) {
    Value key = key_of(items[i]);
    if (largest ? !less(best_key, key, ">") : !less(key, best_key)) continue;
    best = i;
    best_key = std::move(key);
  }
  return items[best];
}

Value filter_sum(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound("sum", arguments, {"attribute", "start"});
  const AttributePath path(bound[0]);
  Value total = bound.has(1) ? *bound[1] : Value(Int{0});
  if (total.is_text()) fail("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : iterate(runtime, input)) {
    total = apply_binary(runtime, Sign::kAdd, total, path.of(runtime, item));
  }
  return total;
}

// map(attribute=...) or map('filter', arguments...).
Value filter_map(Runtime& runtime, const Value& input, const Arguments& arguments) {
  std::vector<Value> out;
  if (!input.truthy()) return generator({});
  std::vector<Value> items = iterate(runtime, input);
  if (arguments.positional.empty()) {
    const Bound bound("map", arguments, {"attribute", "default"});
    if (!bound.has(0)) fail("map requires a filter argument");
    const AttributePath path(bound[0]);
    for (const Value& item : items) out.push_back(path.of(runtime, item, bound[1]));
    return generator(std::move(out));
  }
  const Value& name = arguments.positional.front();
  const FilterEntry* filter = name.is_text() ? find_filter(*name.text()) : nullptr;
  if (filter == nullptr && !items.empty()) fail("No filter named {}.", repr(name));
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  for (const Value& item : items) {
    runtime.step();
    out.push_back(filter->run(runtime, item, rest));
  }
  return generator(std::move(out));
}

// select, reject, selectattr, rejectattr: keeps what the test, or without one the value itself, says.
template <bool keep, bool by_attribute>
Value filter_select(Runtime& runtime, const Value& input, const Arguments& arguments) {
  if (!input.truthy()) return generator({});
  Arguments rest = arguments;
  const auto take = [&]() -> std::optional<Value> {
    if (rest.positional.empty()) return std::nullopt;
    Value first = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
    return first;
  };
  std::optional<Value> attribute;
  if (by_attribute && !(attribute = take())) fail("Missing parameter for attribute name");
  const AttributePath path(attribute ? &*attribute : nullptr);
  const std::optional<Value> name = take();
  std::vector<Value> items = iterate(runtime, input);
  const PredicateEntry* predicate = name && name->is_text() ? find_predicate(*name->text()) : nullptr;
  if (name && predicate == nullptr && !items.empty()) fail("No test named {}.", repr(*name));
  std::vector<Value> out;
  for (Value& item : items) {
    runtime.step();
    const Value subject = path.of(runtime, item);
    const bool holds = predicate != nullptr ? predicate->run(runtime, subject, rest) : subject.truthy();
    if (holds == keep) out.push_back(std::move(item));
  }
  return generator(std::move(out));
}

constexpr FilterEntry kFilters[] = {
    {"dictsort", filter_dictsort},
    {"first", filter_first},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"list", filter_list},
    {"map", filter_map},
    {"max", filter_extreme<true>},
    {"min", filter_extreme<false>},
    {"reject", filter_select<false, false>},
    {"rejectattr", filter_select<false, true>},
    {"reverse", filter_reverse},
    {"select", filter_select<true, false>},
    {"selectattr", filter_select<true, true>},
    {"sort", filter_sort},
    {"sum", filter_sum},
    {"unique", filter_unique},
};

}  // namespace

const FilterEntry* find_sequence_filter(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                   [&](const FilterEntry& entry) { return entry.name == name; });
  return found == std::end(kFilters) ? nullptr : found;
}

}  // namespace baton::jinja
