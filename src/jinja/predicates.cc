#include "jinja/predicates.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "jinja/ops.h"

namespace baton::jinja {
namespace {

using Is = bool (*)(const Value&);

// A test without arguments.
template <Is is>
bool simple(const Value& value, const Arguments& arguments) {
  const Bound bound("test", arguments, {});
  return is(value);
}

template <Sign sign>
bool comparison(const Value& value, const Arguments& arguments) {
  const Bound bound("test", arguments, {"/other"}, 1);
  return compare(sign, value, *bound[0]);
}

template <int rest>
bool is_rest_of_two(const Value& value, const Arguments& arguments) {
  const Bound bound("test", arguments, {});
  if (value.get<double>() != nullptr) return std::fmod(std::fabs(value.real()), 2) == rest;
  return equal(apply_binary(Sign::kMod, value, Value(Int{2})), Value(Int{rest}));
}

bool is_in(const Value& value, const Arguments& arguments) {
  const Bound bound("in", arguments, {"seq"}, 1);
  return contains(*bound[0], value);
}

bool is_sequence(const Value& value) { return has_length(value) && value.object<DictView>() == nullptr; }

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
    {"odd", is_rest_of_two<1>},
    {"even", is_rest_of_two<0>},
    {"in", is_in},
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

// Jinja has these too; no template of the supported families uses them.
constexpr std::string_view kLeftOut[] = {"callable", "divisibleby", "escaped", "filter",
                                         "lower",    "sameas",      "test",    "upper"};

}  // namespace

const PredicateEntry* find_predicate(std::string_view name) {
  const auto* found = std::find_if(std::begin(kPredicates), std::end(kPredicates),
                                   [&](const PredicateEntry& entry) { return entry.name == name; });
  return found == std::end(kPredicates) ? nullptr : found;
}

std::string no_such_test(std::string_view name) {
  const bool known = std::find(std::begin(kLeftOut), std::end(kLeftOut), name) != std::end(kLeftOut);
  return known ? fmt::format("the test '{}' of Jinja is not supported", name)
               : fmt::format("No test named '{}'.", name);
}

}  // namespace baton::jinja
