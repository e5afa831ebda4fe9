// Time in which a thread had eyes for its peers.
#pragma once

#include <algorithm>

#include "base/clock.h"

namespace baton::handoff {

// Silence of a peer is measured in it. A turn of the thread's loop counts for `turn_max` at most, so that a stall of
// our own (a stopped process, a step that took long) is never taken for silence of a peer whose words wait in its
// socket.
class AttendedTime {
 public:
  AttendedTime(TimePoint now, Duration turn_max) : turn_max_(turn_max), before_(now), attended_(now) {}

  // Another turn begins.
  void turn(TimePoint now) {
    attended_ += std::clamp(now - before_, Duration{}, turn_max_);
    before_ = now;
  }
  // Comparable with itself only.
  [[nodiscard]] TimePoint now() const { return attended_; }

 private:
  const Duration turn_max_;
  TimePoint before_;
  TimePoint attended_;
};

}  // namespace baton::handoff
