// A listening socket of any family and what every owner of one has to do about running out of descriptors. One thread.
#pragma once

#include "base/clock.h"
#include "base/fd.h"

namespace baton {

class Listener {
 public:
  // Takes a non-blocking socket that listens.
  explicit Listener(UniqueFd socket) : socket_(std::move(socket)) {}

  // The next connection, non-blocking and closed on exec; invalid if none is waiting, or if there is no descriptor for
  // it. In that case the socket stays readable, so that whoever waits on it would spin: until kPause has passed it is
  // not worth waiting for.
  [[nodiscard]] UniqueFd accept(TimePoint now);
  [[nodiscard]] bool paused(TimePoint now) const { return now < resume_; }
  // When it is worth waiting on again; in the past unless paused.
  [[nodiscard]] TimePoint resume() const { return resume_; }

  [[nodiscard]] int fd() const { return socket_.get(); }

  static constexpr Duration kPause = std::chrono::milliseconds(100);

 private:
  UniqueFd socket_;
  TimePoint resume_ = TimePoint::min();
};

}  // namespace baton
