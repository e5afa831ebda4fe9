#include "transport/tcp.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "base/log.h"
#include "base/tcp_socket.h"
#include "transport/blob.h"
#include "transport/event_queue.h"
#include "transport/memory.h"
#include "transport/tcp_loop.h"
#include "transport/window_table.h"

namespace baton::transport {
namespace {

class TcpTransport final : public Transport {
 public:
  TcpTransport(const TransportOptions& options, UniqueFd listener, PeerBlob blob)
      : queue_bytes_(options.queue_bytes),
        blob_(std::move(blob)),
        staging_(options.staging),
        loop_(options, std::move(listener), tcp::OwnerState{regions_, windows_, staging_, blob_.incarnation},
              &events_) {}

  TransportCaps caps() const override { return {.name = "tcp"}; }

  Result<Region> allocate(uint64_t bytes) override {
    BATON_ASSIGN(device::Buffer slab, device::Buffer::allocate({}, bytes));
    BATON_TRY(staging_.admit(slab.memory()));
    return regions_.adopt(std::move(slab));
  }

  Result<RegionId> register_memory(const device::Memory& memory) override {
    BATON_TRY(staging_.admit(memory));
    return regions_.add(memory);
  }
  std::string local_blob() const override { return encode_blob(blob_); }

  Result<PeerId> connect(std::string_view bytes) override {
    BATON_ASSIGN(PeerBlob blob, decode_blob(bytes, BlobKind::kTcp));
    BATON_ASSIGN(const SocketAddress address, make_address(blob.address, blob.port, /*lookup=*/false));
    std::lock_guard lock(mutex_);
    for (auto& [id, peer] : peers_) {
      if (peer.blob != blob) continue;
      ++peer.pairings;
      loop_.submit(tcp::AddPeer{id, address, blob.incarnation, peer.budget});  // pairing again: it may let us in now
      return id;
    }
    const PeerId id(++last_peer_);
    auto budget = std::make_shared<PostBudget>(queue_bytes_);
    loop_.submit(tcp::AddPeer{id, address, blob.incarnation, budget});
    peers_.emplace(id, Peer{std::move(blob), std::move(budget), 1});
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
    std::lock_guard lock(mutex_);
    const auto it = peers_.find(peer);
    if (it == peers_.end()) return error(ErrorCode::kUnavailable, "peer {} is not connected", peer);
    BATON_TRY(it->second.budget->take(prepared.cost()));
    const TransferId id(++last_transfer_);
    const bool staged =
        staging_.used() && std::any_of(prepared.blocks.begin(), prepared.blocks.end(), [this](const auto& b) {
          return staging_.stages(regions_.find(b.local_region).value());
        });
    loop_.submit(tcp::AddPost{peer, {id, std::move(prepared), token, deadline, staged}});
    return id;
  }

  void cancel(TransferId transfer) override { loop_.submit(tcp::CancelPost{transfer}); }
  void poll(std::vector<TransferEvent>* events) override { events_.drain(events); }
  int event_fd() const override { return events_.fd(); }

  void forget(PeerId peer) override {
    std::lock_guard lock(mutex_);
    const auto it = peers_.find(peer);
    if (it == peers_.end() || --it->second.pairings > 0) return;
    peers_.erase(it);
    loop_.submit(tcp::ForgetPeer{peer});
  }

 private:
  struct Peer {
    PeerBlob blob;
    std::shared_ptr<PostBudget> budget;
    int pairings;  // connect() less forget()
  };

  const uint64_t queue_bytes_;
  const PeerBlob blob_;
  EventQueue events_;
  RegionTable regions_{std::nullopt};  // staging_ says which
  WindowTable windows_;
  std::mutex mutex_;
  std::map<PeerId, Peer> peers_;  // guarded by mutex_, as the two below
  uint32_t last_peer_ = 0;
  uint64_t last_transfer_ = 0;
  tcp::Staging staging_;
  tcp::Loop loop_;  // last: its thread uses what stands above and ends first
};

// The address that peers connect to, of a listener that is bound to `bound`.
Result<SocketAddress> told_address(const SocketAddress& bound, const std::string& advertise_host) {
  if (!advertise_host.empty()) {
    BATON_ASSIGN(const SocketAddress told, make_address(advertise_host, bound.port(), /*lookup=*/true));
    if (told.wildcard()) {
      return error(ErrorCode::kInvalidArgument,
                   "--advertise-host {}: peers cannot connect to that; give one address of this machine",
                   advertise_host);
    }
    if (told.v6() && !bound.v6()) {
      return error(ErrorCode::kInvalidArgument,
                   "--advertise-host {} is an IPv6 address and the data port listens on {} only; listen on ::",
                   advertise_host, bound.host());
    }
    return told;
  }
  if (!bound.wildcard()) return bound;
  Result<SocketAddress> own = default_route_address(bound.v6());
  if (!own && bound.v6()) own = default_route_address(false);  // :: takes IPv4 too
  if (!own) {
    return error(
        ErrorCode::kInvalidArgument,
        "the data port listens on every address ({}) and peers must be told one of them, but there is {}; give "
        "--advertise-host an address of this machine that they reach",
        bound.host(), own.error().message);
  }
  log_info("tcp transport: peers are told {}, the address of the default route; --advertise-host tells them another",
           own->host());
  return own;
}

}  // namespace

Result<std::unique_ptr<Transport>> make_tcp_transport(const TransportOptions& options) {
  const std::string& wanted = options.bind_address;
  BATON_ASSIGN(const SocketAddress address, parse_address(wanted.empty() ? "127.0.0.1" : wanted, /*lookup=*/true));
  BATON_ASSIGN(UniqueFd listener, listen_on(address));
  BATON_ASSIGN(const SocketAddress bound, bound_address(listener.get()));
  BATON_ASSIGN(const SocketAddress told, told_address(bound, options.advertise_host));
  PeerBlob blob{
      .kind = BlobKind::kTcp, .incarnation = options.incarnation, .address = told.host(), .port = bound.port()};
  return std::unique_ptr<Transport>(std::make_unique<TcpTransport>(options, std::move(listener), std::move(blob)));
}

}  // namespace baton::transport
