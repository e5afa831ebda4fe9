// The writer's end of one connection: says hello, sends the frames of one post after another, gathers the answers.
// Payload is sent straight from the pages, or from chunks that are filled from pages which the processor does not
// reach; the next frame's chunk is filled while a frame is sent.
#pragma once

#include <sys/uio.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/tcp_socket.h"
#include "transport/memory.h"
#include "transport/tcp_frames.h"
#include "transport/tcp_staging.h"

namespace baton::transport::tcp {

struct Outgoing {
  TransferId id;
  PreparedBlocks what;
  WindowToken token;
  TimePoint deadline;
  bool staged = false;  // some of its bytes have to be
};

// Where a writer's pages lie.
struct Sources {
  const RegionTable& regions;
  Staging& staging;
};

struct Ended {
  Outgoing post;
  TransferOutcome outcome;
  uint64_t bytes = 0;
  std::string detail;
};

// Used by the I/O thread only.
class Lane {
 public:
  Lane(UniqueFd fd, Incarnation self, Incarnation peer, TimePoint first_use_deadline, const Sources& sources);

  // Sends and receives what it can. Posts that ended are appended. An error: the connection is lost or the protocol
  // broken.
  Status handle(std::vector<Ended>* ended);

  [[nodiscard]] bool ready() const { return state_ == State::kReady; }
  [[nodiscard]] bool can_take() const { return ready() && !sending_; }
  void give(Outgoing post);
  // True if the post is here. Frames not yet begun will not be sent; the owner's answer ends the post.
  bool cancel(TransferId id);
  [[nodiscard]] bool holds(TransferId id) const;
  // All posts, for the caller to end: the lane is to be destroyed.
  [[nodiscard]] std::vector<Outgoing> take_all();

  // Why the owner refused us, once it did; the connection has no further use.
  [[nodiscard]] const std::optional<std::string>& refused() const { return refused_; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] uint32_t interest() const;
  // Not welcomed, or without a post, by then: to be closed. The owner gives connections without a post no more time
  // than twice that, so that it never closes one that is about to be used.
  [[nodiscard]] TimePoint first_use_deadline() const { return first_use_deadline_; }
  [[nodiscard]] bool used() const { return used_; }
  // What the next frame waits for, while the socket says nothing.
  enum class Wait { kNone, kCopy, kChunk };
  [[nodiscard]] Wait wait() const { return wait_; }

  uint32_t registered_interest = 0;  // what epoll was last told; the loop's

 private:
  enum class State { kConnecting, kGreeting, kReady };
  struct Sending {
    explicit Sending(Outgoing outgoing) : post(std::move(outgoing)) {}
    Outgoing post;
    size_t block = 0;    // the next frame to be made begins here
    uint64_t done = 0;   // bytes of that block already framed
    bool first = true;   // no frame was made
    bool begun = false;  // one was given to the socket
    bool cancelled = false;
    std::optional<ResultFrame> early;  // the answer came before all frames were out
    [[nodiscard]] bool all_framed() const { return block == post.what.blocks.size(); }
  };

  struct Frame {
    std::string head;
    std::vector<iovec> pieces;              // the head, then payload
    std::unique_ptr<Staging::Chunk> chunk;  // that the payload lies in; null: it lies in the pages
  };

  Status read_answers(std::vector<Ended>* ended);
  Status on_frame(FrameType type, std::span<const std::byte> body, std::vector<Ended>* ended);
  Status send_frames(std::vector<Ended>* ended);
  void build_frame(Frame& frame);
  bool stage_frame();
  void set_frame(std::string head);
  void conclude(std::vector<Ended>* ended);
  bool next_frame(std::vector<Ended>* ended);
  bool cancel_sending(std::vector<Ended>* ended);
  Result<bool> flush_frame();

  UniqueFd fd_;
  const Incarnation self_, peer_;
  const TimePoint first_use_deadline_;
  bool used_ = false;
  State state_ = State::kConnecting;
  std::optional<std::string> refused_;

  std::optional<Sending> sending_;
  std::map<uint64_t, Outgoing> awaiting_;  // all frames sent, no answer yet

  Frame frame_;  // being sent, from next_piece_ on
  size_t next_piece_ = 0;
  std::optional<Frame> staged_;  // the next of the post, whose chunk is being filled
  Wait wait_ = Wait::kNone;
  const Sources sources_;

  std::string in_;  // less than one answer frame
};

}  // namespace baton::transport::tcp
