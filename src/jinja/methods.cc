#include "jinja/methods.h"

#include <algorithm>
#include <span>

#include "jinja/format.h"
#include "jinja/ops.h"
#include "jinja/unicode.h"

namespace baton::jinja {
namespace {

using Run = Value (*)(const Value& self, const Arguments& arguments);

struct Method {
  std::string_view name;
  Run run;
};

struct BoundMethod final : Function {
  BoundMethod(Value receiver_value, const Method& bound) : receiver(std::move(receiver_value)), method(bound) {}
  Value call(Runtime&, const Arguments& arguments) override { return method.run(receiver, arguments); }
  [[nodiscard]] const char* type_name() const override { return "builtin_function_or_method"; }
  [[nodiscard]] std::string repr() const override {
    return fmt::format("<built-in method {} of {} object>", method.name, receiver.type_name());
  }
  [[nodiscard]] int depth() const override { return receiver.depth() + 1; }
  const Value receiver;
  const Method& method;
};

bool is_markup(const Value& self) { return self.get<Text>()->markup; }

std::string_view method_name(Side side) {
  return side == Side::kBoth ? "strip" : side == Side::kLeft ? "lstrip" : "rstrip";
}

template <Side side>
Value run_strip(const Value& self, const Arguments& arguments) {
  const Bound bound(method_name(side), arguments, {"/chars"});
  const std::string_view stripped =
      bound.given(0) ? strip(*self.text(), side, bound.text(0)) : strip(*self.text(), side);
  return Value(std::string(stripped), is_markup(self));
}

template <std::string (*Map)(std::string_view)>
Value run_map(const Value& self, const Arguments& arguments) {
  const Bound bound("str method", arguments, {});
  return Value(Map(*self.text()), is_markup(self));
}

// The parts of a text, one by one.
class Parts {
 public:
  explicit Parts(bool markup) : markup_(markup) {}
  void add(std::string_view part) { parts_.emplace_back(std::string(part), markup_); }
  [[nodiscard]] Int count() const { return static_cast<Int>(parts_.size()); }
  Value take() { return Value::list(std::move(parts_)); }

