// An owner of the tcp transport, and a writer that is only a socket.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/byte_io.h"
#include "base/tcp_socket.h"
#include "transport/blob.h"
#include "transport/tcp_frames.h"
#include "transport/test_support.h"

namespace baton::transport::tcp {

using namespace baton::transport::testing;

class TcpOwner : public ::testing::Test {
 protected:
  void start(const TransportOptions& given = {}) {
    TransportOptions options = given;
    options.incarnation = kOwner;
    owner_ = make("tcp", options);
    region_ = owner_->allocate(1 << 20).value();
    const WindowRange range{region_.id, 4096, 8192};
    ASSERT_TRUE(owner_->open_window(token(1), std::span(&range, 1)));
    blob_ = decode_blob(owner_->local_blob(), BlobKind::kTcp).value();
  }

  // `from`: an address of this machine, for a guest of another network.
  UniqueFd dial(const char* from = "127.0.0.1") {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const SocketAddress here = make_address(from, 0, false).value();
    const SocketAddress there = make_address(blob_.address, blob_.port, false).value();
    BATON_CHECK(::bind(fd.get(), here.get(), here.length) == 0, "bind: {}", errno_text());
    BATON_CHECK(::connect(fd.get(), there.get(), there.length) == 0 || errno == EINPROGRESS, "connect: {}",
                errno_text());
    pollfd entry{.fd = fd.get(), .events = POLLOUT, .revents = 0};
    ::poll(&entry, 1, 5000);
    return fd;
  }
  static constexpr Incarnation kOwner{11, 22};
  static std::string hello(const Incarnation& writer = {1, 1}) { return encode(WriterHello{writer, kOwner}); }
  UniqueFd greet(const Incarnation& writer = {1, 1}) {
    UniqueFd fd = dial();
    say(fd, hello(writer));
    const std::string answer = hear(fd, kHeaderBytes + 3);
    EXPECT_TRUE(decode_welcome(as_span(answer).subspan(kHeaderBytes)).value().accepted);
    return fd;
  }
  static void say(const UniqueFd& fd, const std::string& bytes) {
    for (size_t sent = 0; sent < bytes.size();) {
      const ssize_t n = ::send(fd.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n < 0 && errno == EAGAIN) {
        pollfd entry{.fd = fd.get(), .events = POLLOUT, .revents = 0};
        ::poll(&entry, 1, 5000);
        continue;
      }
      if (n < 0) return;  // closed on us, which a test then looks at
      sent += static_cast<size_t>(n);
    }
  }
  // Exactly `bytes`, or less if the owner closed or stayed silent for `limit`.
  static std::string hear(const UniqueFd& fd, size_t bytes, Duration limit = 5s) {
    std::string out(bytes, 0);
    size_t have = 0;
    const TimePoint end = in(limit);
    while (have < bytes && SteadyClock().now() < end) {
      pollfd entry{.fd = fd.get(), .events = POLLIN, .revents = 0};
      if (::poll(&entry, 1, 50) == 0) continue;
      const ssize_t n = ::recv(fd.get(), out.data() + have, bytes - have, 0);
      if (n <= 0) break;
      have += static_cast<size_t>(n);
    }
    out.resize(have);
    return out;
  }
  static bool closed(const UniqueFd& fd, Duration limit = 5s) {
    const TimePoint end = in(limit);
    char c = 0;
    while (SteadyClock().now() < end) {
      const ssize_t n = ::recv(fd.get(), &c, 1, 0);
      if (n == 0 || (n < 0 && errno != EAGAIN)) return true;
      if (n < 0) std::this_thread::sleep_for(5ms);
    }
    return false;
  }
  static ResultFrame result(const UniqueFd& fd) {
    std::string frame = hear(fd, kHeaderBytes);
    const auto header = decode_header(as_span(frame));
    if (!header) return {.post = 0, .bytes = 0, .outcome = TransferOutcome::kFailed, .detail = "no answer"};
    return decode_result(as_span(hear(fd, header->body_bytes))).value();
  }
  static std::string write(uint64_t post, const WindowToken& t, const std::vector<BlockRun>& runs, bool first = true,
                           bool last = true) {
    WriteFrame frame{.post = post, .token = t, .payload_bytes = 0, .runs = runs};
    for (const BlockRun& r : runs) frame.payload_bytes += r.count * r.length;
    return encode(frame, first, last);
  }

  std::unique_ptr<Transport> owner_;
  Transport::Region region_;
  PeerBlob blob_;
};

}  // namespace baton::transport::tcp
