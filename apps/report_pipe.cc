#include "report_pipe.h"

#include <fmt/format.h>
#include <unistd.h>

namespace baton {

void ReportPipe::line(const std::string& text) {
  if (fd_ < 0) return;
  const std::string bytes = text + "\n";
  // Shorter than PIPE_BUF, so the write is whole; a parent that is gone is found out by its death signal.
  if (write(fd_, bytes.data(), bytes.size()) < 0) fd_ = -1;
}

void ReportPipe::progress(const std::string& phase, uint64_t done, uint64_t total) {
  line(fmt::format("progress {} {} {}", phase, done, total));
}
void ReportPipe::summary(const std::string& text) { line("summary " + text); }
void ReportPipe::ready(int port, int bootstrap_port) { line(fmt::format("ready {} {}", port, bootstrap_port)); }

}  // namespace baton
