// The fence of the shm transport: a slab of the owner that every writer maps.
//
// The owner keeps a table of windows {epoch, token, writer, ranges}. The epoch is a number that no other window of the
// owner ever has; 0 is a free slot. Each copy thread of each writer has one mark.
//
// To write a bounded piece, a copy thread stores the window's epoch in its mark, then looks whether the slot still has
// that epoch, and only if so copies; then it clears the mark. To close, the owner stores 0 in the slot, then looks at
// every mark. These stores and looks are sequentially consistent, so that either the writer sees the window closed or
// the owner sees the writer (Dekker's rule, as in hazard pointers). A mark that stays after its process has ended
// (pidfd) means nothing: a dead process writes no more. Nothing here is decided by time.
//
// This is a fence against late writes, not against hostile code: a peer of the same uid has the pages mapped and is
// trusted to use this library.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "transport/memory.h"
#include "transport/window_table.h"

namespace baton::transport::shm {

inline constexpr uint32_t kSlots = 4096;        // windows open at once
inline constexpr uint32_t kWriters = 64;        // processes attached at once
inline constexpr uint32_t kMarksPerWriter = 8;  // copy threads of each
inline constexpr uint64_t kRangeEntries = 1 << 18;

using Word = std::atomic<uint64_t>;
static_assert(Word::is_always_lock_free, "the slab is shared between processes");

struct alignas(64) Slot {
  Word epoch, attempt, secret, writer_high, writer_low, first_range, range_count;
};
struct RangeEntry {
  Word region, offset, length;
};
struct alignas(64) Mark {
  Word epoch;
};
struct ControlSlab {
  Word magic, incarnation_high, incarnation_low;
  Word slots_used;  // every open window is below
  Mark marks[kWriters][kMarksPerWriter];
  Slot slots[kSlots];
  RangeEntry ranges[kRangeEntries];  // touched only as far as used
};

// A sealed memfd: it cannot shrink, so that no access behind it raises SIGBUS. Close on exec.
Result<UniqueFd> create_slab(const char* name, uint64_t bytes);
// Maps a peer's slab after checking its seals and size. kIncompatible if it is not what create_slab() makes.
Result<Mapping> map_peer_slab(int fd, uint64_t bytes);
// True when the process behind a pidfd has ended: all its threads are gone.
[[nodiscard]] bool process_dead(int pidfd);

// The owner's side. Thread safe.
class WindowOwner {
 public:
  static Result<std::unique_ptr<WindowOwner>> create(const Incarnation& incarnation);
  [[nodiscard]] int fd() const { return fd_.get(); }

  // kResourceExhausted: no slot or no room for the ranges.
  Status open(const RegionTable& regions, const WindowToken& token, std::span<const WindowRange> ranges,
              const Incarnation& writer = {});
  // True: no live writer is inside.
  bool close(const WindowToken& token);
  [[nodiscard]] bool quiet(const WindowToken& token);
  // Some open window is for this writer.
  [[nodiscard]] bool expects(const Incarnation& writer);

  // A row of marks for an attached process. kResourceExhausted when all are taken.
  Result<uint32_t> add_writer(UniqueFd pidfd);
  // The writer has closed its connection, which it does after its last copy. Its row is used again once its marks are
  // clear or its process has ended.
  void remove_writer(uint32_t writer);

 private:
  struct OpenWindow {
    uint32_t slot;
    uint64_t first_range, range_count;
    uint64_t epoch;
    Incarnation writer;
  };
  struct Writer {
    UniqueFd pidfd;
    bool attached = false;
  };
  WindowOwner(UniqueFd fd, Mapping mapping);
  [[nodiscard]] ControlSlab& slab() const { return *reinterpret_cast<ControlSlab*>(mapping_.bytes().data()); }
  bool quiet_locked(const WindowToken& token);
  [[nodiscard]] bool writer_inside(uint64_t epoch);
  std::optional<uint64_t> take_ranges(uint64_t count);
  void return_ranges(uint64_t first, uint64_t count);

  UniqueFd fd_;
  Mapping mapping_;
  std::mutex mutex_;  // guards all below; the slab is read by other processes without it
  uint64_t last_epoch_ = 0;
  std::vector<uint32_t> free_slots_;          // the lowest last
  std::map<uint64_t, uint64_t> free_ranges_;  // first -> count, never adjacent
  std::unordered_map<WindowToken, OpenWindow, WindowTokenHash> open_;
  ExpectedWriters expected_;
  std::unordered_map<WindowToken, uint64_t, WindowTokenHash> closing_;  // closed with a writer inside, by epoch
  Writer writers_[kWriters];
};

// The writer's side of one owner's slab. Thread safe.
class WindowView {
 public:
  static Result<WindowView> map(int fd, const Incarnation& owner);

  struct Found {
    uint32_t slot;
    uint64_t epoch;
    RangeSet ranges;
  };
  // The open window of a token, for `writer`, with its ranges; nullopt if there is none, or it was closed while this
  // looked.
  [[nodiscard]] std::optional<Found> find(const WindowToken& token, const Incarnation& writer = {}) const;
  // True: the window is open, and close() of the owner will see us until leave(). False: do not write.
  [[nodiscard]] bool enter(uint32_t writer, uint32_t lane, const Found& window) const;
  void leave(uint32_t writer, uint32_t lane) const;

 private:
  explicit WindowView(Mapping mapping) : mapping_(std::move(mapping)) {}
  [[nodiscard]] ControlSlab& slab() const { return *reinterpret_cast<ControlSlab*>(mapping_.bytes().data()); }
  Mapping mapping_;
};

}  // namespace baton::transport::shm
