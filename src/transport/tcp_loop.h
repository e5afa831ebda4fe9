// The one I/O thread of a tcp transport: owns every connection of both directions. Other threads speak to it by
// commands.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/listener.h"
#include "base/sparse_log.h"
#include "base/tcp_socket.h"
#include "transport/event_queue.h"
#include "transport/make_transport.h"
#include "transport/tcp_guests.h"
#include "transport/tcp_inbound.h"
#include "transport/tcp_lane.h"

namespace baton::transport::tcp {

// For a peer that is there: a refusal is forgotten.
struct AddPeer {
  PeerId peer;
  SocketAddress address;
  Incarnation incarnation;
  std::shared_ptr<PostBudget> budget;
};
struct AddPost {
  PeerId peer;
  Outgoing post;
};
struct CancelPost {
  TransferId id;
};
struct ForgetPeer {
  PeerId peer;
};
using Command = std::variant<AddPeer, AddPost, CancelPost, ForgetPeer>;

class Loop {
 public:
  // Borrows all three for its life.
  Loop(const TransportOptions& options, UniqueFd listener, OwnerState owner, EventQueue* events);
  ~Loop();  // stops the thread and closes every connection; posts without an event get none any more
  // Thread safe; carried out in order.
  void submit(Command command);

 private:
  struct Peer {
    PeerId id;
    SocketAddress address;
    Incarnation incarnation;
    std::shared_ptr<PostBudget> budget;
    std::deque<Outgoing> queue;  // nothing of these was sent
    std::vector<std::unique_ptr<Lane>> lanes;
    std::string refused;  // why the owner will not have us; asked again when connected to, or after a while
    TimePoint ask_again;
  };

  void run();
  void on_fd(int fd);
  void on_inbound(int fd);
  void serve(int fd, Inbound& connection);
  void accept_some();
  void dismiss(int fd, const std::string& why);
  void carry_out(AddPeer&& command);
  void carry_out(AddPost&& command);
  void carry_out(CancelPost&& command);
  void carry_out(ForgetPeer&& command);

  void pump(Peer& peer);
  void drive(Peer& peer, Lane& lane);
  Status open_lane(Peer& peer);
  void lose_lane(Peer& peer, Lane& lane, const std::string& why);
  void fail_queue(Peer& peer, TransferOutcome outcome, const std::string& why);
  void end(Peer& peer, const Outgoing& post, TransferOutcome outcome, uint64_t bytes, bool remote_quiesced,
           std::string detail);
  void revisit();
  void expire(TimePoint now);
  void expire_post(Peer& peer, TransferId id);
  void expire_lanes(TimePoint now);
  void expire_guests(TimePoint now);
  [[nodiscard]] int wait_ms(TimePoint now) const;
  // False: the system has no room for one more.
  bool try_watch(int fd, uint32_t interest, bool add) const;
  void watch(int fd, uint32_t interest, bool add) const;

  const TransportOptions options_;
  Listener listener_;
  const OwnerState owner_;
  EventQueue* const events_;
  UniqueFd epoll_;
  WakeFd wake_;

  std::mutex mutex_;
  std::vector<Command> commands_;  // guarded by mutex_
  bool stopping_ = false;          // guarded by mutex_

  // The thread's own.
  std::map<PeerId, Peer> peers_;
  std::unordered_map<int, PeerId> lane_owner_;  // by descriptor
  std::unordered_map<int, std::unique_ptr<Inbound>> inbound_;
  Guests guests_;  // the same connections
  SparseLog complaints_;
  // Connections with copies under way, of which no descriptor tells, and those that wait for a chunk of others.
  std::set<int> copying_, chunkless_;
  std::unordered_map<TransferId, PeerId> live_;
  std::set<std::pair<TimePoint, TransferId>> deadlines_;
  std::vector<Incarnation> fenced_;
  bool listening_ = true;   // epoll watches the listener
  size_t fresh_lanes_ = 0;  // not ready or without a post yet; an upper bound, recounted when they are looked at

  std::thread thread_;
};

}  // namespace baton::transport::tcp
