// One log line is for one person reading: what happened, with numbers. Thread safe.
#pragma once

#include <fmt/format.h>

#include <string_view>

#include "base/result.h"

namespace baton {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// `name` stands in every line ("prefill-0"); empty leaves it out. Writes to standard error.
void log_init(LogLevel level, std::string_view name);
void log_set_level(LogLevel level);
// debug, info, warning, error; also SGLang's spelling in capitals.
Result<LogLevel> parse_log_level(std::string_view text);
void log_write(LogLevel level, std::string_view message);
[[nodiscard]] bool log_enabled(LogLevel level);

template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kDebug)) log_write(LogLevel::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kInfo)) log_write(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kWarning)) log_write(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kError)) log_write(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace baton
