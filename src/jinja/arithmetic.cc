#include "jinja/arithmetic.h"

namespace baton::jinja {
namespace {

Int floor_divide(Int a, Int b) { return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0); }

}  // namespace

const char* sign_text(Sign sign) {
  static constexpr const char* kTexts[] = {
      "+", "-", "*", "/", "//", "%", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
  return kTexts[static_cast<std::size_t>(sign)];
}

Value real_arithmetic(Sign sign, double a, double b) {
  switch (sign) {
    case Sign::kAdd:
      return Value(a + b);
    case Sign::kSub:
      return Value(a - b);
    case Sign::kMul:
      return Value(a * b);
    case Sign::kDiv:
      if (b == 0) fail("division by zero");
      return Value(a / b);
    default:
      fail("{} of float is not supported", sign_text(sign));
  }
}

Value integer_arithmetic(Sign sign, Int a, Int b) {
  Int result = 0;
  bool overflow = false;
  switch (sign) {
    case Sign::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Sign::kSub:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Sign::kMul:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Sign::kFloorDiv:
    case Sign::kMod:
      if (b == 0) fail("integer division or modulo by zero");
      result = b == -1 ? 0 : floor_divide(a, b);
      if (b == -1) overflow = sign == Sign::kFloorDiv && __builtin_sub_overflow(Int{0}, a, &result);
      if (sign == Sign::kMod) result = b == -1 ? 0 : a - result * b;
      break;
    default:  // a / b
      return real_arithmetic(sign, static_cast<double>(a), static_cast<double>(b));
  }
  if (overflow) fail("integer overflow in {}", sign_text(sign));
  return Value(result);
}

}  // namespace baton::jinja
