// Which prefill instances a decode instance may be led to. Requests name them, and who sends requests must not choose
// whom this instance tells of itself or whose KV it keeps.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "handoff/resolver.h"

namespace baton::handoff {

class TrustedPeers {
 public:
  // HOST, HOST:PORT, [V6] or [V6]:PORT; without a port every port of the host. kInvalidArgument names the entry.
  static Result<TrustedPeers> parse(const std::vector<std::string>& entries);

  // Told by somebody who may: the name is good from now on, wherever it leads. Bounded; false: too many.
  bool tell(const std::string& host, uint16_t port);

  // Before anything is looked up. A name must be one that was told, or "localhost"; an address must be loopback or one
  // that was told.
  [[nodiscard]] bool may_ask_for(const std::string& host, uint16_t port) const;
  // What `host` turned out to be: the address that will be connected to.
  [[nodiscard]] bool may_connect(const std::string& host, uint16_t port, const SocketAddress& address) const;

 private:
  [[nodiscard]] bool names(const std::string& host, uint16_t port) const;
  [[nodiscard]] bool holds(const SocketAddress& address, uint16_t port) const;

  using HostPort = std::pair<std::string, uint16_t>;  // a name in lower case or an address as text; port 0: any
  std::set<HostPort> names_, addresses_, told_;
};

// "127.0.0.1", "::1", "fe80::1%3": one text for each address, that of IPv4 also for IPv4 in IPv6.
[[nodiscard]] std::string canonical_text(const SocketAddress& address);
[[nodiscard]] bool is_loopback(const SocketAddress& address);
// 0.0.0.0 and ::, which connect to this machine and name nobody.
[[nodiscard]] bool is_unspecified(const SocketAddress& address);

}  // namespace baton::handoff
