// Moves bytes between the page pools of two processes. The smallest interface that shm, TCP, RDMA libraries and CUDA
// IPC all fit.
//
// Memory is named by (region, offset), never by address; the owner of the memory checks region, bounds, its own
// incarnation and that the token's window is open before a byte lands (S11). Done means applied at the destination.
// Every post ends in exactly one event.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "device/memory.h"

namespace baton::transport {

using RegionId = Id<struct RegionTag, uint32_t>;
using PeerId = Id<struct PeerTag, uint32_t>;
using TransferId = Id<struct TransferTag, uint64_t>;

struct TransportCaps {
  std::string name;          // "loopback", "shm", "tcp"
  bool owns_memory = false;  // regions must come from allocate()
};

struct Block {
  RegionId local_region;
  uint64_t local_offset = 0;
  RegionId remote_region;
  uint64_t remote_offset = 0;
  uint64_t length = 0;
};

// A grant as the transport knows it: opened by the owner of the memory, quoted by the writer.
struct WindowToken {
  AttemptId attempt;
  uint64_t secret = 0;  // drawn by the owner for each grant, so that a stale or guessed attempt id opens nothing
  constexpr bool operator==(const WindowToken&) const = default;
};

struct WindowRange {
  RegionId region;
  uint64_t offset = 0;
  uint64_t length = 0;
};

// kDone: applied. kRejected: the owner refused it (window, bounds or incarnation). kPeerLost: the connection or the
// process is gone. kTimeout: the deadline passed. A post that is not done may have written a part of its bytes inside
// its window.
enum class TransferOutcome : uint8_t { kDone, kRejected, kPeerLost, kTimeout, kCancelled, kFailed };
[[nodiscard]] const char* transfer_outcome_name(TransferOutcome outcome);

struct TransferEvent {
  TransferId transfer;
  TransferOutcome outcome = TransferOutcome::kFailed;
  uint64_t bytes = 0;            // applied at the destination; all of the post's when kDone
  bool local_quiesced = false;   // our memory is no longer read for this post
  bool remote_quiesced = false;  // no byte of this post can land any more: evidence (E1)
  std::string detail;            // why, unless kDone
};

// All methods are thread safe. One object an instance; it has its own threads if it needs any.
class Transport {
 public:
  virtual ~Transport() = default;

  [[nodiscard]] virtual TransportCaps caps() const = 0;

  // Page-aligned zeroed memory this transport can serve, registered for the life of the transport; few large slabs, at
  // start-up.
  struct Region {
    RegionId id;
    device::Memory memory;
  };
  virtual Result<Region> allocate(uint64_t bytes) = 0;
  // Memory of the caller's; kIncompatible if caps().owns_memory, or if its home is none that the transport reaches.
  virtual Result<RegionId> register_memory(const device::Memory& memory) = 0;

  // What a peer needs to reach this object: opaque, versioned, bounded (64 KiB), with the incarnation; carried by the
  // control connection.
  [[nodiscard]] virtual std::string local_blob() const = 0;
  // Never waits: a peer that cannot be reached shows in its posts. The same blob gives the same PeerId until that was
  // forgotten as often as it was connected: whoever pairs counts for itself and cannot end the pairing of another.
  virtual Result<PeerId> connect(std::string_view blob) = 0;

  // The owner's side: writes of `ranges` are accepted from `writer`, quoting `token`, until the window is closed. While
  // it is open there is a place for connections of that writer, whoever else holds some. A writer of zeros: anybody who
  // quotes the token. kInvalidArgument: attempt 0, a token that is open or not quiet yet, ranges that are empty or
  // leave their region.
  virtual Status open_window(const WindowToken& token, std::span<const WindowRange> ranges,
                             const Incarnation& writer) = 0;
  Status open_window(const WindowToken& token, std::span<const WindowRange> ranges) {
    return open_window(token, ranges, Incarnation{});
  }
  // Closes the window to new writes. True: every writer is known to be quiet and the memory may be reused (our own
  // fence, E2). False: a write is inside the window and cannot be stopped from here; ask again with window_quiet(). A
  // token that is not open: as window_quiet().
  virtual bool close_window(const WindowToken& token) = 0;
  // False while the window is open or a writer is inside. True for a token that was never opened.
  [[nodiscard]] virtual bool window_quiet(const WindowToken& token) = 0;

  // Writes local bytes into the peer's memory. Posts are not ordered against each other; the local bytes must stay as
  // they are until the event. kResourceExhausted: the bounded queue is full, post again after an event.
  // kInvalidArgument: a block outside its local region, or more than 2^20 blocks. kUnavailable: no such peer, or it was
  // forgotten.
  virtual Result<TransferId> post_write(PeerId peer, std::span<const Block> blocks, const WindowToken& token,
                                        TimePoint deadline) = 0;
  // Best effort; the post still ends in its one event.
  virtual void cancel(TransferId transfer) = 0;

  // Appends the events that are there. Never blocks.
  virtual void poll(std::vector<TransferEvent>* events) = 0;
  // Readable while poll() has something to say; for poll(2) and epoll.
  [[nodiscard]] virtual int event_fd() const = 0;

  // Takes one connect() back. With the last one posts to the peer end with kPeerLost and its connections are closed.
  virtual void forget(PeerId peer) = 0;
};

}  // namespace baton::transport
