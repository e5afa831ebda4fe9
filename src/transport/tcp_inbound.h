// The owner's end of one connection: reads frames, checks them, receives payload straight into the granted pages, or
// into chunks that are copied to pages which the processor does not reach.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "transport/memory.h"
#include "transport/tcp_frames.h"
#include "transport/tcp_staging.h"
#include "transport/window_table.h"

namespace baton::transport::tcp {

// What an owner checks frames against.
struct OwnerState {
  const RegionTable& regions;
  const WindowTable& windows;
  Staging& staging;
  Incarnation incarnation;
};

// Used by the I/O thread only.
class Inbound {
 public:
  Inbound(UniqueFd fd, const OwnerState& owner) : fd_(std::move(fd)), owner_(owner), buffer_(kStrangerBufferBytes) {}

  using Fenced = std::vector<Incarnation>;  // writers that are refused
  // Reads and writes what it can, within a budget so that one connection does not keep the thread. An error: close the
  // connection.
  Status handle(const Fenced& fenced);

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] uint32_t interest() const;  // epoll events
  // Who greeted, with our incarnation.
  [[nodiscard]] bool greeted() const { return greeted_ && !closing_; }
  [[nodiscard]] const Incarnation& writer() const { return writer_; }
  // It has quoted the token of an open window. Until then it is given little: a small buffer, no memory for a body, few
  // answers, and few refusals before it has to go.
  [[nodiscard]] bool proven() const { return proven_; }
  // In the middle of a frame or a post, or with answers that the writer has not read.
  [[nodiscard]] bool busy() const {
    return in_body_ || payload_left_ > 0 || (post_.open && !post_.answered) || begin_ != end_ || unread() > 0;
  }
  [[nodiscard]] uint64_t moved() const { return moved_; }  // bytes, both ways
  // Copies to pages run, or a chunk was not to be had: to be handled again, though the socket says nothing.
  [[nodiscard]] bool unsettled() const { return wants_chunk_ || !landings_.empty(); }

 private:
  // The place in the current frame's runs that the next payload byte goes to.
  struct Cursor {
    size_t run = 0;
    uint32_t block = 0;
    uint64_t done = 0;  // bytes of the block
  };
  struct Piece {
    const device::Memory& region;
    uint64_t offset;
    uint64_t length;
    [[nodiscard]] std::byte* to() const { return region.base + offset; }
  };
  // A chunk on its way to pages. What was answered since waits for it: done means applied, and every answer that
  // nothing of its post is on its way.
  struct Landing {
    PieceInside inside;
    std::string answers;
    std::unique_ptr<Staging::Chunk> chunk;  // ends first: it waits for its copies
  };

  Status read_some(const Fenced& fenced);
  Status consume_buffer(const Fenced& fenced);
  Status on_frame(std::span<const std::byte> body, const Fenced& fenced);
  Status on_hello(std::span<const std::byte> body, const Fenced& fenced);
  Status on_write_head();
  Status start_write(WriteFrame frame);
  Status on_cancel(uint64_t post);
  Status admit(const WriteFrame& frame);
  void finish_frame();
  [[nodiscard]] bool needs_chunk();
  void land();
  void settle_landings();
  void refuse(std::string why);
  void answer(TransferOutcome outcome, std::string detail);
  ssize_t receive_payload();
  ssize_t receive_staged();
  ssize_t receive_discarded();
  void apply(std::span<const std::byte> bytes);
  [[nodiscard]] Piece piece(const Cursor& at) const;
  void advance(Cursor* at, uint64_t bytes) const;
  Status flush();
  [[nodiscard]] size_t unread() const { return out_.size() - out_sent_; }

  static constexpr size_t kBufferBytes = 8192;
  static constexpr size_t kStrangerBufferBytes = 512;
  UniqueFd fd_;
  const OwnerState& owner_;
  Incarnation writer_;
  bool greeted_ = false;
  bool proven_ = false;
  bool closing_ = false;  // answered with a refusal: flush and close
  int refused_ = 0;       // posts of a writer that is not proven
  uint64_t moved_ = 0;

  std::vector<std::byte> buffer_;  // headers, small frames, and what came behind a payload
  size_t begin_ = 0, end_ = 0;
  bool in_body_ = false;
  FrameHeader header_;
  std::vector<std::byte> body_;  // of a write only its head until its token is known; never above kBodyMax
  size_t body_have_ = 0;

  struct PostState {
    uint64_t id = 0;
    bool open = false;      // frames of it may still come
    bool answered = false;  // refused, cancelled or done: whatever comes is dropped
    uint64_t applied = 0;
  } post_;
  WriteFrame frame_;
  bool last_frame_ = false;
  Cursor cursor_;
  uint64_t payload_left_ = 0;
  std::shared_ptr<Window> window_;
  std::vector<device::Memory> run_memory_;  // of each run's region

  bool staged_ = false;                    // the frame has a region that its payload is staged for
  std::unique_ptr<Staging::Chunk> chunk_;  // of payload that was received and not landed; within handle() only
  uint64_t in_chunk_ = 0;
  bool wants_chunk_ = false;
  std::deque<Landing> landings_;  // in the order in which they began
  size_t held_back_ = 0;          // bytes of answers that wait for one

  std::string out_;
  size_t out_sent_ = 0;
};

}  // namespace baton::transport::tcp
