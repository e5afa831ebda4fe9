#include "base/tcp_socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/port_owner.h"

namespace baton {
namespace {

void set(int fd, int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof(value)); }

}  // namespace

std::string SocketAddress::host() const {
  char text[NI_MAXHOST];
  if (::getnameinfo(get(), length, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) != 0) return "?";
  return text;
}

uint16_t SocketAddress::port() const {
  if (storage.ss_family == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
  return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port);
}

bool SocketAddress::wildcard() const {
  if (storage.ss_family == AF_INET)
    return reinterpret_cast<const sockaddr_in*>(&storage)->sin_addr.s_addr == INADDR_ANY;
  return IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_addr) != 0;
}

Result<SocketAddress> make_address(const std::string& host, uint16_t port, bool lookup) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (lookup ? 0 : AI_NUMERICHOST);
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (code != 0 && lookup)
    return error(ErrorCode::kUnavailable, "no address for the host {}: {}", host, gai_strerror(code));
  if (code != 0) return error(ErrorCode::kInvalidArgument, "\"{}\" is not an address: {}", host, gai_strerror(code));
  SocketAddress out;
  out.length = found->ai_addrlen;
  std::memcpy(&out.storage, found->ai_addr, found->ai_addrlen);
  ::freeaddrinfo(found);
  return out;
}

std::string address_text(const std::string& host, uint16_t port) {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

Result<SocketAddress> parse_address(std::string_view text, bool lookup) {
  std::string_view host = text;
  std::string_view port_text;
  if (text.starts_with('[')) {
    const size_t end = text.find(']');
    if (end == std::string_view::npos)
      return error(ErrorCode::kInvalidArgument, "\"{}\" lacks a closing bracket", text);
    host = text.substr(1, end - 1);
    const std::string_view rest = text.substr(end + 1);
    if (!rest.empty() && !rest.starts_with(':'))
      return error(ErrorCode::kInvalidArgument, "\"{}\": expected [host]:port", text);
    if (!rest.empty()) port_text = rest.substr(1);
  } else if (std::count(text.begin(), text.end(), ':') == 1) {
    const size_t colon = text.find(':');
    host = text.substr(0, colon);
    port_text = text.substr(colon + 1);
  }
  uint16_t port = 0;
  const char* end = port_text.data() + port_text.size();
  const auto [parsed, code] = std::from_chars(port_text.data(), end, port);
  if (!port_text.empty() && (parsed != end || code != std::errc())) {
    return error(ErrorCode::kInvalidArgument, "\"{}\": {} is not a port", text, port_text);
  }
  return make_address(std::string(host), port, lookup);
}

Result<SocketAddress> default_route_address(bool v6) {
  // Addresses for documentation, which nobody has: only the default route leads there. Connecting a datagram socket
  // sends nothing and chooses our own address.
  BATON_ASSIGN(const SocketAddress anywhere, make_address(v6 ? "2001:db8::1" : "198.51.100.1", 9, /*lookup=*/false));
  const UniqueFd fd(::socket(anywhere.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() || ::connect(fd.get(), anywhere.get(), anywhere.length) != 0) {
    return error(ErrorCode::kUnavailable, "no default route for IPv{}: {}", v6 ? 6 : 4, errno_text());
  }
  return bound_address(fd.get());
}

Result<UniqueFd> listen_on(const SocketAddress& address) {
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return error(ErrorCode::kUnavailable, "socket: {}", errno_text());
  // A restarted instance takes its port again while old connections are in TIME_WAIT; both generations of sockets need
  // the option for that. But with it set before the bind, the kernel may choose one free port for two of us.
  const bool any_port = address.port() == 0;
  if (!any_port) set(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (::bind(fd.get(), address.get(), address.length) != 0 || ::listen(fd.get(), 256) != 0) {
    const int code = errno;
    return error(ErrorCode::kUnavailable, "cannot listen on {} port {}: {}", address.host(), address.port(),
                 bind_failure_text(code, address.port()));
  }
  if (any_port) set(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  return fd;
}

Result<SocketAddress> bound_address(int fd) {
  SocketAddress out;
  out.length = sizeof(out.storage);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&out.storage), &out.length) != 0) {
    return error(ErrorCode::kUnavailable, "getsockname: {}", errno_text());
  }
  return out;
}

Result<UniqueFd> begin_connect(const SocketAddress& address) {
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return error(ErrorCode::kUnavailable, "socket: {}", errno_text());
  tune(fd.get());
  if (::connect(fd.get(), address.get(), address.length) != 0 && errno != EINPROGRESS) {
    return error(ErrorCode::kUnavailable, "{}", errno_text());
  }
  return fd;
}

Network peer_network(int fd) {
  SocketAddress peer;
  peer.length = sizeof(peer.storage);
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer.storage), &peer.length) != 0) return {};
  if (peer.storage.ss_family == AF_INET)
    return {reinterpret_cast<const sockaddr_in*>(&peer.storage)->sin_addr.s_addr, false};
  if (peer.storage.ss_family != AF_INET6) return {};
  const in6_addr& address = reinterpret_cast<const sockaddr_in6*>(&peer.storage)->sin6_addr;
  if (IN6_IS_ADDR_V4MAPPED(&address)) return {address.s6_addr32[3], false};
  Network network{.prefix = 0, .v6 = true};
  std::memcpy(&network.prefix, &address, sizeof(network.prefix));
  return network;
}

int connect_error(int fd) {
  int code = 0;
  socklen_t length = sizeof(code);
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &length) != 0) return errno;
  return code;
}

void tune(int fd) {
  set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
}

void reset_on_close(int fd) {
  const linger abort_now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort_now, sizeof(abort_now));
}

}  // namespace baton
