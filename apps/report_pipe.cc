#include "report_pipe.h"

#include <fmt/format.h>

namespace baton::apps {
namespace {

constexpr Duration kPatience = std::chrono::seconds(10);  // with a parent that does not read

}  // namespace

ReportPipe::ReportPipe(int fd) {
  if (fd >= 0) out_.emplace(fd);
}

void ReportPipe::line(const std::string& text, Duration timeout) {
  if (!out_) return;
  // Shorter than PIPE_BUF, so a write is whole or not at all; a parent that is gone is found out by its death signal.
  out_->write_within(text + "\n", timeout);
}

void ReportPipe::progress(const std::string& phase, uint64_t done, uint64_t total) {
  line(fmt::format("progress {} {} {}", phase, done, total), Duration(0));
}
void ReportPipe::summary(const std::string& text) { line("summary " + text, kPatience); }
void ReportPipe::ready(int port, int bootstrap_port) {
  line(fmt::format("ready {} {}", port, bootstrap_port), kPatience);
}

}  // namespace baton::apps
