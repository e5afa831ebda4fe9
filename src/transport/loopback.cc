#include "transport/loopback.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include "transport/blob.h"
#include "transport/event_queue.h"
#include "transport/memory.h"
#include "transport/window_table.h"

namespace baton::transport {
namespace {

class LoopbackTransport;

// Every live object by name. Its mutex also guards the objects' queues and is held while bytes are copied, so that
// nobody is destroyed under a copy and a closed window is quiet.
struct Registry {
  std::mutex mutex;
  std::map<std::string, LoopbackTransport*> objects;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

class LoopbackTransport final : public Transport {
 public:
  explicit LoopbackTransport(const TransportOptions& options)
      : blob_{.kind = BlobKind::kLoopback,
              .incarnation = options.incarnation,
              .address = options.bind_address,
              .port = 0},
        queue_bytes_(options.queue_bytes) {
    if (blob_.address.empty()) blob_.address = options.incarnation.to_string();
  }

  ~LoopbackTransport() override {
    std::lock_guard lock(registry().mutex);
    const auto it = registry().objects.find(blob_.address);
    if (it != registry().objects.end() && it->second == this) registry().objects.erase(it);
  }

  Status join() {
    std::lock_guard lock(registry().mutex);
    if (!registry().objects.try_emplace(blob_.address, this).second) {
      return error(ErrorCode::kUnavailable, "loopback address {} is taken", blob_.address);
    }
    return {};
  }

  TransportCaps caps() const override { return {.name = "loopback", .owns_memory = false}; }

  Result<Region> allocate(uint64_t bytes) override {
    BATON_ASSIGN(device::Buffer slab, device::Buffer::allocate({}, bytes));
    return regions_.adopt(std::move(slab));
  }

  Result<RegionId> register_memory(const device::Memory& memory) override { return regions_.add(memory); }
  std::string local_blob() const override { return encode_blob(blob_); }

  Result<PeerId> connect(std::string_view bytes) override {
    BATON_ASSIGN(PeerBlob blob, decode_blob(bytes, BlobKind::kLoopback));
    std::lock_guard lock(registry().mutex);
    for (auto& [id, peer] : peers_) {
      if (peer.blob != blob) continue;
      ++peer.pairings;
      return id;
    }
    const PeerId id(++last_peer_);
    peers_.emplace(id, Peer{std::move(blob), std::make_shared<PostBudget>(queue_bytes_), 1});
    return id;
  }

  Status open_window(const WindowToken& token, std::span<const WindowRange> ranges,
                     const Incarnation& writer) override {
    return windows_.open(regions_, token, ranges, writer);
  }
  bool close_window(const WindowToken& token) override { return windows_.close(token); }
  bool window_quiet(const WindowToken& token) override { return windows_.quiet(token); }

  Result<TransferId> post_write(PeerId peer, std::span<const Block> blocks, const WindowToken& token,
                                TimePoint deadline) override {
    BATON_ASSIGN(PreparedBlocks prepared, prepare_blocks(regions_, blocks));
    std::lock_guard lock(registry().mutex);
    const auto it = peers_.find(peer);
    if (it == peers_.end()) return error(ErrorCode::kUnavailable, "peer {} is not connected", peer);
    BATON_TRY(it->second.budget->take(prepared.cost()));
    const TransferId id(++last_transfer_);
    pending_.push_back(
        {id, peer, it->second.blob, blob_.incarnation, it->second.budget, std::move(prepared), token, deadline});
    ready_.wake();
    return id;
  }

  void cancel(TransferId transfer) override {
    std::lock_guard lock(registry().mutex);
    end_pending(TransferOutcome::kCancelled, "cancelled by the caller",
                [&](const Post& p) { return p.id == transfer; });
  }

  void poll(std::vector<TransferEvent>* events) override {
    std::lock_guard lock(registry().mutex);
    ready_.clear();
    const TimePoint now = SteadyClock().now();
    for (Post& post : pending_) finish(post, carry_out(post, now));
    pending_.clear();
    std::move(ended_.begin(), ended_.end(), std::back_inserter(*events));
    ended_.clear();
  }

  int event_fd() const override { return ready_.fd(); }

  void forget(PeerId peer) override {
    std::lock_guard lock(registry().mutex);
    const auto it = peers_.find(peer);
    if (it == peers_.end() || --it->second.pairings > 0) return;
    peers_.erase(it);
    end_pending(TransferOutcome::kPeerLost, "the peer was forgotten", [&](const Post& p) { return p.peer == peer; });
  }

 private:
  struct Peer {
    PeerBlob blob;
    std::shared_ptr<PostBudget> budget;
    int pairings;  // connect() less forget()
  };
  struct Post {
    TransferId id;
    PeerId peer;
    PeerBlob to;
    Incarnation from;
    std::shared_ptr<PostBudget> budget;
    PreparedBlocks what;
    WindowToken token;
    TimePoint deadline;
  };
  struct Ending {
    TransferOutcome outcome = TransferOutcome::kDone;
    std::string detail;
  };

  static Ending carry_out(const Post& post, TimePoint now) {
    if (now >= post.deadline) return {TransferOutcome::kTimeout, "the deadline passed before the post was carried out"};
    const auto it = registry().objects.find(post.to.address);
    if (it == registry().objects.end()) return {TransferOutcome::kPeerLost, "the peer is gone"};
    LoopbackTransport& owner = *it->second;
    if (owner.blob_.incarnation != post.to.incarnation)
      return {TransferOutcome::kRejected, "the peer's incarnation is stale"};
    if (Status applied = owner.apply(post.what, post.token, post.from); !applied)
      return {TransferOutcome::kRejected, applied.error().message};
    return {};
  }

  Status apply(const PreparedBlocks& what, const WindowToken& token, const Incarnation& writer) {
    const std::shared_ptr<Window> window = windows_.find(token, writer);
    if (window == nullptr) return error(ErrorCode::kNotFound, "no window is open for attempt {}", token.attempt);
    std::lock_guard writing(window->mutex);
    if (!window->open) return error(ErrorCode::kNotFound, "the window of attempt {} is closed", token.attempt);
    for (const SourceBlock& b : what.blocks) BATON_TRY(admit_block(regions_, *window, b.region, b.offset, b.length));
    for (const SourceBlock& b : what.blocks) std::memmove(regions_.find(b.region)->base + b.offset, b.from, b.length);
    return {};
  }

  void finish(Post& post, Ending ending) {
    post.budget->give_back(post.what.cost());
    const uint64_t applied = ending.outcome == TransferOutcome::kDone ? post.what.bytes : 0;
    ended_.push_back({post.id, ending.outcome, applied, true, true, std::move(ending.detail)});
  }

  template <typename Predicate>
  void end_pending(TransferOutcome outcome, const char* why, Predicate which) {
    std::deque<Post> kept;
    for (Post& post : pending_) {
      if (which(post)) {
        finish(post, {outcome, why});
      } else {
        kept.push_back(std::move(post));
      }
    }
    pending_ = std::move(kept);
  }

  PeerBlob blob_;
  const uint64_t queue_bytes_;
  RegionTable regions_;
  WindowTable windows_;
  WakeFd ready_;
  // Guarded by the registry's mutex.
  std::map<PeerId, Peer> peers_;
  std::deque<Post> pending_;
  std::vector<TransferEvent> ended_;
  uint32_t last_peer_ = 0;
  uint64_t last_transfer_ = 0;
};

}  // namespace

Result<std::unique_ptr<Transport>> make_loopback_transport(const TransportOptions& options) {
  auto transport = std::make_unique<LoopbackTransport>(options);
  BATON_TRY(transport->join());
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace baton::transport
