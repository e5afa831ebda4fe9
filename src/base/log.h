// One log line is for one person reading: what happened, with numbers. Thread safe. Nothing here waits for whoever
// reads standard error: lines that find no room in a queue of 1 MiB are dropped, counted, and told of.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace baton {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// `name` stands in every line ("prefill-0"); empty leaves it out. Writes to what standard error is now; once in a
// process, but for tests.
void log_init(LogLevel level, std::string_view name);
void log_set_level(LogLevel level);
// debug, info, warning, error; also SGLang's spelling in capitals.
Result<LogLevel> parse_log_level(std::string_view text);
// Since the start; lines that nobody read in time.
[[nodiscard]] uint64_t log_lines_dropped();
// Waits until all lines were written, for a third of a second at most; false: they were not.
bool log_flush();
// Behind all lines, straight to standard error, again within a third of a second: before the process ends.
void log_last_words(std::string_view text);
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
