// For the tests of the control protocol: the other instance, speaking the frames by hand.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <memory>
#include <optional>
#include <thread>

#include "handoff/control_connection.h"
#include "handoff/handshake.h"
#include "handoff/rig_test.h"

namespace baton::handoff::by_hand {

using namespace std::chrono_literals;

inline constexpr Incarnation kPrefill{1, 1}, kDecode{2, 2};
inline constexpr int kPage = 8;

inline PairSpec spec() {
  return {.name = "",
          .geometry = mla_geometry(),
          .prefill = {{.tp = 1}, kPage, 16},
          .decode = {{.tp = 1}, kPage, 16},
          .fanout = {},
          .policy = {}};
}

inline std::unique_ptr<transport::Transport> loopback(Incarnation incarnation) {
  transport::TransportOptions options;
  options.incarnation = incarnation;
  options.bind_address = draw_incarnation().to_string();
  return transport_of("loopback", options);
}

inline sockaddr_in local(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

// The other end, by hand.
class RawPeer {
 public:
  static UniqueFd connect_to(uint16_t port) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = local(port);
    BATON_CHECK(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0, "connect");
    return fd;
  }
  explicit RawPeer(UniqueFd fd) : fd_(fd.get()), connection_(std::move(fd), SteadyClock().now()) {
    connection_.set_paired();
  }

  void send(const wire::Frame& frame) { connection_.send(frame); }
  // Says hello, and proves the key if it has one, as an honest instance does.
  void greet(wire::InstanceRole role, const std::string& key = "") {
    key_ = key;
    handshake_.emplace(role, key_);
    send(handshake_->hello());
    const Result<uint16_t> version = handshake_->greet(expect<wire::Hello>());
    BATON_CHECK(version.ok(), "{}", version.error().message);
    if (key.empty()) return;
    if (role == wire::InstanceRole::kPrefill) send(handshake_->prove());
    BATON_CHECK(handshake_->proved_by(expect<wire::Proof>()), "the proof is wrong");
    if (role == wire::InstanceRole::kDecode) send(handshake_->prove());
  }
  [[nodiscard]] const Handshake& handshake() const { return *handshake_; }
  // The next frame that is not a Ping or a Pong; nullopt when there is none in time or the connection is closed.
  std::optional<wire::Frame> next(Duration timeout = 5s) {
    const TimePoint until = SteadyClock().now() + timeout;
    for (;;) {
      const Result<std::optional<wire::Frame>> frame = connection_.next();
      BATON_CHECK(frame.ok(), "{}", frame.error().message);
      if (frame->has_value()) {
        if (std::holds_alternative<wire::Pong>(**frame)) ++pongs;
        if (const auto* ping = std::get_if<wire::Ping>(&**frame); ping && answers_pings) send(wire::Pong{ping->serial});
        if (std::holds_alternative<wire::Ping>(**frame) || std::holds_alternative<wire::Pong>(**frame)) continue;
        return **frame;
      }
      pollfd fd{fd_, POLLIN, 0};
      if (connection_.broken() || SteadyClock().now() > until) return std::nullopt;
      if (::poll(&fd, 1, 5) == 1) connection_.receive(SteadyClock().now());
    }
  }
  template <typename T>
  T expect() {
    const std::optional<wire::Frame> frame = next();
    BATON_CHECK(frame && std::holds_alternative<T>(*frame), "got {}", frame ? wire::frame_name(*frame) : "nothing");
    return std::get<T>(*frame);
  }
  [[nodiscard]] bool closed() {
    next(200ms);
    return connection_.broken();
  }
  void send_bytes(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  }
  void leave() { ::shutdown(fd_, SHUT_RDWR); }
  int pongs = 0;
  bool answers_pings = false;

 private:
  int fd_;
  ControlConnection connection_;
  std::string key_;
  std::optional<Handshake> handshake_;
};

template <typename Done>
bool eventually(Done done, Duration timeout = 5s) {
  const TimePoint until = SteadyClock().now() + timeout;
  while (!done()) {
    if (SteadyClock().now() > until) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

}  // namespace baton::handoff::by_hand
