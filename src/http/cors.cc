#include "http/cors.h"

#include <algorithm>

namespace baton::http {

namespace {

std::string_view strip(std::string_view text, std::string_view what) {
  while (!text.empty() && what.find(text.front()) != std::string_view::npos) text.remove_prefix(1);
  while (!text.empty() && what.find(text.back()) != std::string_view::npos) text.remove_suffix(1);
  return text;
}

// What a browser says in Origin: a scheme, a host and perhaps a port, and nothing behind.
bool is_origin(std::string_view text) {
  const size_t scheme = text.find("://");
  if (scheme == std::string_view::npos || scheme == 0) return false;
  const std::string_view authority = text.substr(scheme + 3);
  return !authority.empty() && authority.find_first_of("/?#@* ") == std::string_view::npos;
}

}  // namespace

Result<Origins> parse_origins(std::string_view text) {
  Origins origins;
  for (std::string_view rest = strip(text, "[] "); !rest.empty();) {
    const std::string_view one = strip(rest.substr(0, rest.find(',')), " \"'");
    if (one != "*" && !is_origin(one)) {
      return error(ErrorCode::kInvalidArgument,
                   "--allowed-origins: '{}' is not an origin like https://ui.example:8080, and not *", one);
    }
    origins.emplace_back(one);
    rest.remove_prefix(std::min(rest.size(), rest.find(',')));
    rest = strip(rest, ", ");
  }
  return origins;
}

bool from_allowed_origin(const HttpRequest& request, const Origins& allowed) {
  const std::string_view origin = find_header(request.headers, "origin");
  return !origin.empty() &&
         std::ranges::any_of(allowed, [&](const std::string& one) { return one == "*" || one == origin; });
}

Headers cors_headers(const HttpRequest& request, const Origins& allowed) {
  if (!from_allowed_origin(request, allowed)) return {};
  return {{"Access-Control-Allow-Origin", std::string(find_header(request.headers, "origin"))},
          {"Access-Control-Expose-Headers", "x-request-id, x-baton-verdict, x-baton-router-ms, Retry-After"},
          {"Vary", "Origin"}};
}

bool is_preflight(const HttpRequest& request, const Origins& allowed) {
  return request.method == "OPTIONS" && from_allowed_origin(request, allowed) &&
         !find_header(request.headers, "access-control-request-method").empty();
}

Headers preflight_headers(const HttpRequest& request) {
  Headers headers{{"Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE"}, {"Access-Control-Max-Age", "600"}};
  if (const auto wanted = find_header(request.headers, "access-control-request-headers"); !wanted.empty())
    headers.emplace_back("Access-Control-Allow-Headers", std::string(wanted));
  return headers;
}

}  // namespace baton::http
