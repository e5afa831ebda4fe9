// For what strangers can make happen as often as they like: one line a second at most, and how many there were. One
// thread.
#pragma once

#include <string>

#include "base/clock.h"
#include "base/log.h"

namespace baton {

class SparseLog {
 public:
  void warning(TimePoint now, const std::string& message) {
    if (now < next_) {
      ++unsaid_;
      return;
    }
    log_warning("{}{}", message, unsaid_ == 0 ? std::string() : fmt::format(" ({} more since the last line)", unsaid_));
    next_ = now + std::chrono::seconds(1);
    unsaid_ = 0;
  }

 private:
  TimePoint next_ = TimePoint::min();
  uint64_t unsaid_ = 0;
};

}  // namespace baton
