#include "transport/tcp_lane.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "base/byte_io.h"

namespace baton::transport::tcp {
namespace {

constexpr size_t kSendBudget = size_t{4} << 20;
constexpr size_t kPiecesMax = 512;  // of one sendmsg, below the kernel's 1024

}  // namespace

Lane::Lane(UniqueFd fd, Incarnation self, Incarnation peer, TimePoint first_use_deadline)
    : fd_(std::move(fd)), self_(self), peer_(peer), first_use_deadline_(first_use_deadline) {}

uint32_t Lane::interest() const {
  const bool unsent = state_ == State::kConnecting || next_piece_ < pieces_.size() || sending_;
  return EPOLLIN | (unsent ? EPOLLOUT : 0u);
}

Status Lane::handle(std::vector<Ended>* ended) {
  if (state_ == State::kConnecting) {
    if (const int code = connect_error(fd_.get()); code != 0) {
      return error(ErrorCode::kUnavailable, "cannot connect: {}", errno_text(code));
    }
    state_ = State::kGreeting;
    head_ = encode(WriterHello{self_, peer_});
    pieces_ = {{head_.data(), head_.size()}};
    next_piece_ = 0;
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
    if (next_piece_ == pieces_.size() && !next_frame(ended)) return {};
    BATON_ASSIGN(const bool flushed, flush_frame());
    if (!flushed) return {};
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
    ended->push_back({std::move(sending_->post), early.outcome, early.bytes, std::move(early.detail)});
    sending_.reset();
  } else if (!sending_->first && sending_->all_framed()) {
    const uint64_t id = sending_->post.id.value();
    awaiting_.emplace(id, std::move(sending_->post));
    sending_.reset();
  }
}

// False: nothing to send now.
bool Lane::next_frame(std::vector<Ended>* ended) {
  conclude(ended);  // the answer may have come since
  if (!sending_ || state_ != State::kReady) return false;
  if (!sending_->cancelled) {
    build_frame();
    return true;
  }
  const uint64_t id = sending_->post.id.value();
  const bool nothing_sent = sending_->first;
  if (nothing_sent) {
    ended->push_back({std::move(sending_->post), TransferOutcome::kCancelled, 0, "cancelled by the caller"});
  } else {
    awaiting_.emplace(id, std::move(sending_->post));
    head_ = encode_cancel(id);
    pieces_ = {{head_.data(), head_.size()}};
    next_piece_ = 0;
  }
  sending_.reset();
  return !nothing_sent;
}

void Lane::build_frame() {
  Sending& s = *sending_;
  WriteFrame frame{.post = s.post.id.value(), .token = s.post.token, .payload_bytes = 0, .runs = {}};
  pieces_.assign(1, iovec{});
  next_piece_ = 0;
  for (uint32_t blocks = 0; blocks < kFrameBlocksMax && frame.payload_bytes < kFramePayloadMax && !s.all_framed();
       ++blocks) {
    const SourceBlock& b = s.post.what.blocks[s.block];
    const uint64_t n = std::min(b.length - s.done, kFramePayloadMax - frame.payload_bytes);
    std::byte* from = const_cast<std::byte*>(b.from) + s.done;  // iovec has no const form; sendmsg only reads
    append_run(&frame.runs, b.region, b.offset + s.done, n);
    iovec& last = pieces_.back();
    if (pieces_.size() > 1 && static_cast<std::byte*>(last.iov_base) + last.iov_len == from) {
      last.iov_len += n;
    } else {
      pieces_.push_back({from, n});
    }
    frame.payload_bytes += n;
    s.done += n;
    if (s.done == b.length) {
      ++s.block;
      s.done = 0;
    }
  }
  head_ = encode(frame, s.first, s.all_framed());
  pieces_[0] = {head_.data(), head_.size()};
  s.first = false;
}

// True when the frame is out, false when the socket takes no more now.
Result<bool> Lane::flush_frame() {
  while (next_piece_ < pieces_.size()) {
    msghdr message{};
    message.msg_iov = pieces_.data() + next_piece_;
    message.msg_iovlen = std::min(pieces_.size() - next_piece_, kPiecesMax);
    const ssize_t n = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return false;
    if (n < 0) return error(ErrorCode::kUnavailable, "connection lost: {}", errno_text());
    for (size_t left = static_cast<size_t>(n); left > 0;) {
      iovec& p = pieces_[next_piece_];
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
