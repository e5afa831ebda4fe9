// The owner's end of the unix sockets: lets writers in, hands them the control slab and the regions, notices when they
// go. Every process of the host can connect, so that places are rationed: another user's process is closed at once,
// who has not asked to be let in is given little time and makes room for newcomers, a writer has few rows of marks, and
// the last rows are for writers that a window is open for.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/listener.h"
#include "base/sparse_log.h"
#include "transport/shm_control.h"
#include "transport/shm_socket.h"

namespace baton::transport::shm {

inline constexpr size_t kPendingMax = 32;      // connections that have not asked to be let in yet
inline constexpr size_t kRowsOfAWriter = 4;    // one is used; a copy that is being stopped holds another
inline constexpr size_t kRowsOfAProcess = 16;  // a process may have several transports
inline constexpr size_t kRowsReserved = 16;    // of kWriters, for writers that a window is open for

// What writers are told of a region.
struct SharedRegion {
  UniqueFd slab{};        // the processor's memory
  std::string on_card{};  // a card's: as device::share_cuda() says
  uint64_t bytes = 0;
};

// add_region() is thread safe; all else belongs to the service thread.
class Acceptor {
 public:
  // `epoll` is the service thread's; descriptors are added with themselves as data. `patience`: to a request.
  Acceptor(UniqueFd listener, Incarnation self, Duration patience, WindowOwner* windows, int epoll);

  void add_region(SharedRegion region);
  // Tells the writers about regions that they do not know yet.
  void announce();
  // False: not one of ours.
  bool on_fd(int fd);
  // Ends the connections of a writer's incarnation. The writer closes its end after its last copy, and only then is its
  // row free.
  void dismiss(const Incarnation& writer);
  // What is due, and when the next is: TimePoint::max() if nothing is.
  void tick(TimePoint now);
  [[nodiscard]] TimePoint next_tick() const;

 private:
  struct Connection {
    UniqueFd socket;
    TimePoint accepted;
    uint64_t arrival = 0;  // counts up: many are accepted at one time
    pid_t process = 0;
    std::optional<uint32_t> row;  // once it is let in
    Incarnation writer;
    uint32_t sent = 0;     // of 1 acceptance and the regions
    bool leaving = false;  // told to go; it closes its end after its last copy
  };
  void accept_some();
  // An error: close the connection.
  Status on_readable(Connection& connection);
  Status let_in(Connection& connection, const AttachRequest& request);
  Status check_room(const Connection& connection, const Incarnation& writer) const;
  Status send_pending(Connection& connection);
  bool watch(int fd, uint32_t interest, bool add) const;
  static void tell_to_go(Connection& connection);
  // The connection without a row that has waited longest, or connections_.end().
  [[nodiscard]] std::map<int, Connection>::const_iterator oldest_pending() const;

  Listener listener_;
  const Incarnation self_;
  const Duration patience_;
  WindowOwner* const windows_;
  const int epoll_;
  bool listening_ = true;  // epoll watches the listener
  uint64_t arrivals_ = 0;
  std::map<int, Connection> connections_;
  SparseLog complaints_;

  std::mutex mutex_;
  std::vector<SharedRegion> regions_;  // guarded by mutex_
};

}  // namespace baton::transport::shm
