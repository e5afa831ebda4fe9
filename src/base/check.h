// Assertions that stay on in release builds: they turn a corruption into a crash.
#pragma once

#include <fmt/format.h>

#include <string>

namespace baton {

// Prints the failed condition and ends the process. Never returns.
[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& detail);

namespace internal {
inline std::string check_detail() { return {}; }
template <typename... Args>
std::string check_detail(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}
}  // namespace internal

}  // namespace baton

// BATON_CHECK(free + owned == total, "free {} owned {} total {}", free, owned, total);
#define BATON_CHECK(condition, ...)                                                                        \
  do {                                                                                                     \
    if (!(condition)) [[unlikely]]                                                                         \
      ::baton::check_failed(__FILE__, __LINE__, #condition, ::baton::internal::check_detail(__VA_ARGS__)); \
  } while (false)
