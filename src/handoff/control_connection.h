// One non-blocking control connection: frames in, frames out, and when the other side was last heard. One thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "base/tcp_socket.h"
#include "wire/frame_codec.h"

namespace baton::handoff {

// Listens on host:port, non-blocking. kUnavailable names the port when it is taken.
Result<UniqueFd> listen_on(const std::string& host, uint16_t port);

class ControlConnection {
 public:
  // Of a connected socket. Every `attended` is AttendedTime::now().
  ControlConnection(UniqueFd fd, TimePoint attended);

  // Queues a frame and writes what the socket takes. A peer that does not read until the queue is full counts as
  // broken.
  void send(const wire::Frame& frame);
  void flush();

  // Reads what is there. After an error the connection is broken.
  void receive(TimePoint attended);
  // The next whole frame, if one is there. An error breaks the connection.
  Result<std::optional<wire::Frame>> next();

  // Sends a Ping when `interval` has passed since the last; breaks the connection when nothing was heard for misses *
  // interval.
  void beat(TimePoint attended, Duration interval, int misses);
  // Sends a Ping and returns its serial. The Pong that has it comes after all that the peer had sent before.
  uint64_t ping(TimePoint attended);
  void on_pong(uint64_t serial) {
    if (serial <= serial_) answered_ = std::max(answered_, serial);
  }
  [[nodiscard]] bool has_answered(uint64_t serial) const { return answered_ >= serial; }

  void set_version(uint16_t version) { version_ = version; }
  void set_paired() { limit_ = wire::kFrameBytesMax; }
  void break_off(std::string why);
  // break_off(), and forgets what was read and not yet taken.
  void abandon(std::string why);
  [[nodiscard]] bool broken() const { return !why_.empty(); }
  [[nodiscard]] const std::string& why() const { return why_; }
  [[nodiscard]] bool wants_write() const { return sent_ < out_.size(); }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] bool has_input() const { return taken_ < in_.size(); }
  // Memory that its frames take, on their way in and out.
  [[nodiscard]] size_t buffered() const { return in_.capacity() + out_.capacity(); }
  [[nodiscard]] TimePoint heard() const { return heard_; }

 private:
  UniqueFd fd_;
  uint16_t version_ = wire::kProtocolVersions.max;
  std::string in_, out_;
  size_t taken_ = 0;  // of in_
  size_t sent_ = 0;   // of out_
  size_t limit_ = wire::kFrameBytesMaxUnpaired;
  TimePoint heard_;
  TimePoint pinged_;
  uint64_t serial_ = 0;    // of the last Ping
  uint64_t answered_ = 0;  // of the last Pong
  std::string why_;
};

}  // namespace baton::handoff
