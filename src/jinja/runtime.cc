#include "jinja/runtime.h"

#include <algorithm>

namespace baton::jinja {
namespace {

std::string_view plain(std::string_view name) { return name.substr(name.front() == '/' ? 1 : 0); }

}  // namespace

void Runtime::enter() {
  if (++depth_ > limits_.depth_max) fail("maximum recursion depth of {} exceeded", limits_.depth_max);
}

Bound::Bound(std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> names,
             std::size_t required)
    : function_(function), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names.size()) {
    fail("{}() takes at most {} arguments ({} given)", function, names.size(), arguments.positional.size());
  }
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.keyword) {
    const auto* found = std::find(names.begin(), names.end(), std::string_view(name));
    if (found == names.end()) fail("{}() got an unexpected keyword argument '{}'", function, name);
    const auto at = static_cast<std::size_t>(found - names.begin());
    if (values_[at] != nullptr) fail("{}() got multiple values for argument '{}'", function, name);
    values_[at] = &value;
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) fail("{}() missing required argument: '{}'", function, plain(names.begin()[i]));
  }
}

Int Bound::integer(std::size_t i, Int otherwise) const {
  if (!has(i)) return otherwise;
  const Value& value = *values_[i];
  if (const Undefined* undefined = value.get<Undefined>()) fail("{}", undefined->reason());
  if (!value.is_integral()) fail("{}(): an integer is required, not '{}'", function_, value.type_name());
  return value.integer();
}

const std::string& Bound::text(std::size_t i) const {
  const std::string* held = values_[i]->text();
  if (held == nullptr) fail("{}() argument must be str, not '{}'", function_, values_[i]->type_name());
  return *held;
}

}  // namespace baton::jinja
