#include "base/log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/line_writer.h"

namespace baton {
namespace {

constexpr Duration kFarewell = std::chrono::milliseconds(300);

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

const char* color_of(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::debug:
      return "\033[36m";
    case spdlog::level::info:
      return "\033[32m";
    case spdlog::level::warn:
      return "\033[33m\033[1m";
    default:
      return "\033[31m\033[1m";
  }
}

// Never destroyed: threads that outlive main() may still log.
std::atomic<LineWriter*> writer{nullptr};

LineWriter& open_standard_error() {
  if (writer.load() == nullptr) std::atexit([] { log_flush(); });
  // An earlier one stays for those that are about to use it, and known here, so that it is no leak.
  static std::mutex mutex;
  static auto& all = *new std::vector<std::unique_ptr<LineWriter>>;
  const std::lock_guard lock(mutex);
  writer = all.emplace_back(std::make_unique<LineWriter>(STDERR_FILENO)).get();
  return *writer;
}

LineWriter& standard_error() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (writer.load() == nullptr) open_standard_error();
  });
  return *writer;
}

// Hands lines over. (spdlog's own asynchronous logger counts its queue in lines of any length, and waits for its
// thread, which waits for whoever reads.)
class LineSink final : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t text;
    formatter_->format(message, text);
    if (!terminal_ || message.color_range_end <= message.color_range_start)
      return lines_.put({text.data(), text.size()});
    std::string colored(text.data(), text.size());
    colored.insert(message.color_range_end, "\033[m");
    colored.insert(message.color_range_start, color_of(message.level));
    lines_.put(colored);
  }
  void flush_() override {}

 private:
  LineWriter& lines_ = open_standard_error();
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
};

// An exception that nobody caught: its words would otherwise wait for a reader, and the process with them.
[[noreturn]] void terminated() {
  std::string what = "terminated without an exception";
  if (const std::exception_ptr thrown = std::current_exception()) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& e) {
      what = fmt::format("an exception was not caught: {}", e.what());
    } catch (...) {
      what = "an exception was not caught";
    }
  }
  log_last_words(what + "\n");
  std::abort();
}

}  // namespace

void log_init(LogLevel level, std::string_view name) {
  auto logger = std::make_shared<spdlog::logger>(std::string(name), std::make_shared<LineSink>());
  logger->set_level(to_spdlog(level));
  logger->set_pattern(name.empty() ? "%H:%M:%S.%e %^%-7l%$ %v" : "%H:%M:%S.%e %^%-7l%$ [%n] %v");
  spdlog::set_default_logger(std::move(logger));
  std::set_terminate(terminated);
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

uint64_t log_lines_dropped() { return standard_error().dropped(); }

bool log_flush() { return standard_error().flush(kFarewell); }

void log_last_words(std::string_view text) {
  log_flush();
  UnhurriedOutput(STDERR_FILENO).write_within(text, kFarewell);
}

}  // namespace baton
