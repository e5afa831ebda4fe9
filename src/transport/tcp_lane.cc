#include "transport/tcp_lane.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/byte_io.h"

namespace baton::transport::tcp {
namespace {

constexpr size_t kSendBudget = size_t{4} << 20;
constexpr size_t kPiecesMax = 512;  // of one sendmsg, below the kernel's 1024

}  // namespace

Lane::Lane(UniqueFd fd, Incarnation self, Incarnation peer, TimePoint first_use_deadline, const Sources& sources)
    : fd_(std::move(fd)), self_(self), peer_(peer), first_use_deadline_(first_use_deadline), sources_(sources) {}

uint32_t Lane::interest() const {
  const bool unsent = state_ == State::kConnecting || next_piece_ < frame_.pieces.size() || sending_;
  return EPOLLIN | (unsent && wait_ == Wait::kNone ? EPOLLOUT : 0u);
}

Status Lane::handle(std::vector<Ended>* ended) {
  if (state_ == State::kConnecting) {
    if (const int code = connect_error(fd_.get()); code != 0) {
      return error(ErrorCode::kUnavailable, "cannot connect: {}", errno_text(code));
    }
    state_ = State::kGreeting;
    set_frame(encode(WriterHello{self_, peer_}));
  }
  BATON_TRY(read_answers(ended));
  return send_frames(ended);
}

void Lane::give(Outgoing post) {
  BATON_CHECK(can_take());
  used_ = true;
  sending_.emplace(std::move(post));
}

bool Lane::holds(TransferId id) const {
  return (sending_ && sending_->post.id == id) || awaiting_.contains(id.value());
}

bool Lane::cancel(TransferId id) {
  if (sending_ && sending_->post.id == id) {
    sending_->cancelled = true;
    return true;
  }
  return awaiting_.contains(id.value());
}

std::vector<Outgoing> Lane::take_all() {
  staged_.reset();  // whose pages are read no longer then
  std::vector<Outgoing> posts;
  if (sending_) posts.push_back(std::move(sending_->post));
  sending_.reset();
  for (auto& [id, post] : awaiting_) posts.push_back(std::move(post));
  awaiting_.clear();
  return posts;
}

Status Lane::read_answers(std::vector<Ended>* ended) {
  std::array<char, 16 << 10> buffer;
  for (;;) {
    const ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) return {};
    if (n <= 0)
      return error(ErrorCode::kUnavailable, "connection lost: {}", n == 0 ? "closed by the peer" : errno_text());
    in_.append(buffer.data(), static_cast<size_t>(n));
    size_t used = 0;
    for (;;) {
      const std::span<const std::byte> have = as_span(in_).subspan(used);
      if (have.size() < kHeaderBytes) break;
      BATON_ASSIGN(const FrameHeader header, decode_header(have.first(kHeaderBytes)));
      if (header.type != FrameType::kResult && header.type != FrameType::kWelcome) {
        return error(ErrorCode::kCorrupt, "an owner sent a frame of type {}", static_cast<int>(header.type));
      }
      if (have.size() < kHeaderBytes + header.body_bytes) break;
      BATON_TRY(on_frame(header.type, have.subspan(kHeaderBytes, header.body_bytes), ended));
      used += kHeaderBytes + header.body_bytes;
    }
    in_.erase(0, used);
  }
}

Status Lane::on_frame(FrameType type, std::span<const std::byte> body, std::vector<Ended>* ended) {
  if (type == FrameType::kWelcome) {
    if (state_ != State::kGreeting) return error(ErrorCode::kCorrupt, "a second welcome");
    BATON_ASSIGN(Welcome welcome, decode_welcome(body));
    if (!welcome.accepted) {
      refused_ = std::move(welcome.detail);
      return error(ErrorCode::kUnavailable, "{}", *refused_);
    }
    state_ = State::kReady;
    return {};
  }
  if (state_ != State::kReady) return error(ErrorCode::kCorrupt, "a result before the welcome");
  BATON_ASSIGN(ResultFrame result, decode_result(body));
  const auto too_much = [&](const Outgoing& post) {
    return error(ErrorCode::kCorrupt, "post {} of {} bytes is said to have {} in place", result.post, post.what.bytes,
                 result.bytes);
  };
  if (sending_ && sending_->post.id.value() == result.post) {
    // Only a refusal comes early. The frame that is on its way has to be finished first: it still reads our memory.
    if (sending_->early || result.outcome != TransferOutcome::kRejected) {
      return error(ErrorCode::kCorrupt, "post {} is not finished and was answered {}", result.post,
                   transfer_outcome_name(result.outcome));
    }
    if (result.bytes > sending_->post.what.bytes) return too_much(sending_->post);
    sending_->early = std::move(result);
    return {};
  }
  const auto it = awaiting_.find(result.post);
  if (it == awaiting_.end()) return error(ErrorCode::kCorrupt, "an answer to post {}, which is not open", result.post);
  if (result.bytes > it->second.what.bytes) return too_much(it->second);
  if (result.outcome == TransferOutcome::kDone && result.bytes != it->second.what.bytes) {
    return error(ErrorCode::kCorrupt, "post {} of {} bytes is said to be done with {}", result.post,
                 it->second.what.bytes, result.bytes);
  }
  ended->push_back({std::move(it->second), result.outcome, result.bytes, std::move(result.detail)});
  awaiting_.erase(it);
  return {};
}

Status Lane::send_frames(std::vector<Ended>* ended) {
  size_t budget = kSendBudget;
  while (budget > 0) {
    if (next_piece_ == frame_.pieces.size() && !next_frame(ended)) return {};
    BATON_ASSIGN(const bool flushed, flush_frame());
    if (!flushed) return {};
    frame_.chunk.reset();
    conclude(ended);
    budget -= std::min(budget, static_cast<size_t>(kFramePayloadMax));
  }
  return {};
}