 private:
  const bool markup_;
  std::vector<Value> parts_;
};

Value split_on(std::string_view text, std::string_view separator, Int splits_max, bool markup) {
  Parts parts(markup);
  std::size_t begin = 0;
  while (splits_max < 0 || parts.count() < splits_max) {
    charge_steps(1);
    const std::size_t at = find_text(text, separator, begin);
    if (at == std::string_view::npos) break;
    parts.add(text.substr(begin, at - begin));
    begin = at + separator.size();
  }
  parts.add(text.substr(begin));
  return parts.take();
}

// At runs of white space, none at the ends.
Value split_words(std::string_view text, Int splits_max, bool markup) {
  charge_read(text.size());
  Parts parts(markup);
  const auto run_end = [&](std::size_t at, bool of_space) {
    while (at < text.size()) {
      std::size_t next = at;
      if (is_space(decode_utf8(text, next)) != of_space) break;
      at = next;
    }
    return at;
  };
  for (std::size_t begin = run_end(0, true); begin < text.size();) {
    if (splits_max >= 0 && parts.count() >= splits_max) {
      parts.add(text.substr(begin));
      break;
    }
    const std::size_t end = run_end(begin, false);
    parts.add(text.substr(begin, end - begin));
    begin = run_end(end, true);
  }
  return parts.take();
}

Value run_split(const Value& self, const Arguments& arguments) {
  const Bound bound("split", arguments, {"sep", "maxsplit"});
  const Int splits_max = bound.integer(1, -1);
  if (!bound.given(0)) return split_words(*self.text(), splits_max, is_markup(self));
  if (bound.text(0).empty()) fail("empty separator");
  return split_on(*self.text(), bound.text(0), splits_max, is_markup(self));
}

// The part of a text that the optional start and end arguments of find, count and the like select.
struct Window {
  std::string_view text;
  Int start = 0;  // in characters
  bool valid = true;
};

Window select_window(std::string_view text, const Bound& bound) {
  if (!bound.given(1) && !bound.given(2)) return {text, 0, true};
  const auto size = static_cast<Int>(count_code_points(text));
  const auto resolve = [&](std::size_t i, Int preset) {
    if (!bound.given(i)) return preset;
    const Int index = bound.integer(i, preset);
    return index < 0 ? std::max<Int>(0, index + size) : index;
  };
  const Int start = resolve(1, 0);
  const Int end = std::min(resolve(2, size), size);
  if (start > end) return {text.substr(0, 0), start, false};
  std::size_t begin_byte = 0;
  for (Int i = 0; i < start; ++i) (void)decode_utf8(text, begin_byte);
  std::size_t end_byte = begin_byte;
  for (Int i = start; i < end; ++i) (void)decode_utf8(text, end_byte);
  return {text.substr(begin_byte, end_byte - begin_byte), start, true};
}

template <bool at_end>
Value run_affix(const Value& self, const Arguments& arguments) {
  const char* name = at_end ? "endswith" : "startswith";
  const Bound bound(name, arguments, {"/prefix", "/start", "/end"}, 1);
  const Window window = select_window(*self.text(), bound);
  const auto matches = [&](const Value& affix) {
    charge_steps(1);
    if (!affix.is_text()) fail("{} first arg must be str or a tuple of str, not {}", name, affix.type_name());
    charge_read(affix.text()->size());
    return window.valid && (at_end ? window.text.ends_with(*affix.text()) : window.text.starts_with(*affix.text()));
  };
  if (bound[0]->get<Tuple>() == nullptr) return Value(matches(*bound[0]));
  const auto& all = *bound[0]->items();
  return Value(std::any_of(all.begin(), all.end(), matches));
}

Value run_find(const Value& self, const Arguments& arguments) {
  const Bound bound("find", arguments, {"/sub", "/start", "/end"}, 1);
  const std::string& part = bound.text(0);
  const Window window = select_window(*self.text(), bound);
  const std::size_t at = find_text(window.text, part);
  if (!window.valid || at == std::string_view::npos) return Value(Int{-1});
  return Value(window.start + static_cast<Int>(count_code_points(window.text.substr(0, at))));
}

Value run_replace(const Value& self, const Arguments& arguments) {
  const Bound bound("replace", arguments, {"/old", "/new", "count"}, 2);
  return Value(replace_text(*self.text(), bound.text(0), bound.text(1), bound.integer(2, -1)), is_markup(self));
}

Value run_join(const Value& self, const Arguments& arguments) {
  const Bound bound("join", arguments, {"/iterable"}, 1);
  std::string out;
  std::size_t index = 0;
  for (const Value& item : iterate(*bound[0])) {
    if (!item.is_text()) fail("sequence item {}: expected str instance, {} found", index, item.type_name());
    if (index++ > 0) out += *self.text();
    out += *item.text();
    check_text_size(out.size());
  }
  return Value(std::move(out), is_markup(self));
}

constexpr Method kTextMethods[] = {
    {"strip", run_strip<Side::kBoth>},
    {"lstrip", run_strip<Side::kLeft>},
    {"rstrip", run_strip<Side::kRight>},
    {"split", run_split},
    {"startswith", run_affix<false>},
    {"endswith", run_affix<true>},
    {"upper", run_map<to_upper>},
    {"lower", run_map<to_lower>},
    {"replace", run_replace},
    {"join", run_join},
    {"find", run_find},
};

Value run_get(const Value& self, const Arguments& arguments) {
  const Bound bound("get", arguments, {"/key", "/default"}, 1);
  const Value* found = self.dict()->find(*bound[0]);
  if (found != nullptr) return *found;
  return bound.has(1) ? *bound[1] : Value();
}

template <DictView::Part part>
Value run_view(const Value& self, const Arguments& arguments) {
  const Bound bound("dict method", arguments, {});
  charge_created(sizeof(DictView));
  auto view = std::make_shared<DictView>();
  view->dict = *self.get<std::shared_ptr<const Dict>>();
  view->part = part;
  return Value(std::shared_ptr<Object>(std::move(view)));
}

constexpr Method kDictMethods[] = {
    {"get", run_get},
    {"items", run_view<DictView::Part::kItems>},
    {"keys", run_view<DictView::Part::kKeys>},
    {"values", run_view<DictView::Part::kValues>},
};

// What Python has and no template of the supported families uses, or the sandbox forbids.
constexpr std::string_view kTextLeftOut[] = {
    "capitalize",   "casefold",     "center",    "count",   "encode",    "expandtabs", "format",       "format_map",
    "index",        "isalnum",      "isalpha",   "isascii", "isdecimal", "isdigit",    "isidentifier", "islower",
    "isnumeric",    "isprintable",  "isspace",   "istitle", "isupper",   "ljust",      "maketrans",    "partition",
    "removeprefix", "removesuffix", "rfind",     "rindex",  "rjust",     "rpartition", "rsplit",       "splitlines",
    "swapcase",     "title",        "translate", "zfill"};
constexpr std::string_view kSequenceLeftOut[] = {"copy", "count", "index"};
constexpr std::string_view kDictLeftOut[] = {"copy", "fromkeys"};
constexpr std::string_view kListForbidden[] = {"append", "clear",  "extend",  "insert",
                                               "pop",    "remove", "reverse", "sort"};
constexpr std::string_view kDictForbidden[] = {"clear", "pop", "popitem", "setdefault", "update"};

struct Methods {
  std::span<const Method> known;
  std::span<const std::string_view> left_out;
  std::span<const std::string_view> forbidden;
};

Methods methods_of(const Value& receiver) {
  if (receiver.is_text()) return {kTextMethods, kTextLeftOut, {}};
  if (receiver.dict() != nullptr) return {kDictMethods, kDictLeftOut, kDictForbidden};
  if (receiver.get<List>() != nullptr) return {{}, kSequenceLeftOut, kListForbidden};
  if (receiver.get<Tuple>() != nullptr) return {{}, kSequenceLeftOut, {}};
  return {};
}

}  // namespace

std::string replace_text(std::string_view text, std::string_view old, std::string_view replacement, Int count) {
  std::string out;
  std::size_t at = 0;
  for (Int done = 0; count < 0 || done < count; ++done) {
    charge_steps(1);
    charge_read(replacement.size());
    const std::size_t found = old.empty() ? at : find_text(text, old, at);
    if (found == std::string_view::npos) break;
    out.append(text.substr(at, found - at));
    out += replacement;
    check_text_size(out.size());
    at = found + old.size();
    if (!old.empty()) continue;
    if (at == text.size()) return out;  // behind the last character
    std::size_t next = at;
    (void)decode_utf8(text, next);
    out.append(text.substr(at, next - at));
    at = next;
  }
  out.append(text.substr(at));
  return out;
}

std::optional<Value> find_method(const Value& receiver, std::string_view name) {
  const Methods methods = methods_of(receiver);
  const auto found = std::find_if(methods.known.begin(), methods.known.end(),
                                  [&](const Method& method) { return method.name == name; });
  if (found != methods.known.end()) {
    charge_created(sizeof(BoundMethod));
    return Value(std::shared_ptr<Object>(std::make_shared<BoundMethod>(receiver, *found)));
  }
  const auto is_in = [&](std::span<const std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  // A key of that name comes first.
  if (is_in(methods.left_out) && (receiver.dict() == nullptr || receiver.dict()->find(name) == nullptr)) {
    return Value::undefined(fmt::format("the method '{}' of {} is not supported", name, receiver.type_name()));
  }
  const bool internal = name.size() > 4 && name.starts_with("__") && name.ends_with("__") && receiver.dict() == nullptr;
  if (internal || is_in(methods.forbidden)) {
    return Value::undefined(
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, receiver.type_name()));
  }
  return std::nullopt;
}

}  // namespace baton::jinja
