// Errors that a caller is expected to handle. A bug is a BATON_CHECK (check.h); a bad configuration becomes one of
// these and stops the program in apps/.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace baton {

// Named for what the caller should do.
enum class ErrorCode {
  kInvalidArgument,    // the caller's input is wrong: do not retry (HTTP 400, exit code 2)
  kForbidden,          // the caller may not have it: whoever runs the instance must allow it (HTTP 403, exit code 3)
  kNotFound,           // what was named does not exist (HTTP 404)
  kIncompatible,       // two configurations cannot work together: change one (HTTP 409, exit code 3)
  kResourceExhausted,  // full now: back off and retry (HTTP 429)
  kUnavailable,        // not reachable or not ready: retry, perhaps elsewhere (HTTP 503)
  kDeadlineExceeded,   // ran out of time, effects unknown (HTTP 504)
  kCancelled,          // stopped on request
  kCorrupt,            // bytes are not what they claim to be: do not use them (exit code 4)
};

struct Error {
  ErrorCode code;
  std::string message;  // what happened, the numbers, what to do; one line
};

// error(kNotFound, "no model {} in {}", name, dir)
template <typename... Args>
[[nodiscard]] Error error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Error{code, fmt::format(format, std::forward<Args>(args)...)};
}

// A T or an Error. Reading the one that is not there is a bug and stops the program.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}          // NOLINT: implicit on purpose
  Result(Error failure) : state_(std::in_place_index<1>, std::move(failure)) {}  // NOLINT

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  [[nodiscard]] T& value() & {
    BATON_CHECK(ok(), "value() of an error: {}", failure_text());
    return *std::get_if<0>(&state_);
  }
  [[nodiscard]] const T& value() const& {
    BATON_CHECK(ok(), "value() of an error: {}", failure_text());
    return *std::get_if<0>(&state_);
  }
  [[nodiscard]] T&& value() && {
    BATON_CHECK(ok(), "value() of an error: {}", failure_text());
    return std::move(*std::get_if<0>(&state_));
  }
  [[nodiscard]] T& operator*() & { return value(); }
  [[nodiscard]] const T& operator*() const& { return value(); }
  [[nodiscard]] T&& operator*() && { return std::move(*this).value(); }
  [[nodiscard]] T* operator->() { return &value(); }
  [[nodiscard]] const T* operator->() const { return &value(); }

  [[nodiscard]] const Error& error() const {
    BATON_CHECK(!ok(), "error() of a value");
    return *std::get_if<1>(&state_);
  }

 private:
  [[nodiscard]] std::string failure_text() const { return ok() ? std::string() : std::get_if<1>(&state_)->message; }

  std::variant<T, Error> state_;
};

// Success or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error failure) : failure_(std::move(failure)) {}  // NOLINT

  [[nodiscard]] bool ok() const { return !failure_.has_value(); }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Error& error() const {
    BATON_CHECK(failure_.has_value(), "error() of a success");
    return *failure_;
  }

 private:
  std::optional<Error> failure_;
};

using Status = Result<void>;

// Returns the error of an expression from the enclosing function, or goes on.
#define BATON_TRY(expression)                                                                     \
  do {                                                                                            \
    if (auto baton_try_result = (expression); !baton_try_result) return baton_try_result.error(); \
  } while (false)

#define BATON_CONCAT_INNER(a, b) a##b
#define BATON_CONCAT(a, b) BATON_CONCAT_INNER(a, b)
// BATON_ASSIGN(auto header, parse_header(bytes)): declares the value or returns the error.
#define BATON_ASSIGN(declaration, expression)                                                       \
  auto BATON_CONCAT(baton_result_, __LINE__) = (expression);                                        \
  if (!BATON_CONCAT(baton_result_, __LINE__)) return BATON_CONCAT(baton_result_, __LINE__).error(); \
  declaration = std::move(BATON_CONCAT(baton_result_, __LINE__)).value()

}  // namespace baton
