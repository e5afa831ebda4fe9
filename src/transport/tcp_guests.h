// Which of the connections that others have opened to an owner may stay, when there are more than it keeps. Pure: no
// sockets and no clock.
//
// Anybody may connect, and the greeting takes no more than what every peer knows. A guest is proven once it has quoted
// the token of an open window: only who was given a grant can. Strangers, who have not, get few places and little time,
// and a newcomer takes the place of the oldest of the network that has the most of them, so that nobody keeps others
// out by staying. Who greets as a writer that a window is open for has its place before it has proven itself.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/tcp_socket.h"

namespace baton::transport::tcp {

struct GuestLimits {
  size_t strangers = 128;
  size_t proven = 512;
  size_t of_a_writer = 16;  // connections_per_peer is no more
};

class Guests {
 public:
  // `expected`: a window is open for this writer.
  Guests(const GuestLimits& limits, std::function<bool(const Incarnation&)> expected)
      : limits_(limits), expected_(std::move(expected)) {}

  // What happened to a guest, named by its descriptor. The answer is the guest who has to leave for it, which may be
  // itself; nullopt: nobody.
  [[nodiscard]] std::optional<int> arrive(int fd, const Network& from, TimePoint now);
  [[nodiscard]] std::optional<int> greet(int fd, const Incarnation& writer);
  [[nodiscard]] std::optional<int> prove(int fd);

  // Bytes were moved for it; `busy`: it is in the middle of something.
  void use(int fd, TimePoint now, bool busy);
  void leave(int fd);

  struct Patience {
    Duration greeting;  // to the whole greeting
    Duration proof;     // to the first window, of a writer that no window is open for
    Duration stall;     // in the middle of something, without a byte
  };
  [[nodiscard]] std::vector<int> overdue(TimePoint now, const Patience& patience) const;
  // Somebody may become overdue.
  [[nodiscard]] bool watched() const;
  [[nodiscard]] size_t size() const { return guests_.size(); }

 private:
  struct Guest {
    int fd = -1;
    Network network;
    std::optional<Incarnation> writer;  // once it has greeted
    bool proven = false;
    bool busy = false;
    TimePoint arrived, used;
  };
  [[nodiscard]] Guest& at(int fd);
  [[nodiscard]] bool is_expected(const Guest& guest) const { return guest.writer && expected_(*guest.writer); }
  // Of the strangers that `candidate` is true for: the oldest of the network with the most.
  [[nodiscard]] std::optional<int> oldest_of_the_most(const std::function<bool(const Guest&)>& candidate) const;
  [[nodiscard]] std::optional<int> longest_unused(const std::function<bool(const Guest&)>& candidate) const;

  const GuestLimits limits_;
  const std::function<bool(const Incarnation&)> expected_;
  std::vector<Guest> guests_;  // in the order in which they came
};

}  // namespace baton::transport::tcp
