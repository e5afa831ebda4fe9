#include "handoff/trust.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

namespace baton::handoff {
namespace {

constexpr size_t kToldMax = 4096;

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return text;
}

// The four bytes of an IPv4 address, also of one inside IPv6.
std::optional<in_addr> v4_of(const SocketAddress& address) {
  in_addr found{};
  if (address.storage.ss_family == AF_INET) {
    found = reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr;
    return found;
  }
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_addr;
  if (address.storage.ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6)) return std::nullopt;
  std::memcpy(&found, v6.s6_addr + 12, sizeof(found));
  return found;
}

const in6_addr& v6_of(const SocketAddress& address) {
  return reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_addr;
}

std::optional<uint16_t> parse_port(std::string_view text) {
  uint16_t port = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (failure != std::errc() || end != text.data() + text.size() || port == 0) return std::nullopt;
  return port;
}

}  // namespace

std::string canonical_text(const SocketAddress& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (const auto v4 = v4_of(address)) {
    ::inet_ntop(AF_INET, &*v4, text, sizeof(text));
    return text;
  }
  if (address.storage.ss_family != AF_INET6) return "?";
  ::inet_ntop(AF_INET6, &v6_of(address), text, sizeof(text));
  const uint32_t scope = reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_scope_id;
  return scope == 0 ? std::string(text) : fmt::format("{}%{}", text, scope);
}

bool is_loopback(const SocketAddress& address) {
  if (const auto v4 = v4_of(address)) return (ntohl(v4->s_addr) >> 24) == 127;
  return address.storage.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6_of(address));
}

bool is_unspecified(const SocketAddress& address) {
  if (const auto v4 = v4_of(address)) return (ntohl(v4->s_addr) >> 24) == 0;  // all of 0.0.0.0/8
  return address.storage.ss_family != AF_INET6 || IN6_IS_ADDR_UNSPECIFIED(&v6_of(address));
}

Result<TrustedPeers> TrustedPeers::parse(const std::vector<std::string>& entries) {
  TrustedPeers peers;
  for (const std::string& entry : entries) {
    std::string_view host = entry;
    uint16_t port = 0;
    const bool bracket = host.starts_with('[');
    const size_t colon = bracket                                          ? host.find("]:")
                         : std::count(host.begin(), host.end(), ':') == 1 ? host.find(':')
                                                                          : std::string_view::npos;
    if (colon != std::string_view::npos) {
      const auto parsed = parse_port(host.substr(colon + (bracket ? 2 : 1)));
      port = parsed.value_or(0);
      host = host.substr(0, colon + (bracket ? 1 : 0));
      if (!parsed) host = "";
    }
    if (bracket) host = host.ends_with(']') ? host.substr(1, host.size() - 2) : "";
    if (host.empty() || host.size() > 255 || host.find_first_of(" /[]@\t\n") != std::string_view::npos)
      return error(ErrorCode::kInvalidArgument,
                   "--disaggregation-prefill-peers: \"{}\" is not HOST, HOST:PORT, [IPV6] or [IPV6]:PORT",
                   entry.substr(0, 255));
    const Result<SocketAddress> numeric = make_address(std::string(host), port, /*lookup=*/false);
    if (numeric) {
      peers.addresses_.emplace(canonical_text(*numeric), port);
    } else {
      peers.names_.emplace(lower(std::string(host)), port);
    }
  }
  return peers;
}

bool TrustedPeers::tell(const std::string& host, uint16_t port) {
  HostPort entry{lower(host), port};
  if (told_.size() >= kToldMax && !told_.contains(entry)) return false;
  told_.insert(std::move(entry));
  return true;
}

bool TrustedPeers::names(const std::string& host, uint16_t port) const {
  const std::string name = lower(host);
  return told_.contains({name, port}) || names_.contains({name, port}) || names_.contains({name, 0});
}

bool TrustedPeers::holds(const SocketAddress& address, uint16_t port) const {
  const std::string text = canonical_text(address);
  return is_loopback(address) || addresses_.contains({text, port}) || addresses_.contains({text, 0});
}

bool TrustedPeers::may_ask_for(const std::string& host, uint16_t port) const {
  if (names(host, port) || lower(host) == "localhost") return true;
  const Result<SocketAddress> numeric = make_address(host, port, /*lookup=*/false);
  return numeric && holds(*numeric, port);
}

bool TrustedPeers::may_connect(const std::string& host, uint16_t port, const SocketAddress& address) const {
  return !is_unspecified(address) && (names(host, port) || holds(address, port));
}

}  // namespace baton::handoff
