// Events of a handoff service on their way to the engine's thread.
#pragma once

#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "base/queue.h"

namespace baton::engine {

// put() may be called by any thread and never blocks. Not bounded in itself: attempts bound the events, a few each.
template <typename Event>
class EventInbox {
 public:
  explicit EventInbox(std::function<void()> wake) : wake_(std::move(wake)) {}
  void put(Event event) {
    queue_.push_always(std::move(event));
    wake_();
  }
  [[nodiscard]] std::vector<Event> take() { return queue_.drain(); }

 private:
  std::function<void()> wake_;
  BoundedQueue<Event> queue_{std::numeric_limits<size_t>::max()};
};

}  // namespace baton::engine
