// HTTP messages as plain data. No Beast here: it costs 30 s and 770 MB a file, so only connection.cc and client.cc
// include it.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace baton::http {

using Headers = std::vector<std::pair<std::string, std::string>>;

// The first value of a header, "" if absent; names compare without case.
[[nodiscard]] std::string_view find_header(const Headers& headers, std::string_view name);

[[nodiscard]] bool equal_ignoring_case(std::string_view a, std::string_view b);

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // decoded, repeated slashes collapsed, without the query
  std::string query;   // after '?', undecoded
  Headers headers;
  std::string body;
  std::string peer;                        // "127.0.0.1:40112"
  std::shared_ptr<const void> body_lease;  // the body's share of the server's memory; shared by copies of the request

  // The body is not needed any more: its memory goes, and its share with it.
  void drop_body();
};

[[nodiscard]] const char* status_text(int status);

// The time, as the header Date has it (RFC 9110, section 5.6.7).
[[nodiscard]] std::string http_date(std::time_t now = std::time(nullptr));

// A request without this header is given one by the server, and every answer says it.
inline constexpr const char* kRequestIdHeader = "x-request-id";
[[nodiscard]] std::string make_request_id();

}  // namespace baton::http
