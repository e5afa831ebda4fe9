#include <cmath>
#include <string>
#include <vector>

#include "jinja/format.h"
#include "jinja/methods.h"
#include "jinja/unicode.h"

namespace baton::jinja {
namespace {

constexpr std::size_t kWidthMax = 10'000;

struct Spec {
  bool left = false;
  bool plus = false;
  bool space = false;
  bool zero = false;
  bool alternate = false;
  std::size_t width = 0;
  std::optional<std::size_t> precision;
  char conversion = 's';
};

class Formatter {
 public:
  Formatter(std::string_view format, const Value& values) : format_(format), values_(values) {
    if (values.get<Tuple>() != nullptr) {
      arguments_ = *values.items();
    } else {
      arguments_ = {values};
    }
  }

  std::string run() {
    while (at_ < format_.size()) {
      if (format_[at_] != '%') {
        out_.push_back(format_[at_++]);
        continue;
      }
      ++at_;
      convert();
    }
    // Python takes whatever can be subscripted for a mapping, whose values need not be used.
    const bool mapping = values_.dict() != nullptr || values_.get<List>() != nullptr || values_.is_undefined() ||
                         values_.object<Range>() != nullptr;
    if (used_ < arguments_.size() && !mapping) fail("not all arguments converted during string formatting");
    return std::move(out_);
  }

 private:
  char peek() const {
    if (at_ >= format_.size()) fail("incomplete format");
    return format_[at_];
  }

  const Value& next_argument() {
    if (used_ >= arguments_.size()) fail("not enough arguments for format string");
    return arguments_[used_++];
  }

  std::size_t number() {
    std::size_t value = 0;
    while (at_ < format_.size() && format_[at_] >= '0' && format_[at_] <= '9') {
      value = value * 10 + static_cast<std::size_t>(format_[at_++] - '0');
      if (value > kWidthMax) fail("width or precision above {} in a format", kWidthMax);
    }
    return value;
  }

  void convert() {
    std::optional<Value> keyed;
    if (peek() == '(') {
      const std::size_t close = format_.find(')', at_);
      if (close == std::string_view::npos) fail("incomplete format key");
      if (values_.dict() == nullptr) fail("format requires a mapping");
      const std::string key(format_.substr(at_ + 1, close - at_ - 1));
      const Value* found = values_.dict()->find(std::string_view(key));
      if (found == nullptr) fail("no key '{}' in the mapping of a format", key);
      keyed = *found;
      at_ = close + 1;
    }
    Spec spec;
    for (; at_ < format_.size() && std::string_view("-+ 0#").find(format_[at_]) != std::string_view::npos; ++at_) {
      spec.left |= format_[at_] == '-';
      spec.plus |= format_[at_] == '+';
      spec.space |= format_[at_] == ' ';
      spec.zero |= format_[at_] == '0';
      spec.alternate |= format_[at_] == '#';
    }
    spec.width = number();
    if (at_ < format_.size() && format_[at_] == '.') {
      ++at_;
      spec.precision = number();
    }
    spec.conversion = peek();
    ++at_;
    if (spec.conversion == '%') {
      out_.push_back('%');
      return;
    }
    pad(spec, keyed ? *keyed : next_argument());
  }

  void pad(const Spec& spec, const Value& value) {
    std::string sign;
    std::string body = render(spec, value, sign);
    const std::size_t size = count_code_points(body) + sign.size();
    const std::string fill(spec.width > size ? spec.width - size : 0,
                           spec.zero && !spec.left && is_numeric(spec) ? '0' : ' ');
    if (spec.left) {
      out_ += sign + body + fill;
    } else if (!fill.empty() && fill[0] == '0') {
      out_ += sign + fill + body;
    } else {
      out_ += fill + sign + body;
    }
  }

  static bool is_numeric(const Spec& spec) {
    return std::string_view("src").find(spec.conversion) == std::string_view::npos;
  }

  static std::string render(const Spec& spec, const Value& value, std::string& sign) {
    switch (spec.conversion) {
      case 's':
      case 'r': {
        std::string text = spec.conversion == 's' ? to_string(value) : repr(value);
        if (!spec.precision) return text;
        std::size_t end = 0;
        for (std::size_t i = 0; i < *spec.precision && end < text.size(); ++i) (void)decode_utf8(text, end);
        return text.substr(0, end);
      }
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        return render_integer(spec, value, sign);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        return render_real(spec, value, sign);
      default:
        fail("unsupported format character '{}'", spec.conversion);
    }
  }

  static void set_sign(const Spec& spec, bool negative, std::string& sign) {
    sign = negative ? "-" : spec.plus ? "+" : spec.space ? " " : "";
  }

  static std::string render_integer(const Spec& spec, const Value& value, std::string& sign) {
    const bool decimal = spec.conversion == 'd' || spec.conversion == 'i' || spec.conversion == 'u';
    Int number = 0;
    if (value.is_integral()) {
      number = value.integer();
    } else if (decimal && value.get<double>() != nullptr && std::fabs(value.real()) < 1e37) {
      number = static_cast<Int>(value.real());
    } else {
      fail("%{} format: a number is required, not {}", spec.conversion, value.type_name());
    }
    set_sign(spec, number < 0, sign);
    const auto magnitude =
        number < 0 ? -static_cast<unsigned __int128>(number) : static_cast<unsigned __int128>(number);
    std::string digits = spec.conversion == 'x'   ? fmt::format("{:x}", magnitude)
                         : spec.conversion == 'X' ? fmt::format("{:X}", magnitude)
                         : spec.conversion == 'o' ? fmt::format("{:o}", magnitude)
                                                  : fmt::format("{}", magnitude);
    if (spec.precision && digits.size() < *spec.precision) digits.insert(0, *spec.precision - digits.size(), '0');
    if (spec.alternate && !decimal) sign += std::string("0") + spec.conversion;
    return digits;
  }

  static std::string render_real(const Spec& spec, const Value& value, std::string& sign) {
    if (!value.is_number()) fail("must be real number, not {}", value.type_name());
    const double number = value.real();
    set_sign(spec, std::signbit(number) && !std::isnan(number), sign);
    const double magnitude = std::fabs(number);
    const auto precision = static_cast<int>(spec.precision.value_or(6));
    const std::string format = fmt::format("{{:{}.{}{}}}", spec.alternate ? "#" : "", precision, spec.conversion);
    return fmt::format(fmt::runtime(format), magnitude);
  }

  const std::string_view format_;
  const Value& values_;
  std::vector<Value> arguments_;
  std::size_t used_ = 0;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string format_percent(std::string_view format, const Value& values) { return Formatter(format, values).run(); }

}  // namespace baton::jinja
