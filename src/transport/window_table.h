// The windows of an owner whose own threads do the writing (loopback, tcp), so that closing one is a fence by itself.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "transport/memory.h"
#include "transport/transport.h"

namespace baton::transport {

struct WindowTokenHash {
  size_t operator()(const WindowToken& t) const { return t.attempt.value() ^ (t.secret * 0x9e3779b97f4a7c15); }
};

// Whoever writes holds `mutex` and looks at `open` for each bounded piece; close() takes the same mutex. After close()
// returned no byte of the window can land, but of pieces that are inside: let in before, and still on their way to a
// device's memory.
struct Window {
  Window(RangeSet set, const Incarnation& from) : ranges(std::move(set)), writer(from) {}
  std::mutex mutex;
  bool open = true;
  const RangeSet ranges;
  const Incarnation writer;         // zeros: anybody
  std::atomic<uint32_t> inside{0};  // grows under the mutex, while the window is open
};

// One piece inside, from when it is let in, under the mutex, until its bytes are in place.
class PieceInside {
 public:
  explicit PieceInside(std::shared_ptr<Window> window) : window_(std::move(window)) { ++window_->inside; }
  PieceInside(PieceInside&&) = default;
  PieceInside& operator=(PieceInside&&) = delete;
  ~PieceInside() {
    if (window_ != nullptr) --window_->inside;
  }

 private:
  std::shared_ptr<Window> window_;
};

[[nodiscard]] inline bool lets_in(const Incarnation& wanted, const Incarnation& writer) {
  return wanted == Incarnation{} || wanted == writer;
}

// The writers that windows are open for, counted. One thread at a time.
class ExpectedWriters {
 public:
  void add(const Incarnation& writer) { ++windows_[writer]; }
  void remove(const Incarnation& writer) {
    if (--windows_.at(writer) == 0) windows_.erase(writer);
  }
  [[nodiscard]] bool contains(const Incarnation& writer) const {
    return writer != Incarnation{} && windows_.contains(writer);
  }

 private:
  std::map<Incarnation, size_t> windows_;
};

// The check that the owner makes on a destination, before a byte of it is read off the wire.
Status admit_block(const RegionTable& regions, const Window& window, RegionId region, uint64_t offset, uint64_t length);

// Thread safe.
class WindowTable {
 public:
  // kInvalidArgument: attempt 0, a token that is open already or not quiet, or ranges outside the regions.
  Status open(const RegionTable& regions, const WindowToken& token, std::span<const WindowRange> ranges,
              const Incarnation& writer);
  // The open window of this token if it lets `writer` in, or null. The caller still has to look at `open` under the
  // window's mutex.
  [[nodiscard]] std::shared_ptr<Window> find(const WindowToken& token, const Incarnation& writer) const;
  // Not open, and nothing inside.
  [[nodiscard]] bool quiet(const WindowToken& token);
  // Some open window is for this writer.
  [[nodiscard]] bool expects(const Incarnation& writer) const;
  // Waits for the piece that is being written, if one is (bounded: a copy inside this process). True: as quiet().
  bool close(const WindowToken& token);

 private:
  using Windows = std::unordered_map<WindowToken, std::shared_ptr<Window>, WindowTokenHash>;
  bool quiet_locked(const WindowToken& token);

  mutable std::mutex mutex_;
  Windows windows_;
  Windows closed_;  // which were not quiet when last looked at
  ExpectedWriters expected_;
};

}  // namespace baton::transport
