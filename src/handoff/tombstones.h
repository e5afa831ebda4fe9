// Attempts that ended when only one half of them had come: the other half is told when it comes.
#pragma once

#include <cstddef>
#include <list>
#include <optional>
#include <unordered_map>

#include "base/clock.h"
#include "base/ids.h"
#include "handoff/prefill_attempt.h"

namespace baton::handoff {

// Bounded in number, in bytes and in time, whoever buries.
class Tombstones {
 public:
  Tombstones(size_t max, Duration life) : max_(max), life_(life) {}

  // Of the same attempt the last stone counts; the oldest makes room.
  void bury(AttemptId attempt, EndCause cause, bool awaits_request, TimePoint now);
  // The cause, when the half that has come was awaited; any stone of the attempt is gone after it.
  [[nodiscard]] std::optional<EndCause> dig_up(AttemptId attempt, bool is_request);
  void expire(TimePoint now);
  [[nodiscard]] size_t size() const { return stones_.size(); }

 private:
  struct Stone {
    AttemptId attempt;
    EndCause cause;
    bool awaits_request = false;
    TimePoint expires;
  };
  const size_t max_;
  const Duration life_;
  std::list<Stone> stones_;  // oldest first
  std::unordered_map<AttemptId, std::list<Stone>::iterator> index_;
};

}  // namespace baton::handoff
