#include "jinja/globals.h"

#include <algorithm>
#include <ctime>
#include <iterator>

#include "jinja/format.h"
#include "jinja/ops.h"

namespace baton::jinja {
namespace {

using Run = Value (*)(Runtime& runtime, const Arguments& arguments);

struct Global {
  std::string_view name;
  Run run;
};

struct GlobalFunction final : Function {
  explicit GlobalFunction(const Global& which) : global(which) {}
  Value call(Runtime& runtime, const Arguments& arguments) override { return global.run(runtime, arguments); }
  [[nodiscard]] const char* type_name() const override { return "function"; }
  [[nodiscard]] std::string repr() const override { return fmt::format("<function {}>", global.name); }
  const Global& global;
};

Value run_range(Runtime& runtime, const Arguments& arguments) {
  const Bound bound("range", arguments, {"/start", "/stop", "/step"}, 1);
  auto range = std::make_shared<Range>();
  range->start = bound.has(1) ? bound.integer(0, 0) : 0;
  range->stop = bound.integer(bound.has(1) ? 1 : 0, 0);
  range->step = bound.integer(2, 1);
  if (range->step == 0) fail("range() arg 3 must not be zero");
  static constexpr Int kBound = Int{1} << 64;  // keeps the arithmetic below from overflowing
  for (const Int value : {range->start, range->stop, range->step}) {
    if (value > kBound || value < -kBound) fail("integer overflow in range()");
  }
  const Int size = range->length();
  const std::size_t range_max = runtime.limits().range_max;
  if (size > static_cast<Int>(range_max)) fail("Range too big: {} elements, at most {} are allowed", size, range_max);
  return Value(std::shared_ptr<Object>(std::move(range)));
}

// dict(mapping or pairs, name=value...)
Dict build_dict(std::string_view function, const Arguments& arguments) {
  if (arguments.positional.size() > 1) {
    fail("{} expected at most 1 argument, got {}", function, arguments.positional.size());
  }
  Dict out;
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional.front();
    if (const Undefined* undefined = source.get<Undefined>()) fail("{}", undefined->reason());
    const Dict* dict = source.dict();
    if (dict != nullptr) {
      charge_created(dict->entries().size() * 2 * sizeof(Dict::Entry));
      out = *dict;
    } else {
      for (const Value& pair : iterate(source)) {
        std::vector<Value> both = iterate(pair);
        if (both.size() != 2) fail("{}: a pair of {} elements; 2 are required", function, both.size());
        out.set(std::move(both[0]), std::move(both[1]));
      }
    }
  }
  for (const auto& [name, value] : arguments.keyword) out.set(name, value);
  return out;
}

Value run_dict(Runtime&, const Arguments& arguments) {
  return Value(std::make_shared<const Dict>(build_dict("dict", arguments)));
}

Value run_namespace(Runtime& runtime, const Arguments& arguments) {
  return static_cast<Interpreter&>(runtime).make_namespace(build_dict("namespace", arguments));
}

Value run_raise_exception(Runtime&, const Arguments& arguments) {
  const Bound bound("raise_exception", arguments, {"message"}, 1);
  fail("{}", to_string(*bound[0]));
}

Value run_strftime_now(Runtime& runtime, const Arguments& arguments) {
  const Bound bound("strftime_now", arguments, {"format"}, 1);
  const std::string& format = bound.text(0);
  if (format.empty()) return Value(std::string());
  const auto now = static_cast<std::time_t>(runtime.limits().now.value_or(std::time(nullptr)));
  std::tm local{};
  localtime_r(&now, &local);
  check_text_size(format.size() * 8);
  std::string out(format.size() * 8 + 256, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return Value(std::move(out));
}

constexpr Global kGlobals[] = {
    {"range", run_range},
    {"dict", run_dict},
    {"namespace", run_namespace},
    {"raise_exception", run_raise_exception},
    {"strftime_now", run_strftime_now},
};

}  // namespace

std::optional<Value> find_global(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kGlobals), std::end(kGlobals), [&](const Global& global) { return global.name == name; });
  if (found == std::end(kGlobals)) return std::nullopt;
  return Value(std::shared_ptr<Object>(std::make_shared<GlobalFunction>(*found)));
}

}  // namespace baton::jinja
