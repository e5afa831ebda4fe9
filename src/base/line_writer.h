// Text for people, which nobody waits for: a pipe that is not read, or a terminal that is stopped, stops no server.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/clock.h"

namespace baton {

// A descriptor that is written to without waiting. Others may share it, so its own flags are left alone: pipes and
// terminals are opened once more.
class UnhurriedOutput {
 public:
  explicit UnhurriedOutput(int fd);  // borrowed
  ~UnhurriedOutput();
  UnhurriedOutput(const UnhurriedOutput&) = delete;
  UnhurriedOutput& operator=(const UnhurriedOutput&) = delete;
  // How many bytes were taken; 0: none just now; negative: nobody will ever read it.
  [[nodiscard]] ptrdiff_t write(std::string_view bytes) const;
  // Waits until something may be taken.
  void wait(Duration timeout) const;
  // Waits for the reader, for so long at most; false: a part of the text was not taken.
  bool write_within(std::string_view text, Duration timeout) const;

 private:
  enum class Kind : uint8_t { kNonblocking, kSocket, kBlocking };
  int fd_;
  Kind kind_ = Kind::kBlocking;
  bool opened_ = false;
};

// Lines are queued, and written in order by a thread of its own. Thread safe.
class LineWriter {
 public:
  // `fd` outlives it. More than `bytes_max` bytes that wait for the reader are not kept.
  explicit LineWriter(int fd, size_t bytes_max = 1u << 20);
  // Writes what the reader takes within a third of a second.
  ~LineWriter();
  // With its newline. Never waits: a line that finds no room is dropped and counted, and once there is room again a
  // line says how many were.
  void put(std::string_view line);
  // Waits until everything was written, for so long at most.
  bool flush(Duration timeout) const;
  [[nodiscard]] uint64_t dropped() const;

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace baton
