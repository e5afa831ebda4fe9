// The posts of a shm transport: queues, copy threads, deadlines.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "transport/blob.h"
#include "transport/event_queue.h"
#include "transport/memory.h"
#include "transport/shm_attachment.h"

namespace baton::transport::shm {

// Methods are thread safe, but those named for the service thread are for that thread alone.
class Writer {
 public:
  struct Options {
    Incarnation self;
    uint64_t queue_bytes;
    int copy_threads;
    Duration attach_timeout;
  };
  // Borrows all but the first. `regions` are what is written from; `epoll` is the service thread's; descriptors are
  // added with themselves as data, and `service` wakes it.
  Writer(const Options& options, const RegionTable* regions, int epoll, const WakeFd* service, EventQueue* events);
  ~Writer();  // joins the copy threads

  PeerId add_peer(const PeerBlob& blob);
  // The incarnation of the peer, when that was its last pairing.
  std::optional<Incarnation> forget(PeerId peer);
  Result<TransferId> post(PeerId peer, PreparedBlocks what, const WindowToken& token, TimePoint deadline);
  void cancel(TransferId id);

  // Service thread: an event on a descriptor (false: not one of ours); what is due; when the next is, or
  // TimePoint::max().
  bool on_fd(int fd);
  void tick(TimePoint now);
  [[nodiscard]] TimePoint next_tick();

 private:
  struct Post;
  struct Peer {
    PeerId id;
    PeerBlob blob;
    PostBudget budget;
    std::shared_ptr<Attachment> attachment;  // from the first try to attach until the peer is lost
    bool wants_attachment = true;
    TimePoint attach_deadline;
    std::vector<TransferId> waiting;  // until attached; those no longer in live_ are skipped
    std::string refused;
    int pairings = 1;  // add_peer() less forget()
    Peer(PeerId peer, PeerBlob b, uint64_t queue_bytes) : id(peer), blob(std::move(b)), budget(queue_bytes) {}
  };
  struct Post {
    TransferId id;
    std::shared_ptr<Peer> peer;
    PreparedBlocks what;
    WindowToken token;
    TimePoint deadline;
    bool running = false;
    std::atomic<bool> cancelled{false};
  };

  void copy_loop(uint32_t lane);
  void attach(Peer& peer, TimePoint now);
  // All below: mutex_ is held.
  void on_attached(Peer& peer);
  void lose(Peer& peer, const std::string& why);
  void end_queued(Peer& peer, TransferOutcome outcome, const std::string& why);
  void end(const std::shared_ptr<Post>& post, TransferOutcome outcome, uint64_t bytes, std::string detail);
  bool watch(int fd, PeerId peer);  // false: the system has no room for one more

  const Options options_;
  const RegionTable* const regions_;
  const int epoll_;
  const WakeFd* const service_;
  EventQueue* const events_;

  std::mutex mutex_;  // guards all below
  std::condition_variable work_;
  bool stopping_ = false;
  std::map<PeerId, std::shared_ptr<Peer>> peers_;
  std::unordered_map<int, PeerId> watched_;  // sockets and pidfds of attachments
  std::unordered_map<TransferId, std::shared_ptr<Post>> live_;
  std::deque<TransferId> ready_;  // of attached peers; those no longer in live_ are skipped
  std::set<std::pair<TimePoint, TransferId>> deadlines_;
  uint32_t last_peer_ = 0;
  uint64_t last_transfer_ = 0;

  std::vector<std::thread> threads_;
};

}  // namespace baton::transport::shm
