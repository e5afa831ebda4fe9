// The owner's end of the unix sockets: lets writers in, hands them the control slab and the regions, notices when they
// go.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "transport/shm_control.h"
#include "transport/shm_socket.h"

namespace baton::shm {

// add_region() is thread safe; all else belongs to the service thread.
class Acceptor {
 public:
  // `epoll` is the service thread's; descriptors are added with themselves as data.
  Acceptor(UniqueFd listener, Incarnation self, WindowOwner* windows, int epoll);

  void add_region(UniqueFd slab, uint64_t bytes);
  // Tells the writers about regions that they do not know yet.
  void announce();
  // False: not one of ours.
  bool on_fd(int fd);
  // Ends the connections of a writer's incarnation. The writer closes its end after its last copy, and only then is its
  // row free.
  void dismiss(const Incarnation& writer);

 private:
  struct Connection {
    UniqueFd socket;
    std::optional<uint32_t> row;  // once it is let in
    Incarnation writer;
    uint32_t sent = 0;  // of 1 acceptance and the regions
  };
  void accept_all();
  // An error: close the connection.
  Status on_readable(Connection& connection);
  Status let_in(Connection& connection, const AttachRequest& request);
  Status send_pending(Connection& connection);
  void watch(int fd, uint32_t interest, bool add) const;

  const UniqueFd listener_;
  const Incarnation self_;
  WindowOwner* const windows_;
  const int epoll_;
  std::map<int, Connection> connections_;

  struct Slab {
    UniqueFd fd;
    uint64_t bytes;
  };
  std::mutex mutex_;
  std::vector<Slab> slabs_;  // guarded by mutex_
};

}  // namespace baton::shm
