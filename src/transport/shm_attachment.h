// The writer's end: an owner's memory mapped here, and the copying into it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "device/cuda.h"
#include "device/stream.h"
#include "transport/memory.h"
#include "transport/shm_control.h"

namespace baton::transport::shm {

// Shared by the service thread and the copy threads: the last of them to let go unmaps and closes the socket, which
// tells the owner that no copy of ours will follow.
class Attachment {
 public:
  // kUnavailable: nobody there.
  static Result<std::shared_ptr<Attachment>> begin(const std::string& name, const Incarnation& self,
                                                   const Incarnation& owner);

  // Service thread. Takes the owner's messages; an error ends the attachment.
  Status on_readable();
  [[nodiscard]] bool ready() const { return ready_; }
  // Why the owner refused us, once it did.
  [[nodiscard]] const std::optional<std::string>& refused() const { return refused_; }
  [[nodiscard]] int fd() const { return socket_.get(); }
  [[nodiscard]] int process_fd() const { return process_.get(); }
  void mark_lost() { lost_ = true; }
  // Maps what regions of cards there are for writers on `homes`: when peers meet it holds up nothing, later perhaps the
  // kernels of ranks. What cannot be mapped says so when it is written to.
  void map_regions(const std::set<device::Home>& homes);

  // How a copy thread copies, and what may stop it between two pieces.
  struct Control {
    const std::atomic<bool>* cancelled;
    TimePoint deadline;
    uint32_t lane;             // the thread's number
    device::Streams* streams;  // the thread's own
  };
  struct Copied {
    TransferOutcome outcome = TransferOutcome::kDone;
    uint64_t bytes = 0;  // in place
    std::string detail;
  };
  // A copy thread, of `local` regions. When it returns no byte of the post will follow.
  Copied copy(const RegionTable& local, const PreparedBlocks& what, const WindowToken& token, const Control& control);

 private:
  Attachment() = default;
  Status on_message(struct OwnerMessage message, UniqueFd fd);
  Status on_region(const struct OwnerMessage& message, UniqueFd fd);
  Status check(const PreparedBlocks& what, const RangeSet& ranges) const;
  // The peer's region for a write from memory of `writer`; mapped for its card if it was not yet.
  Result<device::Memory> region_for(RegionId region, device::Home writer);
  std::optional<Copied> interrupted(const Control& control) const;
  [[nodiscard]] bool owner_alive() const;

  UniqueFd socket_, process_;
  Incarnation self_, owner_;
  std::optional<WindowView> view_;  // as row_, set before ready_
  uint32_t row_ = 0;
  uint32_t regions_wanted_ = 0;
  std::optional<std::string> refused_;
  std::atomic<bool> ready_{false};
  std::atomic<bool> lost_{false};
  mutable std::mutex mutex_;
  struct PeerRegion {
    Mapping slab;
    std::string on_card;                                 // in place of a slab
    std::map<device::Home, device::CudaMapping> mapped;  // by the card that writes
    uint64_t bytes = 0;
  };
  std::vector<PeerRegion> regions_;  // guarded by mutex_; index i is region i + 1
};

}  // namespace baton::transport::shm
