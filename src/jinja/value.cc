#include "jinja/value.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "jinja/format.h"
#include "jinja/meter.h"

namespace baton::jinja {
namespace {

constexpr std::size_t kLinearMax = 8;  // entries a dictionary searches without an index

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <typename... F>
Overloaded(F...) -> Overloaded<F...>;

int nesting_of(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  if (++depth > kNestingMax) fail("value is nested deeper than {} levels", kNestingMax);
  return depth;
}

constexpr std::size_t kTextBytes = 64;    // of a text's holders
constexpr std::size_t kEntryBytes = 192;  // of a dictionary's entry with its place in the index

std::shared_ptr<const Items> make_sequence(std::vector<Value> items) {
  charge_steps(items.size() / 16);
  charge_created(sizeof(Items) + items.size() * sizeof(Value));
  const int depth = nesting_of(items);
  return std::make_shared<const Items>(Items{std::move(items), depth});
}

}  // namespace

std::string Undefined::reason() const {
  switch (why) {
    case Why::kName:
      return fmt::format("'{}' is undefined", *text);
    case Why::kMember:
      if (std::string_view(holder) == "NoneType") return fmt::format("'None' has no attribute '{}'", *text);
      return fmt::format("'{} object' has no attribute '{}'", holder, *text);
    case Why::kReason:
      break;
  }
  return *text;
}

Value::Value(std::string value, bool markup) {
  check_text_size(value.size());
  charge_read(value.size());
  charge_created(value.size() + kTextBytes);
  state_ = Text{std::make_shared<const std::string>(std::move(value)), markup};
}

Value Value::list(std::vector<Value> items) {
  Value value;
  value.state_ = List{make_sequence(std::move(items))};
  return value;
}

Value Value::tuple(std::vector<Value> items) {
  Value value;
  value.state_ = Tuple{make_sequence(std::move(items))};
  return value;
}

Value Value::undefined(std::string reason) {
  charge_created(reason.size() + kTextBytes);
  return Value(Undefined{Undefined::Why::kReason, nullptr, std::make_shared<const std::string>(std::move(reason))});
}

const std::string* Value::text() const {
  const Text* held = get<Text>();
  return held == nullptr ? nullptr : held->bytes.get();
}

const std::vector<Value>* Value::items() const {
  if (const List* held = get<List>()) return &held->sequence->items;
  if (const Tuple* held = get<Tuple>()) return &held->sequence->items;
  return nullptr;
}

const Dict* Value::dict() const {
  const auto* held = get<std::shared_ptr<const Dict>>();
  return held == nullptr ? nullptr : held->get();
}

Int Value::integer() const {
  if (const bool* held = get<bool>()) return *held ? 1 : 0;
  return *get<Int>();
}

double Value::real() const {
  if (const double* held = get<double>()) return *held;
  return static_cast<double>(integer());
}

bool Value::truthy() const {
  return std::visit(
      Overloaded{[](const Undefined&) { return false; }, [](const None&) { return false; },
                 [](bool value) { return value; }, [](const Int& value) { return value != 0; },
                 [](double value) { return value != 0; }, [](const Text& value) { return !value.bytes->empty(); },
                 [](const List& value) { return !value.sequence->items.empty(); },
                 [](const Tuple& value) { return !value.sequence->items.empty(); },
                 [](const std::shared_ptr<const Dict>& value) { return !value->entries().empty(); },
                 [](const std::shared_ptr<Object>& value) {
                   if (const auto* range = dynamic_cast<const Range*>(value.get())) return range->length() > 0;
                   if (const auto* view = dynamic_cast<const DictView*>(value.get())) {
                     return !view->dict->entries().empty();
                   }
                   return true;
                 }},
      state_);
}

const char* Value::type_name() const {
  static constexpr const char* kNames[] = {"Undefined", "NoneType", "bool",  "int", "float",
                                           "str",       "list",     "tuple", "dict"};
  if (const auto* held = get<std::shared_ptr<Object>>()) return (*held)->type_name();
  return kNames[state_.index()];
}

int Value::depth() const {
  if (const List* held = get<List>()) return held->sequence->depth;
  if (const Tuple* held = get<Tuple>()) return held->sequence->depth;
  if (const Dict* held = dict()) return held->depth();
  if (const auto* held = get<std::shared_ptr<Object>>()) return (*held)->depth();
  return 0;
}

template <typename Equal>
const Dict::Entry* Dict::find_entry(std::size_t hash, Equal equal_key) const {
  if (positions_.empty()) {
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      if (hashes_[i] == hash && equal_key(entries_[i].first)) return &entries_[i];
    }
    return nullptr;
  }
  const auto [first, last] = positions_.equal_range(hash);
  for (auto it = first; it != last; ++it) {
    if (equal_key(entries_[it->second].first)) return &entries_[it->second];
  }
  return nullptr;
}

