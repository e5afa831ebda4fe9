#include "handoff/control_connection.h"

#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace baton::handoff {
namespace {
constexpr size_t kReadBytes = 64u << 10;
constexpr size_t kOutBytesMax = 2 * wire::kFrameBytesMax;

// Gives the memory of a long frame back.
void clear(std::string& buffer) {
  buffer.clear();
  if (buffer.capacity() > kReadBytes) buffer.shrink_to_fit();
}
}  // namespace

Result<UniqueFd> listen_on(const std::string& host, uint16_t port) {
  const Result<SocketAddress> address = make_address(host, port, /*lookup=*/false);
  if (!address)
    return error(ErrorCode::kInvalidArgument, "cannot listen on {}: {}; give a numeric address",
                 address_text(host, port), address.error().message);
  Result<UniqueFd> fd = listen_on(*address);
  if (!fd)
    return error(ErrorCode::kUnavailable, "{} (for handoffs, see --disaggregation-bootstrap-port)", fd.error().message);
  return fd;
}

ControlConnection::ControlConnection(UniqueFd fd, TimePoint attended)
    : fd_(std::move(fd)), heard_(attended), pinged_(attended) {
  const int on = 1;
  ::setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

void ControlConnection::break_off(std::string why) {
  if (why_.empty()) why_ = std::move(why);
}

void ControlConnection::abandon(std::string why) {
  break_off(std::move(why));
  std::string().swap(in_);
  std::string().swap(out_);
  taken_ = sent_ = 0;
}

void ControlConnection::send(const wire::Frame& frame) {
  if (broken()) return;
  wire::encode_frame(frame, &out_, version_);
  if (out_.size() - sent_ > kOutBytesMax) {
    break_off(fmt::format("{} bytes of control frames are waiting and the peer does not read", out_.size() - sent_));
    return;
  }
  flush();
}

void ControlConnection::flush() {
  while (!broken() && sent_ < out_.size()) {
    const ssize_t n = ::send(fd_.get(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL);
    if (n > 0) {
      sent_ += static_cast<size_t>(n);
    } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return;
    } else if (n < 0 && errno != EINTR) {
      break_off(fmt::format("writing to the control connection: {}", std::strerror(errno)));
    }
  }
  if (sent_ == out_.size()) {
    clear(out_);
    sent_ = 0;
  }
}

void ControlConnection::receive(TimePoint attended) {
  if (broken()) return;
  if (taken_ == in_.size()) {
    clear(in_);
  } else if (taken_ > 0) {
    in_.erase(0, taken_);
  }
  taken_ = 0;
  // Bounded: one read a turn, and never more than one frame beyond the limit is kept.
  if (in_.size() > limit_ + kReadBytes) return;
  char read[kReadBytes];
  const ssize_t n = ::recv(fd_.get(), read, kReadBytes, 0);
  const int saved = errno;
  if (n > 0) {
    in_.append(read, static_cast<size_t>(n));
    heard_ = attended;
  } else if (n == 0) {
    break_off("the peer closed the control connection");
  } else if (saved != EAGAIN && saved != EWOULDBLOCK && saved != EINTR) {
    break_off(fmt::format("reading from the control connection: {}", std::strerror(saved)));
  }
}

Result<std::optional<wire::Frame>> ControlConnection::next() {
  const std::string_view rest = std::string_view(in_).substr(taken_);
  const Result<size_t> length = wire::frame_length(rest, limit_);
  if (!length) {
    break_off(length.error().message);
    return length.error();
  }
  if (*length == 0 || *length > rest.size()) return std::optional<wire::Frame>();
  Result<wire::Frame> frame = wire::decode_frame(rest.substr(0, *length), version_);
  if (!frame) {
    break_off(frame.error().message);
    return frame.error();
  }
  taken_ += *length;
  return std::optional<wire::Frame>(std::move(*frame));
}

void ControlConnection::beat(TimePoint attended, Duration interval, int misses) {
  if (broken()) return;
  if (attended - heard_ > interval * misses) {
    break_off(fmt::format("nothing heard for {:.1f} s", to_seconds(attended - heard_)));
  } else if (attended - pinged_ >= interval) {
    ping(attended);
  }
}

uint64_t ControlConnection::ping(TimePoint attended) {
  pinged_ = attended;
  send(wire::Ping{++serial_});
  return serial_;
}

}  // namespace baton::handoff
