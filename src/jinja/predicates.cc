#include "jinja/predicates.h"

#include <algorithm>
#include <iterator>

#include "jinja/filters.h"
#include "jinja/format.h"
#include "jinja/ops.h"
#include "jinja/unicode.h"

namespace baton::jinja {
namespace {

using Is = bool (*)(const Value&);

// A test without arguments.
template <Is is>
bool simple(Runtime&, const Value& value, const Arguments& arguments) {
  const Bound bound("test", arguments, {});
  return is(value);
}

template <Sign sign>
bool comparison(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const Bound bound("test", arguments, {"/other"}, 1);
  return compare(runtime, sign, value, *bound[0]);
}

template <int rest>
bool is_rest_of_two(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const Bound bound("test", arguments, {});
  return equal(apply_binary(runtime, Sign::kMod, value, Value(Int{2})), Value(Int{rest}));
}

bool is_divisible_by(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const Bound bound("divisibleby", arguments, {"num"}, 1);
  return equal(apply_binary(runtime, Sign::kMod, value, *bound[0]), Value(Int{0}));
}

bool is_in(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const Bound bound("in", arguments, {"seq"}, 1);
  return contains(runtime, *bound[0], value);
}

// Identity: constants and small numbers by value, containers by address.
bool is_same_as(Runtime&, const Value& value, const Arguments& arguments) {
  const Bound bound("sameas", arguments, {"other"}, 1);
  const Value& other = *bound[0];
  if (std::string_view(value.type_name()) != other.type_name()) return false;
  if (value.items() != nullptr) return value.items() == other.items();
  if (value.dict() != nullptr) return value.dict() == other.dict();
  return equal(value, other);
}

bool has_filter(Runtime&, const Value& value, const Arguments& arguments) {
  const Bound bound("filter", arguments, {});
  return value.is_text() && find_filter(*value.text()) != nullptr;
}

bool has_predicate(Runtime&, const Value& value, const Arguments& arguments) {
  const Bound bound("test", arguments, {});
  return value.is_text() && find_predicate(*value.text()) != nullptr;
}

bool is_sequence(const Value& value) { return has_length(value) && value.object<DictView>() == nullptr; }

template <bool (*Wanted)(char32_t), bool (*Unwanted)(char32_t)>
bool has_case(const Value& value) {
  const std::u32string text = decode_all(to_string(value));
  return std::any_of(text.begin(), text.end(), Wanted) && std::none_of(text.begin(), text.end(), Unwanted);
}

constexpr PredicateEntry kPredicates[] = {
    {"defined", simple<[](const Value& v) { return !v.is_undefined(); }>},
    {"undefined", simple<[](const Value& v) { return v.is_undefined(); }>},
    {"none", simple<[](const Value& v) { return v.is_none(); }>},
    {"boolean", simple<[](const Value& v) { return v.get<bool>() != nullptr; }>},
    {"true", simple<[](const Value& v) { return v.get<bool>() != nullptr && v.truthy(); }>},
    {"false", simple<[](const Value& v) { return v.get<bool>() != nullptr && !v.truthy(); }>},
    {"integer", simple<[](const Value& v) { return v.get<Int>() != nullptr; }>},
    {"float", simple<[](const Value& v) { return v.get<double>() != nullptr; }>},
    {"number", simple<[](const Value& v) { return v.is_number(); }>},
    {"string", simple<[](const Value& v) { return v.is_text(); }>},
    {"mapping", simple<[](const Value& v) { return v.dict() != nullptr; }>},
    {"sequence", simple<is_sequence>},
    {"iterable", simple<is_iterable>},
    {"callable", simple<[](const Value& v) { return v.object<Function>() != nullptr || v.is_undefined(); }>},
    {"escaped", simple<[](const Value& v) { return v.is_text() && v.get<Text>()->markup; }>},
    {"lower", simple<has_case<is_lower, is_upper>>},
    {"upper", simple<has_case<is_upper, is_lower>>},
    {"odd", is_rest_of_two<1>},
    {"even", is_rest_of_two<0>},
    {"divisibleby", is_divisible_by},
    {"in", is_in},
    {"sameas", is_same_as},
    {"filter", has_filter},
    {"test", has_predicate},
    {"==", comparison<Sign::kEq>},
    {"eq", comparison<Sign::kEq>},
    {"equalto", comparison<Sign::kEq>},
    {"!=", comparison<Sign::kNe>},
    {"ne", comparison<Sign::kNe>},
    {">", comparison<Sign::kGt>},
    {"gt", comparison<Sign::kGt>},
    {"greaterthan", comparison<Sign::kGt>},
    {">=", comparison<Sign::kGe>},
    {"ge", comparison<Sign::kGe>},
    {"<", comparison<Sign::kLt>},
    {"lt", comparison<Sign::kLt>},
    {"lessthan", comparison<Sign::kLt>},
    {"<=", comparison<Sign::kLe>},
    {"le", comparison<Sign::kLe>},
};

}  // namespace

const PredicateEntry* find_predicate(std::string_view name) {
  const auto* found = std::find_if(std::begin(kPredicates), std::end(kPredicates),
                                   [&](const PredicateEntry& entry) { return entry.name == name; });
  return found == std::end(kPredicates) ? nullptr : found;
}

}  // namespace baton::jinja