void Dict::set(Value key, Value value) {
  charge_steps(1);
  charge_created(kEntryBytes);
  const std::size_t hash = hash_value(key);
  depth_ = std::max(depth_, 1 + std::max(key.depth(), value.depth()));
  if (depth_ > kNestingMax) fail("value is nested deeper than {} levels", kNestingMax);
  if (const Entry* entry = find_entry(hash, [&](const Value& other) { return equal(key, other); })) {
    entries_[static_cast<std::size_t>(entry - entries_.data())].second = std::move(value);
    return;
  }
  entries_.emplace_back(std::move(key), std::move(value));
  hashes_.push_back(hash);
  if (entries_.size() <= kLinearMax) return;
  for (std::size_t i = positions_.size(); i < entries_.size(); ++i) {
    positions_.emplace(hashes_[i], static_cast<std::uint32_t>(i));
  }
}

const Value* Dict::find(const Value& key) const {
  const Entry* entry = find_entry(hash_value(key), [&](const Value& other) { return equal(key, other); });
  return entry == nullptr ? nullptr : &entry->second;
}

const Value* Dict::find(std::string_view key) const {
  const Entry* entry = find_entry(std::hash<std::string_view>()(key), [&](const Value& other) {
    const std::string* text = other.text();
    return text != nullptr && *text == key;
  });
  return entry == nullptr ? nullptr : &entry->second;
}

Int Range::length() const {
  if (step > 0) return start < stop ? (stop - start + step - 1) / step : 0;
  return start > stop ? (start - stop - step - 1) / -step : 0;
}

std::string Range::repr() const {
  return step == 1 ? fmt::format("range({}, {})", start, stop) : fmt::format("range({}, {}, {})", start, stop, step);
}

std::vector<Value> DictView::items() const {
  std::vector<Value> out;
  out.reserve(dict->entries().size());
  for (const auto& [key, value] : dict->entries()) {
    switch (part) {
      case Part::kKeys:
        out.push_back(key);
        break;
      case Part::kValues:
        out.push_back(value);
        break;
      case Part::kItems:
        out.push_back(Value::tuple({key, value}));
        break;
    }
  }
  return out;
}

const char* DictView::type_name() const {
  return part == Part::kKeys ? "dict_keys" : part == Part::kValues ? "dict_values" : "dict_items";
}

std::string DictView::repr() const {
  return fmt::format("{}({})", type_name(), baton::jinja::repr(Value::list(items())));
}

Generator::Generator(std::vector<Value> all) : items(std::move(all)), nesting(nesting_of(items)) {
  charge_created(sizeof(Generator) + items.size() * sizeof(Value));
}

std::vector<Value> Generator::take_rest() {
  std::vector<Value> rest(items.begin() + static_cast<std::ptrdiff_t>(position), items.end());
  position = items.size();
  return rest;
}

std::optional<Value> Namespace::attribute(std::string_view name) {
  charge_steps(attributes.size() / 16);
  for (const auto& [key, value] : attributes) {
    if (key == name) return value;
  }
  return std::nullopt;
}

void Namespace::set(std::string_view name, Value value) {
  charge_steps(attributes.size() / 16);
  for (auto& [key, old] : attributes) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  attributes.emplace_back(std::string(name), std::move(value));
}

std::string Namespace::repr() const {
  static thread_local int depth = 0;  // namespaces can hold each other in a circle
  struct Level {
    Level() { ++depth; }
    ~Level() { --depth; }
  } const level;
  if (depth > kNestingMax) fail("namespaces are nested deeper than {} levels", kNestingMax);
  Dict attributes_dict;
  for (const auto& [key, value] : attributes) attributes_dict.set(key, value);
  return fmt::format("<Namespace {}>",
                     baton::jinja::repr(Value(std::make_shared<const Dict>(std::move(attributes_dict)))));
}

}  // namespace baton::jinja
