// One non-blocking control connection: frames in, frames out, and when the other side was last heard. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "base/tcp_socket.h"
#include "wire/frame_codec.h"

namespace baton {

// Listens on host:port, non-blocking. kUnavailable names the port when it is taken.
Result<UniqueFd> listen_on(const std::string& host, uint16_t port);

class ControlConnection {
 public:
  // Of an accepted socket.
  ControlConnection(UniqueFd fd, TimePoint now);

  // Queues a frame and writes what the socket takes. A peer that does not read until the queue is full counts as
  // broken.
  void send(const Frame& frame);
  void flush();

  // Reads what is there. After an error the connection is broken.
  void receive(TimePoint now);
  // The next whole frame, if one is there. An error breaks the connection.
  Result<std::optional<Frame>> next();

  // Sends a Ping when `interval` has passed since the last; breaks the connection when nothing was heard for misses *
  // interval.
  void beat(TimePoint now, Duration interval, int misses);

  void set_paired() { limit_ = kFrameBytesMax; }
  void break_off(std::string why);
  [[nodiscard]] bool broken() const { return !why_.empty(); }
  [[nodiscard]] const std::string& why() const { return why_; }
  [[nodiscard]] bool wants_write() const { return sent_ < out_.size(); }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  std::string in_, out_;
  size_t taken_ = 0;  // of in_
  size_t sent_ = 0;   // of out_
  size_t limit_ = kFrameBytesMaxUnpaired;
  TimePoint heard_;
  TimePoint pinged_;
  uint64_t serial_ = 0;
  std::string why_;
};

}  // namespace baton
