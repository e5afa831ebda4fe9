// HTTP messages as plain data. No Beast here: it costs 30 s and 770 MB a file, so only server.cc and client.cc include
// it.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace baton {

using Headers = std::vector<std::pair<std::string, std::string>>;

// The first value of a header, "" if absent; names compare without case.
[[nodiscard]] std::string_view find_header(const Headers& headers, std::string_view name);

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // decoded, repeated slashes collapsed, without the query
  std::string query;   // after '?', undecoded
  Headers headers;
  std::string body;
  std::string peer;  // "127.0.0.1:40112"
};

// The value of `name` in a query string, percent-decoded; "" if absent.
[[nodiscard]] std::string query_value(std::string_view query, std::string_view name);
// %XX; in queries '+' is a space too, in paths it is itself.
[[nodiscard]] std::string percent_decode(std::string_view text, bool plus_is_space);
// A decoded path as it may stand in a request line: everything but unreserved characters and "/:@+$,;=&!" is %XX.
[[nodiscard]] std::string percent_encode_path(std::string_view path);
[[nodiscard]] const char* status_text(int status);

}  // namespace baton
