// One non-blocking control connection: frames in, frames out, and when the other side was last heard. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "wire/frame_codec.h"

namespace baton {

// A file descriptor, closed when destroyed.
class ControlFd {
 public:
  ControlFd() = default;
  explicit ControlFd(int fd) : fd_(fd) {}
  ~ControlFd() { reset(); }
  ControlFd(ControlFd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  ControlFd& operator=(ControlFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool open() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

// Makes another thread's poll() return.
class ControlWake {
 public:
  ControlWake();
  void wake();
  void clear();
  [[nodiscard]] int get() const { return fd_.get(); }

 private:
  ControlFd fd_;
};

// Listens on host:port, non-blocking. kUnavailable names the port when it is taken.
Result<ControlFd> listen_on(const std::string& host, uint16_t port);
Result<uint16_t> bound_port(int fd);

// "host:port", "[v6]:port".
[[nodiscard]] std::string address_text(const std::string& host, uint16_t port);

class ControlConnection {
 public:
  // Of an accepted socket.
  ControlConnection(ControlFd fd, TimePoint now);

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
  ControlFd fd_;
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
