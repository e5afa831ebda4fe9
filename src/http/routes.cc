#include "http/routes.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>

#include "http/api_error.h"

namespace baton::http {
namespace {

// The x-request-id goes with every answer.
Headers echoed(const HttpRequest& request) {
  const auto id = find_header(request.headers, "x-request-id");
  return id.empty() ? Headers() : Headers{{"x-request-id", std::string(id)}};
}

bool declared_json(const HttpRequest& request) {
  std::string_view type = find_header(request.headers, "content-type");
  type = type.substr(0, type.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  return equal_ignoring_case(type, "application/json");
}

// Whether a page of another site may have caused it. Pages cannot suppress these two headers.
bool from_a_page_elsewhere(const HttpRequest& request) {
  const std::string_view site = find_header(request.headers, "sec-fetch-site");
  return site == "cross-site" || site == "same-site" || !find_header(request.headers, "origin").empty();
}

bool ends_in(std::string_view name, std::string_view suffix) {
  return name.size() > suffix.size() && equal_ignoring_case(name.substr(name.size() - suffix.size()), suffix);
}

// Names that only this machine or its network can give meaning to. Whoever owns a name in the public DNS can let it
// point here, and then a browser takes that site's pages and this server for one.
bool is_public_name(std::string_view host) {
  host =
      host.substr(0, host.rfind(':') == std::string_view::npos || host.ends_with(']') ? host.size() : host.rfind(':'));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  while (host.ends_with('.')) host.remove_suffix(1);
  boost::system::error_code not_an_address;
  boost::asio::ip::make_address(std::string(host), not_an_address);
  if (!not_an_address || host.find('.') == std::string_view::npos) return false;
  static constexpr std::string_view kPrivate[] = {".localhost", ".local", ".internal", ".home.arpa", ".lan"};
  return std::ranges::none_of(kPrivate, [&](std::string_view suffix) { return ends_in(host, suffix); });
}

bool same_path(std::string_view route, std::string_view path) {
  return route.ends_with('*') ? path.starts_with(route.substr(0, route.size() - 1)) : path == route;
}

// What the servers whose APIs these are serve and this one does not.
bool known_elsewhere(std::string_view path) {
  static constexpr std::pair<char, std::string_view> kEndpoints[] = {
#define ENDPOINT(tier, method, path, where) {tier, path},
#include "http/compatibility.inc"
  };
  return std::ranges::any_of(
      kEndpoints, [&](const auto& endpoint) { return endpoint.first == 'C' && same_path(endpoint.second, path); });
}

}  // namespace

Exchange::Exchange(HttpRequest incoming, std::shared_ptr<ResponseWriter> answer)
    : request(std::move(incoming)), writer(std::move(answer)), headers(echoed(request)) {}

void Exchange::reply(std::string json, int status) const { send_json(*writer, status, std::move(json), headers); }

void Exchange::reply_text(const char* content_type, std::string text) const {
  Headers all = headers;
  all.emplace_back("Content-Type", content_type);
  writer->send(200, std::move(all), std::move(text));
}

void Exchange::refuse(int status, const std::string& message) const { send_error(*writer, status, message, headers); }
void Exchange::refuse(const Error& failure) const { send_error(*writer, failure, headers); }
void Exchange::refuse(const HttpRefusal& refusal) const {
  send_error(*writer, refusal.status, refusal.message, refusal.headers);
}

HttpRefusal refusal_of(const HttpRequest& request, int status, std::string message) {
  return {status, std::move(message), echoed(request)};
}

bool is_loopback(std::string_view host) {
  boost::system::error_code failed;
  const auto address = boost::asio::ip::make_address(std::string(host), failed);
  return host == "localhost" || (!failed && address.is_loopback());
}

std::string bare_path(std::string_view path) {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  return std::string(path);
}

std::string_view below_root(std::string_view path, std::string_view root) {
  const std::string whole = bare_path(root);
  if (whole.size() < 2 || !path.starts_with(whole)) return path;
  const std::string_view rest = path.substr(whole.size());
  return rest.starts_with('/') ? rest : path;
}

RouteMatch match_route(std::string_view method, std::string_view route, std::string_view asked, std::string_view path) {
  if (!same_path(route, path)) return RouteMatch::kNone;
  return asked == method || (asked == "HEAD" && method == "GET") ? RouteMatch::kFull : RouteMatch::kPathOnly;
}

bool authorized(const HttpRequest& request, const std::string& api_key) {
  if (api_key.empty()) return true;
  // Constant time in the key's bytes, so that its prefix cannot be guessed by timing.
  const auto is_key = [&](std::string_view given) {
    return given.size() == api_key.size() && CRYPTO_memcmp(given.data(), api_key.data(), api_key.size()) == 0;
  };
  constexpr std::string_view kBearer = "Bearer ";  // schemes compare without case
  std::string_view given = find_header(request.headers, "authorization");
  if (equal_ignoring_case(given.substr(0, kBearer.size()), kBearer)) {
    given.remove_prefix(kBearer.size());
    while (given.starts_with(' ')) given.remove_prefix(1);
    if (is_key(given)) return true;
  }
  return is_key(find_header(request.headers, "x-api-key"));
}

HttpRefusal unrouted(const HttpRequest& request, const std::string& bare, const std::string& allow) {
  // A HEAD's answer has the length of a GET's.
  const std::string what = fmt::format("{} {}", request.method == "HEAD" ? "GET" : request.method, request.path);
  if (!allow.empty()) {
    HttpRefusal refusal = refusal_of(request, 405, what + ": this path does not take that method");
    refusal.headers.emplace_back("Allow", allow);
    return refusal;
  }
  if (known_elsewhere(bare) || known_elsewhere("/v1" + bare))
    return refusal_of(request, 501, what + ": this server does not have that");
  return refusal_of(request, 404, what + ": no such endpoint");
}

std::optional<HttpRefusal> access_refusal(const HttpRequest& request, const Access& access, bool open, bool changes) {
  if (!open && !authorized(request, access.api_key)) {
    HttpRefusal refusal =
        refusal_of(request, 401, "missing or wrong API key; send the header Authorization: Bearer KEY");
    refusal.headers.emplace_back("WWW-Authenticate", "Bearer");
    return refusal;
  }
  const bool reads = request.method == "GET" || request.method == "HEAD";
  if ((reads && !changes) || from_allowed_origin(request, access.origins)) return std::nullopt;
  if (from_a_page_elsewhere(request) && !declared_json(request)) {
    return refusal_of(request, 403,
                      "a browser sent this for a page of another site; such requests must have Content-Type: "
                      "application/json");
  }
  const std::string_view host = find_header(request.headers, "host");
  const bool by_browser = reads || !find_header(request.headers, "origin").empty();
  if (access.api_key.empty() && access.loopback && by_browser && is_public_name(host)) {
    return refusal_of(request, 403,
                      fmt::format("the host '{}' is a public name, and this server listens on loopback without a key; "
                                  "use localhost or an address, or serve with --api-key",
                                  host));
  }
  return std::nullopt;
}

}  // namespace baton::http
