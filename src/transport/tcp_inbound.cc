#include "transport/tcp_inbound.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace baton::transport::tcp {
namespace {

constexpr size_t kReadBudget = size_t{4} << 20;
constexpr size_t kStrangerReadBudget = size_t{64} << 10;
constexpr size_t kPiecesMax = 256;
// With more answers than this unread by the writer, no more of its frames are read.
constexpr size_t kAnswersMax = 64 << 10;
constexpr size_t kStrangerAnswersMax = 4 << 10;
// A writer whose windows were closed before its first post came is refused some; more is a stranger who tries.
constexpr int kStrangerRefusedMax = 64;

Status socket_error(const char* what) {
  return error(ErrorCode::kUnavailable, "{}: {}", what, errno == 0 ? "closed by the peer" : errno_text());
}

}  // namespace

uint32_t Inbound::interest() const {
  const bool full = unread() + held_back_ > (proven_ ? kAnswersMax : kStrangerAnswersMax);
  return (unread() > 0 ? EPOLLOUT : 0u) | (closing_ || full || wants_chunk_ ? 0u : EPOLLIN);
}

Status Inbound::handle(const Fenced& fenced) {
  settle_landings();
  BATON_TRY(flush());
  BATON_TRY(read_some(fenced));
  land();
  settle_landings();
  BATON_TRY(flush());
  if (closing_ && out_.empty()) return error(ErrorCode::kUnavailable, "refused");
  return {};
}

