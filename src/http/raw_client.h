// For tests: a client that sends bytes as they are.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <string_view>

namespace baton::http {

class RawClient {
 public:
  explicit RawClient(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~RawClient() { close(fd_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  // False when the other side took no more.
  bool say(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  void say_no_more() { shutdown(fd_, SHUT_WR); }

  // Everything until the server closes, or until `wanted` is in it, or nothing came for `patience`.
  std::string hear(std::string_view wanted = {}, std::chrono::seconds patience = std::chrono::seconds(20)) {
    const timeval limit{patience.count(), 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    std::string all, piece(64 << 10, '\0');
    while (wanted.empty() || all.find(wanted) == std::string::npos) {
      const ssize_t n = recv(fd_, piece.data(), piece.size(), 0);
      closed_ = n == 0 || (n < 0 && errno == ECONNRESET);
      if (n <= 0) break;
      all.append(piece, 0, static_cast<size_t>(n));
    }
    return all;
  }
  // Whether the last hear() ended because the server closed.
  [[nodiscard]] bool closed() const { return closed_; }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  const int fd_;
  bool closed_ = false;
};

}  // namespace baton::http
