// URLs and the targets of requests, by Boost.URL (RFC 3986).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::http {

// "http://127.0.0.1:8000/base"; "http://[::1]:8000"; a bare "host:port" too.
struct Url {
  std::string host;  // without brackets
  int port = 80;
  std::string path;                             // "" or "/base", as it stands on the wire
  [[nodiscard]] std::string authority() const;  // "host:port", IPv6 in brackets
};
// kInvalidArgument says what is wrong with the text.
Result<Url> parse_url(std::string_view text);

struct RequestTarget {
  std::string path;   // decoded, repeated slashes collapsed
  std::string query;  // after '?', undecoded
};
// Of a request line, in origin form ("/a?b=c") or absolute form ("http://host/a?b=c"); nothing if it is neither.
[[nodiscard]] std::optional<RequestTarget> parse_target(std::string_view target);

// The value of `name` in a query string, percent-decoded, '+' as a space; "" if absent or malformed.
[[nodiscard]] std::string query_value(std::string_view query, std::string_view name);
// A decoded path as it may stand in a request line.
[[nodiscard]] std::string encode_path(std::string_view path);

}  // namespace baton::http
