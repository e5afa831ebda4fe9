#include "jinja/methods.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "jinja/format.h"
#include "jinja/ops.h"
#include "jinja/unicode.h"

namespace baton::jinja {
namespace {

using Run = Value (*)(Runtime& runtime, const Value& self, const Arguments& arguments);

struct Method {
  std::string_view name;
  Run run;
};

struct BoundMethod final : Function {
  BoundMethod(Value receiver_value, const Method& bound) : receiver(std::move(receiver_value)), method(bound) {}
  Value call(Runtime& runtime, const Arguments& arguments) override {
    if (receiver.dict() == nullptr) runtime.charge_read(receiver);
    return method.run(runtime, receiver, arguments);
  }
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
Value run_strip(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(method_name(side), arguments, {"/chars"});
  const std::string_view stripped =
      bound.given(0) ? strip(*self.text(), side, bound.text(0)) : strip(*self.text(), side);
  return runtime.text(std::string(stripped), is_markup(self));
}

template <std::string (*Map)(std::string_view)>
Value run_map(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound("str method", arguments, {});
  return runtime.text(Map(*self.text()), is_markup(self));
}

Value text_list(Runtime& runtime, const std::vector<std::string_view>& parts, bool markup) {
  runtime.step(parts.size());
  std::vector<Value> out;
  out.reserve(parts.size());
  for (const std::string_view part : parts) out.push_back(runtime.text(std::string(part), markup));
  return Value::list(std::move(out));
}

std::vector<std::string_view> split_on(std::string_view text, std::string_view separator, Int splits_max,
                                       bool from_right) {
  std::vector<std::string_view> parts;
  while (splits_max < 0 || static_cast<Int>(parts.size()) < splits_max) {
    const std::size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(from_right ? text.substr(at + separator.size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

// At runs of white space, none at the ends.
std::vector<std::string_view> split_words(std::string_view text, Int splits_max, bool from_right) {
  std::vector<std::string_view> parts;
  const Side side = from_right ? Side::kRight : Side::kLeft;
  for (text = strip(text, side); !text.empty(); text = strip(text, side)) {
    if (splits_max >= 0 && static_cast<Int>(parts.size()) >= splits_max) {
      parts.push_back(text);
      break;
    }
    std::size_t at = from_right ? text.size() : 0;
    while (from_right ? at > 0 : at < text.size()) {
      std::size_t next = at;
      if (is_space(from_right ? decode_utf8_back(text, next) : decode_utf8(text, next))) break;
      at = next;
    }
    parts.push_back(from_right ? text.substr(at) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at);
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

template <bool from_right>
Value run_split(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(from_right ? "rsplit" : "split", arguments, {"sep", "maxsplit"});
  const Int splits_max = bound.integer(1, -1);
  if (!bound.given(0)) return text_list(runtime, split_words(*self.text(), splits_max, from_right), is_markup(self));
  if (bound.text(0).empty()) fail("empty separator");
  return text_list(runtime, split_on(*self.text(), bound.text(0), splits_max, from_right), is_markup(self));
}

Value run_splitlines(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound("splitlines", arguments, {"keepends"});
  return text_list(runtime, split_lines(*self.text(), bound.integer(0, 0) != 0), is_markup(self));
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
Value run_affix(Runtime&, const Value& self, const Arguments& arguments) {
  const char* name = at_end ? "endswith" : "startswith";
  const Bound bound(name, arguments, {"/prefix", "/start", "/end"}, 1);
  const Window window = select_window(*self.text(), bound);
  const auto matches = [&](const Value& affix) {
    if (!affix.is_text()) fail("{} first arg must be str or a tuple of str, not {}", name, affix.type_name());
    return window.valid && (at_end ? window.text.ends_with(*affix.text()) : window.text.starts_with(*affix.text()));
  };
  if (bound[0]->get<Tuple>() == nullptr) return Value(matches(*bound[0]));
  const auto& all = *bound[0]->items();
  return Value(std::any_of(all.begin(), all.end(), matches));
}

template <bool from_right, bool must_exist>
Value run_find(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("find", arguments, {"/sub", "/start", "/end"}, 1);
  const std::string& part = bound.text(0);
  const Window window = select_window(*self.text(), bound);
  const std::size_t at = from_right ? window.text.rfind(part) : window.text.find(part);
  if (window.valid && at != std::string_view::npos) {
    return Value(window.start + static_cast<Int>(count_code_points(window.text.substr(0, at))));
  }
  if (must_exist) fail("substring not found");
  return Value(Int{-1});
}

Value run_count(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("count", arguments, {"/sub", "/start", "/end"}, 1);
  const std::string& part = bound.text(0);
  const Window window = select_window(*self.text(), bound);
  if (!window.valid) return Value(Int{0});
  if (part.empty()) return Value::size(count_code_points(window.text) + 1);
  return Value::size(split_on(window.text, part, -1, false).size() - 1);
}

Value run_replace(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound("replace", arguments, {"/old", "/new", "count"}, 2);
  return runtime.text(replace_text(runtime, *self.text(), bound.text(0), bound.text(1), bound.integer(2, -1)),
                      is_markup(self));
}

Value run_join(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound("join", arguments, {"/iterable"}, 1);
  std::string out;
  std::size_t index = 0;
  for (const Value& item : iterate(runtime, *bound[0])) {
    if (!item.is_text()) fail("sequence item {}: expected str instance, {} found", index, item.type_name());
    if (index++ > 0) out += *self.text();
    out += *item.text();
    runtime.charge_bytes(out.size());
  }
  return runtime.text(std::move(out), is_markup(self));
}

template <bool from_right>
Value run_partition(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(from_right ? "rpartition" : "partition", arguments, {"/sep"}, 1);
  const std::string& separator = bound.text(0);
  if (separator.empty()) fail("empty separator");
  const std::string& text = *self.text();
  const std::size_t at = from_right ? text.rfind(separator) : text.find(separator);
  const auto part = [&](std::string bytes) { return runtime.text(std::move(bytes), is_markup(self)); };
  if (at == std::string::npos) {
    return from_right ? Value::tuple({part(""), part(""), part(text)}) : Value::tuple({part(text), part(""), part("")});
  }
  return Value::tuple({part(text.substr(0, at)), part(separator), part(text.substr(at + separator.size()))});
}

template <bool suffix>
Value run_remove(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(suffix ? "removesuffix" : "removeprefix", arguments, {"/affix"}, 1);
  std::string_view text = *self.text();
  const std::string& affix = bound.text(0);
  if (suffix && text.ends_with(affix)) text.remove_suffix(affix.size());
  if (!suffix && text.starts_with(affix)) text.remove_prefix(affix.size());
  return runtime.text(std::string(text), is_markup(self));
}

// ljust, rjust and center: `left` of the padding goes before, in Python's own rounding.
template <char align>
Value run_justify(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound("justify", arguments, {"/width", "/fillchar"}, 1);
  const std::string fill = bound.has(1) ? bound.text(1) : std::string(" ");
  if (count_code_points(fill) != 1) fail("The fill character must be exactly one character long");
  const Int width = bound.integer(0, 0);
  if (width > static_cast<Int>(runtime.limits().output_bytes_max)) fail("width {} is too large", width);
  const Int missing = std::max<Int>(0, width - static_cast<Int>(count_code_points(*self.text())));
  const Int left = align == 'l' ? 0 : align == 'r' ? missing : missing / 2 + (missing & width & 1);
  std::string out;
  for (Int i = 0; i < left; ++i) out += fill;
  out += *self.text();
  for (Int i = left; i < missing; ++i) out += fill;
  return runtime.text(std::move(out), is_markup(self));
}

Value run_zfill(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound("zfill", arguments, {"/width"}, 1);
  const Int width = bound.integer(0, 0);
  if (width > static_cast<Int>(runtime.limits().output_bytes_max)) fail("width {} is too large", width);
  std::string text = *self.text();
  const Int missing = std::max<Int>(0, width - static_cast<Int>(count_code_points(text)));
  const bool sign = !text.empty() && (text[0] == '+' || text[0] == '-');
  text.insert(sign ? 1 : 0, static_cast<std::size_t>(missing), '0');
  return runtime.text(std::move(text), is_markup(self));
}

// isdigit() and the like: every character, and at least one.
template <bool (*Is)(char32_t)>
Value run_all(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("str method", arguments, {});
  const std::u32string characters = decode_all(*self.text());
  return Value(!characters.empty() && std::all_of(characters.begin(), characters.end(), Is));
}

bool is_alphanumeric(char32_t c) { return is_alphabetic(c) || is_decimal(c); }

// isupper() and islower(): some cased character, and none of the other case.
template <bool (*Is)(char32_t), bool (*IsOther)(char32_t)>
Value run_case(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("str method", arguments, {});
  const std::u32string characters = decode_all(*self.text());
  return Value(std::any_of(characters.begin(), characters.end(), Is) &&
               std::none_of(characters.begin(), characters.end(), IsOther));
}

Value run_isascii(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("isascii", arguments, {});
  return Value(std::all_of(self.text()->begin(), self.text()->end(),
                           [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
}

constexpr Method kTextMethods[] = {
    {"strip", run_strip<Side::kBoth>},
    {"lstrip", run_strip<Side::kLeft>},
    {"rstrip", run_strip<Side::kRight>},
    {"split", run_split<false>},
    {"rsplit", run_split<true>},
    {"splitlines", run_splitlines},
    {"startswith", run_affix<false>},
    {"endswith", run_affix<true>},
    {"upper", run_map<to_upper>},
    {"lower", run_map<to_lower>},
    {"title", run_map<title>},
    {"capitalize", run_map<capitalize>},
    {"swapcase", run_map<swap_case>},
    {"replace", run_replace},
    {"join", run_join},
    {"find", run_find<false, false>},
    {"rfind", run_find<true, false>},
    {"index", run_find<false, true>},
    {"rindex", run_find<true, true>},
    {"count", run_count},
    {"partition", run_partition<false>},
    {"rpartition", run_partition<true>},
    {"removeprefix", run_remove<false>},
    {"removesuffix", run_remove<true>},
    {"ljust", run_justify<'l'>},
    {"rjust", run_justify<'r'>},
    {"center", run_justify<'c'>},
    {"zfill", run_zfill},
    {"isdigit", run_all<is_decimal>},
    {"isdecimal", run_all<is_decimal>},
    {"isnumeric", run_all<is_decimal>},
    {"isalpha", run_all<is_alphabetic>},
    {"isalnum", run_all<is_alphanumeric>},
    {"isspace", run_all<is_space>},
    {"isupper", run_case<is_upper, is_lower>},
    {"islower", run_case<is_lower, is_upper>},
    {"isascii", run_isascii},
};

Value run_get(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("get", arguments, {"/key", "/default"}, 1);
  const Value* found = self.dict()->find(*bound[0]);
  if (found != nullptr) return *found;
  return bound.has(1) ? *bound[1] : Value();
}

template <DictView::Part part>
Value run_view(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("dict method", arguments, {});
  auto view = std::make_shared<DictView>();
  view->dict = *self.get<std::shared_ptr<const Dict>>();
  view->part = part;
  return Value(std::shared_ptr<Object>(std::move(view)));
}

Value run_dict_copy(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("copy", arguments, {});
  return self;  // dictionaries never change
}

constexpr Method kDictMethods[] = {
    {"get", run_get},
    {"items", run_view<DictView::Part::kItems>},
    {"keys", run_view<DictView::Part::kKeys>},
    {"values", run_view<DictView::Part::kValues>},
    {"copy", run_dict_copy},
};

Value run_index_of(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("index", arguments, {"/value"}, 1);
  const auto& items = *self.items();
  const auto found =
      std::find_if(items.begin(), items.end(), [&](const Value& item) { return equal(item, *bound[0]); });
  if (found == items.end()) fail("{} is not in list", repr(*bound[0]));
  return Value(static_cast<Int>(found - items.begin()));
}

Value run_count_of(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("count", arguments, {"/value"}, 1);
  const auto& items = *self.items();
  return Value(static_cast<Int>(
      std::count_if(items.begin(), items.end(), [&](const Value& item) { return equal(item, *bound[0]); })));
}

Value run_list_copy(Runtime&, const Value& self, const Arguments& arguments) {
  const Bound bound("copy", arguments, {});
  return self;  // lists never change
}

constexpr Method kListMethods[] = {{"index", run_index_of}, {"count", run_count_of}, {"copy", run_list_copy}};
constexpr std::string_view kListForbidden[] = {"append", "clear",  "extend",  "insert",
                                               "pop",    "remove", "reverse", "sort"};
constexpr std::string_view kDictForbidden[] = {"clear", "pop", "popitem", "setdefault", "update"};

struct Methods {
  const Method* begin = nullptr;
  const Method* end = nullptr;
  const std::string_view* forbidden_begin = nullptr;
  const std::string_view* forbidden_end = nullptr;
};

Methods methods_of(const Value& receiver) {
  if (receiver.is_text()) return {std::begin(kTextMethods), std::end(kTextMethods), nullptr, nullptr};
  if (receiver.dict() != nullptr) {
    return {std::begin(kDictMethods), std::end(kDictMethods), std::begin(kDictForbidden), std::end(kDictForbidden)};
  }
  if (receiver.get<List>() != nullptr) {
    return {std::begin(kListMethods), std::end(kListMethods), std::begin(kListForbidden), std::end(kListForbidden)};
  }
  if (receiver.get<Tuple>() != nullptr)
    return {std::begin(kListMethods), std::begin(kListMethods) + 2, nullptr, nullptr};
  return {};
}

}  // namespace

std::string replace_text(Runtime& runtime, std::string_view text, std::string_view old, std::string_view replacement,
                         Int count) {
  std::string out;
  std::size_t at = 0;
  for (Int done = 0; count < 0 || done < count; ++done) {
    const std::size_t found = text.find(old, at);
    if (found == std::string_view::npos) break;
    out.append(text.substr(at, found - at));
    out += replacement;
    runtime.charge_bytes(out.size() < runtime.limits().output_bytes_max ? 0 : out.size());
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
  const auto* found =
      std::find_if(methods.begin, methods.end, [&](const Method& method) { return method.name == name; });
  if (found != methods.end) return Value(std::shared_ptr<Object>(std::make_shared<BoundMethod>(receiver, *found)));
  const bool internal = name.size() > 4 && name.starts_with("__") && name.ends_with("__") && receiver.dict() == nullptr;
  if (internal || std::find(methods.forbidden_begin, methods.forbidden_end, name) != methods.forbidden_end) {
    return Value::undefined(
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, receiver.type_name()));
  }
  return std::nullopt;
}

}  // namespace baton::jinja
