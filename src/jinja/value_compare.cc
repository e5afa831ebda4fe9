// Equality, order and hashes of values, as Python has them.
#include <algorithm>
#include <functional>

#include "jinja/meter.h"
#include "jinja/value.h"

namespace baton::jinja {
namespace {

bool equal_sequences(const std::vector<Value>& a, const std::vector<Value>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), equal);
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.entries().size() != b.entries().size()) return false;
  return std::all_of(a.entries().begin(), a.entries().end(), [&](const Dict::Entry& entry) {
    const Value* other = b.find(entry.first);
    return other != nullptr && equal(entry.second, *other);
  });
}

bool equal_objects(const std::shared_ptr<Object>& a, const std::shared_ptr<Object>& b) {
  if (a == b) return true;
  const auto* left = dynamic_cast<const Range*>(a.get());
  const auto* right = dynamic_cast<const Range*>(b.get());
  if (left == nullptr || right == nullptr || left->length() != right->length()) return false;
  const Int n = left->length();
  return n == 0 || (left->start == right->start && (n == 1 || left->step == right->step));
}

bool equal_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
  return a.real() == b.real();
}

}  // namespace

std::size_t hash_value(const Value& value) {
  charge_steps(1);  // a tuple can hold another one often
  if (const std::string* text = value.text()) {
    charge_read(text->size());
    return std::hash<std::string_view>()(*text);
  }
  if (value.is_none()) return 0x6e6f6e65;
  if (value.is_undefined()) return 0x756e6465;
  if (value.is_number()) return std::hash<double>()(value.real());
  if (value.get<Tuple>() != nullptr) {
    std::size_t hash = 0x7475706c;
    for (const Value& item : *value.items()) hash = hash * 1000003 + hash_value(item);
    return hash;
  }
  if (const Range* range = value.object<Range>()) return static_cast<std::size_t>(range->length());
  const auto* object = value.get<std::shared_ptr<Object>>();
  if (object != nullptr && value.object<DictView>() == nullptr) return std::hash<const Object*>()(object->get());
  fail("unhashable type: '{}'", value.type_name());
}

bool equal(const Value& a, const Value& b) {
  charge_steps(1);  // a list can hold another one often
  if (a.is_number() && b.is_number()) return equal_numbers(a, b);
  const std::string* text = a.text();
  if (text != nullptr) {
    if (b.text() == nullptr || text->size() != b.text()->size()) return false;
    charge_read(text->size());
    return *text == *b.text();
  }
  if (a.is_none() || a.is_undefined()) return std::string_view(a.type_name()) == b.type_name();
  if ((a.get<List>() != nullptr && b.get<List>() != nullptr) ||
      (a.get<Tuple>() != nullptr && b.get<Tuple>() != nullptr)) {
    return equal_sequences(*a.items(), *b.items());
  }
  if (a.dict() != nullptr && b.dict() != nullptr) return equal_dicts(*a.dict(), *b.dict());
  const auto* left = a.get<std::shared_ptr<Object>>();
  const auto* right = b.get<std::shared_ptr<Object>>();
  return left != nullptr && right != nullptr && equal_objects(*left, *right);
}

bool less(const Value& a, const Value& b, const char* sign) {
  charge_steps(1);
  for (const Value* side : {&a, &b}) {
    if (const Undefined* undefined = side->get<Undefined>()) fail("{}", undefined->reason());
  }
  if (a.is_integral() && b.is_integral()) return a.integer() < b.integer();
  if (a.is_number() && b.is_number()) return a.real() < b.real();
  if (a.is_text() && b.is_text()) charge_read(std::min(a.text()->size(), b.text()->size()));
  if (a.is_text() && b.is_text()) return *a.text() < *b.text();  // UTF-8 orders like its code points
  if ((a.get<List>() != nullptr && b.get<List>() != nullptr) ||
      (a.get<Tuple>() != nullptr && b.get<Tuple>() != nullptr)) {
    const auto& left = *a.items();
    const auto& right = *b.items();
    for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equal(left[i], right[i])) return less(left[i], right[i], sign);
    }
    return left.size() < right.size();
  }
  fail("'{}' not supported between instances of '{}' and '{}'", sign, a.type_name(), b.type_name());
}

}  // namespace baton::jinja