// A frame is out. The last of a post is followed by the wait for the answer, at once: the answer may come with the next
// read.
void Lane::conclude(std::vector<Ended>* ended) {
  if (!sending_) return;
  if (sending_->early) {
    ResultFrame& early = *sending_->early;
    staged_.reset();
    ended->push_back({std::move(sending_->post), early.outcome, early.bytes, std::move(early.detail)});
    sending_.reset();
  } else if (sending_->begun && sending_->all_framed() && !staged_) {
    const uint64_t id = sending_->post.id.value();
    awaiting_.emplace(id, std::move(sending_->post));
    sending_.reset();
  }
}

// False: nothing to send now.
bool Lane::next_frame(std::vector<Ended>* ended) {
  wait_ = Wait::kNone;
  conclude(ended);  // the answer may have come since
  if (!sending_ || state_ != State::kReady) return false;
  if (sending_->cancelled) return cancel_sending(ended);
  if (!sending_->post.staged) {
    build_frame(frame_);
  } else {
    if (!stage_frame()) wait_ = Wait::kChunk;
    if (staged_ && !staged_->chunk->copied()) wait_ = Wait::kCopy;
    if (wait_ != Wait::kNone) return false;
    frame_ = std::move(*staged_);
    staged_.reset();
    (void)stage_frame();
  }
  frame_.pieces[0] = {frame_.head.data(), frame_.head.size()};
  next_piece_ = 0;
  sending_->begun = true;
  return true;
}

// False: nothing to send now.
bool Lane::cancel_sending(std::vector<Ended>* ended) {
  staged_.reset();
  const uint64_t id = sending_->post.id.value();
  const bool begun = sending_->begun;
  if (begun) {
    awaiting_.emplace(id, std::move(sending_->post));
    set_frame(encode_cancel(id));
  } else {
    ended->push_back({std::move(sending_->post), TransferOutcome::kCancelled, 0, "cancelled by the caller"});
  }
  sending_.reset();
  return begun;
}

void Lane::set_frame(std::string head) {
  frame_.head = std::move(head);
  frame_.pieces = {{frame_.head.data(), frame_.head.size()}};
  next_piece_ = 0;
}

// Begins to fill a chunk for the next frame, if there is one and none is. False: no chunk is to be had.
bool Lane::stage_frame() {
  if (staged_ || sending_->all_framed()) return true;
  std::unique_ptr<Staging::Chunk> chunk = sources_.staging.take(Way::kOut);
  if (chunk == nullptr) return false;
  staged_.emplace();
  staged_->chunk = std::move(chunk);
  build_frame(*staged_);
  return true;
}

// The next frame of the post; its payload is left in the pages, or copied into the frame's chunk.
void Lane::build_frame(Frame& frame) {
  Sending& s = *sending_;
  WriteFrame write{.post = s.post.id.value(), .token = s.post.token, .payload_bytes = 0, .runs = {}};
  frame.pieces.assign(1, iovec{});
  device::Memory region;
  std::vector<layout::Copy> copies;  // from it
  for (uint32_t blocks = 0; blocks < kFrameBlocksMax && write.payload_bytes < kFramePayloadMax && !s.all_framed();
       ++blocks) {
    const SourceBlock& b = s.post.what.blocks[s.block];
    const uint64_t n = std::min(b.length - s.done, kFramePayloadMax - write.payload_bytes);
    std::byte* from = const_cast<std::byte*>(b.from) + s.done;  // iovec has no const form; sendmsg only reads
    append_run(&write.runs, b.region, b.offset + s.done, n);
    if (frame.chunk != nullptr) {
      const device::Memory of_block = sources_.regions.find(b.local_region).value();
      if (of_block != region && !copies.empty()) frame.chunk->copy(region, std::exchange(copies, {}));
      region = of_block;
      copies.push_back({static_cast<uint64_t>(from - region.base), write.payload_bytes, n});
    } else if (iovec& last = frame.pieces.back();
               frame.pieces.size() > 1 && static_cast<std::byte*>(last.iov_base) + last.iov_len == from) {
      last.iov_len += n;
    } else {
      frame.pieces.push_back({from, n});
    }
    write.payload_bytes += n;
    s.done += n;
    if (s.done == b.length) {
      ++s.block;
      s.done = 0;
    }
  }
  if (frame.chunk != nullptr) {
    frame.chunk->copy(region, copies);
    frame.pieces.push_back({frame.chunk->bytes().data(), write.payload_bytes});
  }
  frame.head = encode(write, s.first, s.all_framed());
  s.first = false;
}

// True when the frame is out, false when the socket takes no more now.
Result<bool> Lane::flush_frame() {
  while (next_piece_ < frame_.pieces.size()) {
    msghdr message{};
    message.msg_iov = frame_.pieces.data() + next_piece_;
    message.msg_iovlen = std::min(frame_.pieces.size() - next_piece_, kPiecesMax);
    const ssize_t n = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return false;
    if (n < 0) return error(ErrorCode::kUnavailable, "connection lost: {}", errno_text());
    for (size_t left = static_cast<size_t>(n); left > 0;) {
      iovec& p = frame_.pieces[next_piece_];
      const size_t step = std::min(left, p.iov_len);
      p.iov_base = static_cast<std::byte*>(p.iov_base) + step;
      p.iov_len -= step;
      left -= step;
      if (p.iov_len == 0) ++next_piece_;
    }
  }
  return true;
}

}  // namespace baton::transport::tcp
