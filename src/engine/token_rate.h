// Tokens per second over the last few seconds.
#pragma once

#include <deque>

#include "base/clock.h"

namespace baton::engine {

class TokenRate {
 public:
  // `total` so far, at `now`.
  void note(TimePoint now, uint64_t total) {
    // Ten samples a second are enough, and bound the deque.
    if (samples_.empty() || now - samples_.back().at >= std::chrono::milliseconds(100))
      samples_.push_back({now, total});
    while (samples_.size() > 1 && now - samples_.front().at > kWindow) samples_.pop_front();
  }
  [[nodiscard]] double per_second(TimePoint now, uint64_t total) const {
    if (samples_.empty() || now <= samples_.front().at) return 0;
    return static_cast<double>(total - samples_.front().total) / to_seconds(now - samples_.front().at);
  }

 private:
  static constexpr Duration kWindow = std::chrono::seconds(5);
  struct Sample {
    TimePoint at;
    uint64_t total;
  };
  std::deque<Sample> samples_;
};

}  // namespace baton::engine
