#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>

namespace baton {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void log_init(LogLevel level, std::string_view name) {
  auto logger =
      std::make_shared<spdlog::logger>(std::string(name), std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_level(to_spdlog(level));
  logger->set_pattern(name.empty() ? "%H:%M:%S.%e %^%-7l%$ %v" : "%H:%M:%S.%e %^%-7l%$ [%n] %v");
  logger->flush_on(spdlog::level::debug);
  spdlog::set_default_logger(std::move(logger));
}

void log_set_level(LogLevel level) { spdlog::default_logger_raw()->set_level(to_spdlog(level)); }

Result<LogLevel> parse_log_level(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (lower == "debug" || lower == "trace") return LogLevel::kDebug;
  if (lower == "info") return LogLevel::kInfo;
  if (lower == "warning" || lower == "warn") return LogLevel::kWarning;
  if (lower == "error" || lower == "critical") return LogLevel::kError;
  return error(ErrorCode::kInvalidArgument, "log level '{}' is none of debug, info, warning, error", text);
}

void log_write(LogLevel level, std::string_view message) {
  spdlog::default_logger_raw()->log(to_spdlog(level), message);
}

bool log_enabled(LogLevel level) { return spdlog::default_logger_raw()->should_log(to_spdlog(level)); }

}  // namespace baton
