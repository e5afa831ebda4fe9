// What a child of `baton up` says to its parent: lines of text on an inherited descriptor.
//   progress PHASE DONE TOTAL      while loading; left out where the parent does not read
//   ready PORT BOOTSTRAP_PORT      once it serves (0: none)
//   summary TEXT                   a line for people
#pragma once

#include <optional>
#include <string>

#include "base/line_writer.h"

namespace baton::apps {

class ReportPipe {
 public:
  explicit ReportPipe(int fd);  // -1: nobody listens
  void progress(const std::string& phase, uint64_t done, uint64_t total);
  void summary(const std::string& text);
  void ready(int port, int bootstrap_port);

 private:
  void line(const std::string& text, Duration timeout);
  std::optional<UnhurriedOutput> out_;
};

}  // namespace baton::apps
