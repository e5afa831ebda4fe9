// The writer's end: an owner's memory mapped here, and the copying into it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
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

  // What may stop a copy between two pieces.
  struct Control {
    const std::atomic<bool>* cancelled;
    TimePoint deadline;
  };
  struct Copied {
    TransferOutcome outcome = TransferOutcome::kDone;
    uint64_t bytes = 0;  // in place
    std::string detail;
  };
  // A copy thread; `lane` is its number. When it returns no byte of the post will follow.
  Copied copy(const PreparedBlocks& what, const WindowToken& token, uint32_t lane, const Control& control);

 private:
  Attachment() = default;
  Status on_message(struct OwnerMessage message, UniqueFd fd);
  Status check(const PreparedBlocks& what, const RangeSet& ranges,
               const std::vector<std::span<std::byte>>& regions) const;
  std::optional<Copied> interrupted(const Control& control) const;
  [[nodiscard]] bool owner_alive() const;
  [[nodiscard]] std::vector<std::span<std::byte>> regions() const;

  UniqueFd socket_, process_;
  Incarnation self_, owner_;
  std::optional<WindowView> view_;  // as row_, set before ready_
  uint32_t row_ = 0;
  uint32_t regions_wanted_ = 0;
  std::optional<std::string> refused_;
  std::atomic<bool> ready_{false};
  std::atomic<bool> lost_{false};
  mutable std::mutex mutex_;
  std::vector<Mapping> regions_;  // guarded by mutex_; index i is region i + 1
};

}  // namespace baton::transport::shm
