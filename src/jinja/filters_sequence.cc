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
      charge_created(sizeof(Value));
      const bool digits = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
      parts_.push_back(digits ? Value(parse_int(part).value_or(0)) : Value(part));
      begin = end + 1;
    }
  }

  [[nodiscard]] Value of(Value item, const Value* otherwise = nullptr) const {
    for (const Value& part : parts_) {
      charge_steps(1);
      item = get_item(item, part);
      if (item.is_undefined() && otherwise != nullptr && !otherwise->is_none()) item = *otherwise;
    }
    return item;
  }

 private:
  std::vector<Value> parts_;
};

Value filter_list(const Value& input, const Arguments& arguments) {
  const Bound bound("list", arguments, {});
  return Value::list(iterate(input));
}

Value filter_join(const Value& input, const Arguments& arguments) {
  const Bound bound("join", arguments, {"d", "attribute"});
  const std::string separator = bound.has(0) ? to_string(*bound[0]) : "";
  const AttributePath path(bound[1]);
  std::string out;
  bool first = true;
  for (const Value& item : iterate(input)) {
    if (!first) out += separator;
    first = false;
    out += to_string(path.of(item));
    check_text_size(out.size());
  }
  return Value(std::move(out));
}

Value filter_first(const Value& input, const Arguments& arguments) {
  const Bound bound("first", arguments, {});
  if (Generator* source = input.object<Generator>(); source != nullptr && source->position < source->items.size()) {
    return source->items[source->position++];
  }
  const std::vector<Value> items = iterate(input);
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
}

Value filter_last(const Value& input, const Arguments& arguments) {
  const Bound bound("last", arguments, {});
  if (!has_length(input)) fail("'{}' object is not reversible", input.type_name());
  const std::vector<Value> items = iterate(input);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value filter_items(const Value& input, const Arguments& arguments) {
  const Bound bound("items", arguments, {});
  if (input.is_undefined()) return generator({});
  const Dict* dict = input.dict();
  if (dict == nullptr) fail("Can only get item pairs from a mapping.");
  std::vector<Value> items;
  for (const auto& [key, value] : dict->entries()) items.push_back(Value::tuple({key, value}));
  return generator(std::move(items));
}

// Sorts by keys made once.
std::vector<Value> sort_by(std::vector<std::pair<Value, Value>> keyed, bool reverse) {
  charge_created(keyed.size() * 3 * sizeof(Value));
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? less(b.first, a.first) : less(a.first, b.first);
  });
  std::vector<Value> out;
  out.reserve(keyed.size());
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return out;
}

Value filter_sort(const Value& input, const Arguments& arguments) {
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
  for (Value& item : iterate(input)) {
    std::vector<Value> keys;
    for (const AttributePath& path : paths) {
      const Value key = path.of(item);
      keys.push_back(bound.truthy(1) ? key : fold_case(key));
    }
    keyed.emplace_back(Value::list(std::move(keys)), std::move(item));
  }
  return Value::list(sort_by(std::move(keyed), bound.integer(0, 0) != 0));
}

Value filter_dictsort(const Value& input, const Arguments& arguments) {
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
  return Value::list(sort_by(std::move(keyed), bound.integer(2, 0) != 0));
}

Value filter_unique(const Value& input, const Arguments& arguments) {
  const Bound bound("unique", arguments, {"case_sensitive", "attribute"});
  const AttributePath path(bound[1]);
  Dict seen;
  std::vector<Value> out;
  for (Value& item : iterate(input)) {
    const Value key = path.of(item);
    const Value folded = bound.truthy(0) ? key : fold_case(key);
    if (seen.find(folded) != nullptr) continue;
    seen.set(folded, Value());
    out.push_back(std::move(item));
  }
  return generator(std::move(out));
}

template <bool largest>
Value filter_extreme(const Value& input, const Arguments& arguments) {
  const Bound bound("min", arguments, {"case_sensitive", "attribute"});
  const AttributePath path(bound[1]);
  const std::vector<Value> items = iterate(input);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const auto key_of = [&](const Value& item) {
    const Value key = path.of(item);
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

// map(attribute=...) or map('filter', arguments...).
Value filter_map(const Value& input, const Arguments& arguments) {
  std::vector<Value> out;
  if (!input.truthy()) return generator({});
  std::vector<Value> items = iterate(input);
  if (arguments.positional.empty()) {
    const Bound bound("map", arguments, {"attribute", "default"});
    if (!bound.has(0)) fail("map requires a filter argument");
    const AttributePath path(bound[0]);
    for (const Value& item : items) out.push_back(path.of(item, bound[1]));
    return generator(std::move(out));
  }
  const Value& name = arguments.positional.front();
  const FilterEntry* filter = name.is_text() ? find_filter(*name.text()) : nullptr;
  if (filter == nullptr && !items.empty()) fail("{}", no_such_filter(to_string(name)));
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  for (const Value& item : items) {
    charge_steps(1);
    out.push_back(filter->run(item, rest));
  }
  return generator(std::move(out));
}

// select, reject, selectattr, rejectattr: keeps what the test, or without one the value itself, says.
template <bool keep, bool by_attribute>
Value filter_select(const Value& input, const Arguments& arguments) {
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
  std::vector<Value> items = iterate(input);
  const PredicateEntry* predicate = name && name->is_text() ? find_predicate(*name->text()) : nullptr;
  if (name && predicate == nullptr && !items.empty()) fail("{}", no_such_test(to_string(*name)));
  std::vector<Value> out;
  for (Value& item : items) {
    charge_steps(1);
    const Value subject = path.of(item);
    const bool holds = predicate != nullptr ? predicate->run(subject, rest) : subject.truthy();
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
    {"select", filter_select<true, false>},
    {"selectattr", filter_select<true, true>},
    {"sort", filter_sort},
    {"unique", filter_unique},
};

}  // namespace

const FilterEntry* find_sequence_filter(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                   [&](const FilterEntry& entry) { return entry.name == name; });
  return found == std::end(kFilters) ? nullptr : found;
}

}  // namespace baton::jinja
