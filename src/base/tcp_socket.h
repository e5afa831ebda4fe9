// TCP addresses and sockets: non-blocking, closed on exec.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace baton {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  [[nodiscard]] std::string host() const;  // numeric
  [[nodiscard]] uint16_t port() const;
  [[nodiscard]] bool wildcard() const;
  [[nodiscard]] bool v6() const { return storage.ss_family == AF_INET6; }
};

// Addresses that one party is taken to have: an IPv4 address, or the 64 upper bits of an IPv6 one.
struct Network {
  uint64_t prefix = 0;
  bool v6 = false;
  auto operator<=>(const Network&) const = default;
};
// Of the other end of a connection; the same for all whose address cannot be told.
[[nodiscard]] Network peer_network(int fd);

// "host", "host:port", "[v6]:port" or a bare v6 address. Names are looked up only if `lookup`: an address that a peer
// sent must not reach a resolver.
Result<SocketAddress> parse_address(std::string_view text, bool lookup);
// kInvalidArgument for what is no address. With `lookup`, which may block for many seconds, kUnavailable instead.
Result<SocketAddress> make_address(const std::string& host, uint16_t port, bool lookup);
// "host:port", "[v6]:port".
[[nodiscard]] std::string address_text(const std::string& host, uint16_t port);

// This machine's own address on the way to everywhere else: the one that packets over the default route leave with.
// kUnavailable: there is no such route. Nothing is sent.
Result<SocketAddress> default_route_address(bool v6);

// kUnavailable: the address cannot be bound.
Result<UniqueFd> listen_on(const SocketAddress& address);
Result<SocketAddress> bound_address(int fd);
// Begins to connect; writable when decided, see connect_error(). kUnavailable with the text of errno alone.
Result<UniqueFd> begin_connect(const SocketAddress& address);
// 0, or the errno that the connection attempt ended with.
int connect_error(int fd);
// What every connection of ours wants: no delay, and probes that find out a peer whose host is gone.
void tune(int fd);
// Makes close() drop what is unsent and tell the peer at once.
void reset_on_close(int fd);

}  // namespace baton