Status Inbound::flush() {
  while (out_sent_ < out_.size()) {
    const ssize_t n = ::send(fd_.get(), out_.data() + out_sent_, out_.size() - out_sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return {};
    if (n < 0) return socket_error("send");
    out_sent_ += static_cast<size_t>(n);
    moved_ += static_cast<uint64_t>(n);
  }
  out_.clear();
  out_sent_ = 0;
  return {};
}

Status Inbound::read_some(const Fenced& fenced) {
  wants_chunk_ = false;
  BATON_TRY(consume_buffer(fenced));  // what waited for a chunk
  size_t budget = proven_ ? kReadBudget : kStrangerReadBudget;
  while (budget > 0 && (interest() & EPOLLIN) != 0) {
    if (proven_ && buffer_.size() < kBufferBytes) buffer_.resize(kBufferBytes);
    ssize_t n = 0;
    if (payload_left_ > 0) {
      if (needs_chunk()) return {};
      n = post_.answered ? receive_discarded() : staged_ ? receive_staged() : receive_payload();
    } else {
      if (begin_ == end_) begin_ = end_ = 0;
      n = ::recv(fd_.get(), buffer_.data() + end_, buffer_.size() - end_, MSG_DONTWAIT);
      if (n > 0) end_ += static_cast<size_t>(n);
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return {};
    if (n == 0) errno = 0;
    if (n <= 0) return socket_error("receive");
    moved_ += static_cast<uint64_t>(n);
    budget -= std::min(budget, static_cast<size_t>(n));
    BATON_TRY(consume_buffer(fenced));
  }
  return {};
}

// Takes whole frames, and payload that came with them, out of the buffer. Leaves less than a header, or nothing.
Status Inbound::consume_buffer(const Fenced& fenced) {
  while (!closing_) {
    const std::span<const std::byte> have(buffer_.data() + begin_, end_ - begin_);
    if (payload_left_ > 0) {
      if (have.empty() || needs_chunk()) return {};
      const size_t n = static_cast<size_t>(std::min<uint64_t>(have.size(), payload_left_));
      apply(have.first(n));
      begin_ += n;
      if (payload_left_ == 0) finish_frame();
    } else if (in_body_) {
      const size_t n = std::min(have.size(), body_.size() - body_have_);
      std::memcpy(body_.data() + body_have_, have.data(), n);
      body_have_ += n;
      begin_ += n;
      if (body_have_ < body_.size()) return {};
      if (header_.type == FrameType::kWrite && body_.size() < header_.body_bytes) {
        BATON_TRY(on_write_head());
        continue;
      }
      in_body_ = false;
      BATON_TRY(on_frame(body_, fenced));
    } else {
      if (have.size() < kHeaderBytes) {
        std::memmove(buffer_.data(), have.data(), have.size());
        begin_ = 0;
        end_ = have.size();
        return {};
      }
      BATON_ASSIGN(header_, decode_header(have.first(kHeaderBytes)));
      const bool hello = header_.type == FrameType::kHello;
      if (hello == greeted_)
        return error(ErrorCode::kCorrupt, "a frame of type {} out of turn", static_cast<int>(header_.type));
      begin_ += kHeaderBytes;
      in_body_ = true;
      const bool write = header_.type == FrameType::kWrite;
      body_.resize(write ? kWriteHeadBytes : header_.body_bytes);  // bounded by decode_header()
      body_have_ = 0;
    }
  }
  return {};
}

Status Inbound::on_frame(std::span<const std::byte> body, const Fenced& fenced) {
  switch (header_.type) {
    case FrameType::kHello:
      return on_hello(body, fenced);
    case FrameType::kWrite: {
      BATON_ASSIGN(WriteFrame frame, decode_write(body));
      return start_write(std::move(frame));
    }
    case FrameType::kCancel: {
      BATON_ASSIGN(const uint64_t post, decode_cancel(body));
      return on_cancel(post);
    }
    case FrameType::kWelcome:
    case FrameType::kResult:
      break;
  }
  return error(ErrorCode::kCorrupt, "a writer sent a frame of type {}", static_cast<int>(header_.type));
}

Status Inbound::on_hello(std::span<const std::byte> body, const Fenced& fenced) {
  BATON_ASSIGN(const WriterHello hello, decode_hello(body));
  greeted_ = true;
  writer_ = hello.writer;
  Welcome welcome{.accepted = true, .detail = {}};
  if (hello.owner != owner_.incarnation) {
    // Our own incarnation stays unsaid: who does not know it has no business here.
    welcome = {false, fmt::format("incarnation {} is stale: the process at this address is another one",
                                  hello.owner.to_string())};
  } else if (std::find(fenced.begin(), fenced.end(), hello.writer) != fenced.end()) {
    welcome = {false, fmt::format("writer {} is fenced: pair again", hello.writer.to_string())};
  }
  closing_ = !welcome.accepted;
  out_ += encode(welcome);
  return {};
}

// Memory for the runs is taken only if their window is open; else they are dropped like the payload behind them.
Status Inbound::on_write_head() {
  BATON_ASSIGN(WriteFrame head, decode_write_head(body_, header_.body_bytes));
  if (owner_.windows.find(head.token, writer_) != nullptr) {
    body_.resize(header_.body_bytes);
    return {};
  }
  in_body_ = false;
  head.payload_bytes += header_.body_bytes - kWriteHeadBytes;
  return start_write(std::move(head));
}

Status Inbound::start_write(WriteFrame frame) {
  const bool first = (header_.flags & kFirstFrame) != 0;
  // A writer that has read our refusal does not send the rest: the next post follows at once.
  if (first && post_.open && !post_.answered) {
    return error(ErrorCode::kCorrupt, "post {} begins in the middle of post {}", frame.post, post_.id);
  }
  if (!first && (!post_.open || frame.post != post_.id)) {
    return error(ErrorCode::kCorrupt, "post {} goes on as post {}", post_.id, frame.post);
  }
  if (first) post_ = {.id = frame.post, .open = true, .answered = false, .applied = 0};
  last_frame_ = (header_.flags & kLastFrame) != 0;
  payload_left_ = frame.payload_bytes;
  cursor_ = {};
  if (!post_.answered) {
    if (Status admitted = admit(frame); !admitted) refuse(admitted.error().message);
    if (!proven_ && ++refused_ > kStrangerRefusedMax) {
      return error(ErrorCode::kUnavailable, "{} posts without a window, none with one", refused_);
    }
  }
  frame_ = std::move(frame);
  if (payload_left_ == 0) finish_frame();
  return {};
}

Status Inbound::admit(const WriteFrame& frame) {
  window_ = owner_.windows.find(frame.token, writer_);
  if (window_ == nullptr) return error(ErrorCode::kNotFound, "no window is open for attempt {}", frame.token.attempt);
  proven_ = true;
  run_memory_.clear();
  staged_ = false;
  for (const BlockRun& run : frame.runs) {
    for (uint32_t i = 0; i < run.count; ++i) {
      BATON_TRY(admit_block(owner_.regions, *window_, run.region, run.block_offset(i), run.length));
    }
    run_memory_.push_back(*owner_.regions.find(run.region));
    staged_ = staged_ || owner_.staging.stages(run_memory_.back());
  }
  return {};
}

Status Inbound::on_cancel(uint64_t post) {
  if (!post_.open || post_.id != post)
    return error(ErrorCode::kCorrupt, "cancel of post {} while post {} is open", post, post_.id);
  post_.open = false;
  if (!post_.answered) answer(TransferOutcome::kCancelled, "cancelled by the writer");
  return {};
}

void Inbound::finish_frame() {
  land();
  window_.reset();
  if (!last_frame_) return;
  post_.open = false;
  if (!post_.answered) answer(TransferOutcome::kDone, {});
}

void Inbound::refuse(std::string why) {
  window_.reset();
  answer(TransferOutcome::kRejected, std::move(why));
}

void Inbound::answer(TransferOutcome outcome, std::string detail) {
  post_.answered = true;
  const std::string frame = encode(ResultFrame{post_.id, post_.applied, outcome, std::move(detail)});
  (landings_.empty() ? out_ : landings_.back().answers) += frame;
  if (!landings_.empty()) held_back_ += frame.size();
}

// The check of the window and the bytes are one step under its mutex: after close_window() has had the mutex nothing
// lands.
ssize_t Inbound::receive_payload() {
  std::array<iovec, kPiecesMax + 1> pieces;
  size_t count = 0;
  uint64_t asked = 0;
  for (Cursor at = cursor_; count < kPiecesMax && asked < payload_left_; ++count) {
    const Piece p = piece(at);
    pieces[count] = {p.to(), p.length};
    asked += p.length;
    advance(&at, p.length);
  }
  begin_ = end_ = 0;
  size_t extra = 0;
  if (asked == payload_left_) {  // the next header comes along, which spares a call
    pieces[count++] = {buffer_.data(), kHeaderBytes};
    extra = kHeaderBytes;
  }
  std::unique_lock writing(window_->mutex);
  if (!window_->open) {
    writing.unlock();
    refuse("the window was closed while its bytes arrived");
    return receive_discarded();
  }
  const ssize_t n = ::readv(fd_.get(), pieces.data(), static_cast<int>(count));
  const int code = errno;
  writing.unlock();
  errno = code;
  if (n <= 0) return n;
  const uint64_t applied = std::min<uint64_t>(static_cast<uint64_t>(n), asked);
  end_ = static_cast<size_t>(static_cast<uint64_t>(n) - applied);
  BATON_CHECK(end_ <= extra);
  advance(&cursor_, applied);
  payload_left_ -= applied;
  post_.applied += applied;
  if (payload_left_ == 0) finish_frame();
  return n;
}

// True: the payload has to wait until one is given back.
bool Inbound::needs_chunk() {
  if (!staged_ || post_.answered || chunk_ != nullptr) return false;
  chunk_ = owner_.staging.take(Way::kIn);
  in_chunk_ = 0;
  return wants_chunk_ = chunk_ == nullptr;
}

ssize_t Inbound::receive_staged() {
  begin_ = end_ = 0;
  // A frame's payload fits a chunk, and the next header comes along, as above.
  std::array<iovec, 2> pieces = {iovec{chunk_->bytes().data() + in_chunk_, payload_left_},
                                 iovec{buffer_.data(), kHeaderBytes}};
  const ssize_t n = ::readv(fd_.get(), pieces.data(), static_cast<int>(pieces.size()));
  if (n <= 0) return n;
  const uint64_t received = std::min<uint64_t>(static_cast<uint64_t>(n), payload_left_);
  end_ = static_cast<size_t>(n) - static_cast<size_t>(received);
  in_chunk_ += received;
  payload_left_ -= received;
  if (payload_left_ == 0) finish_frame();
  return n;
}

// Sends what the chunk holds on to its pages. Also in the middle of a frame when the socket has no more: no chunk waits
// for a writer.
void Inbound::land() {
  if (chunk_ == nullptr) return;
  std::unique_ptr<Staging::Chunk> chunk = std::move(chunk_);
  if (in_chunk_ == 0 || post_.answered) return;
  std::unique_lock writing(window_->mutex);
  if (!window_->open) {
    writing.unlock();
    return refuse("the window was closed while its bytes arrived");
  }
  PieceInside inside(window_);
  std::vector<layout::Copy> copies;
  for (uint64_t at = 0; at < in_chunk_;) {
    const Piece p = piece(cursor_);
    const uint64_t n = std::min(p.length, in_chunk_ - at);
    copies.push_back({at, p.offset, n});
    at += n;
    advance(&cursor_, n);
    if (at < in_chunk_ && run_memory_[cursor_.run] == p.region) continue;
    chunk->copy(p.region, copies);
    copies.clear();
  }
  writing.unlock();
  post_.applied += in_chunk_;
  landings_.push_back({std::move(inside), {}, std::move(chunk)});
}

// Answers what was waiting for copies that are done.
void Inbound::settle_landings() {
  while (!landings_.empty() && landings_.front().chunk->copied()) {
    held_back_ -= landings_.front().answers.size();
    out_ += landings_.front().answers;
    landings_.pop_front();
  }
}

ssize_t Inbound::receive_discarded() {
  static thread_local std::array<std::byte, 64 << 10> scratch;
  const ssize_t n = ::recv(fd_.get(), scratch.data(),
                           static_cast<size_t>(std::min<uint64_t>(scratch.size(), payload_left_)), MSG_DONTWAIT);
  if (n <= 0) return n;
  payload_left_ -= static_cast<uint64_t>(n);
  if (payload_left_ == 0) finish_frame();
  return n;
}

void Inbound::apply(std::span<const std::byte> bytes) {
  payload_left_ -= bytes.size();
  if (post_.answered) return;
  if (staged_) {
    std::memcpy(chunk_->bytes().data() + in_chunk_, bytes.data(), bytes.size());
    in_chunk_ += bytes.size();
    return;
  }
  std::unique_lock writing(window_->mutex);
  if (!window_->open) {
    writing.unlock();
    refuse("the window was closed while its bytes arrived");
    return;
  }
  post_.applied += bytes.size();
  while (!bytes.empty()) {
    const Piece p = piece(cursor_);
    const size_t n = static_cast<size_t>(std::min<uint64_t>(p.length, bytes.size()));
    std::memcpy(p.to(), bytes.data(), n);
    advance(&cursor_, n);
    bytes = bytes.subspan(n);
  }
}

Inbound::Piece Inbound::piece(const Cursor& at) const {
  const BlockRun& run = frame_.runs[at.run];
  return {run_memory_[at.run], run.block_offset(at.block) + at.done, run.length - at.done};
}

void Inbound::advance(Cursor* at, uint64_t bytes) const {
  while (bytes > 0) {
    const BlockRun& run = frame_.runs[at->run];
    const uint64_t n = std::min(bytes, run.length - at->done);
    at->done += n;
    bytes -= n;
    if (at->done < run.length) return;
    at->done = 0;
    if (++at->block < run.count) continue;
    at->block = 0;
    ++at->run;
  }
}

}  // namespace baton::transport::tcp
