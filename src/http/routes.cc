#include "http/routes.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <iterator>

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

RouteMatch match_route(std::string_view method, std::string_view path, const HttpRequest& request) {
  const bool prefix = path.ends_with('*');
  const bool same = prefix ? request.path.starts_with(path.substr(0, path.size() - 1)) : request.path == path;
  if (!same) return RouteMatch::kNone;
  return request.method == method || (request.method == "HEAD" && method == "GET") ? RouteMatch::kFull
                                                                                   : RouteMatch::kPathOnly;
}

bool authorized(const HttpRequest& request, const std::string& api_key) {
  if (api_key.empty()) return true;
  const std::string_view given = find_header(request.headers, "authorization");
  const std::string wanted = "Bearer " + api_key;
  // Constant time in the key's bytes, so that its prefix cannot be guessed by timing.
  return given.size() == wanted.size() && CRYPTO_memcmp(given.data(), wanted.data(), wanted.size()) == 0;
}

HttpRefusal unrouted(const HttpRequest& request, bool path_known) {
  static constexpr std::string_view kUnsupported[] = {"/v1/embeddings",
                                                      "/v1/responses",
                                                      "/v1/score",
                                                      "/v1/rerank",
                                                      "/v1/messages",
                                                      "/load_lora_adapter",
                                                      "/unload_lora_adapter",
                                                      "/update_weights_from_disk",
                                                      "/update_weights_from_tensor",
                                                      "/update_weights_from_distributed"};
  const std::string what = fmt::format("{} {}", request.method, request.path);
  if (path_known) return refusal_of(request, 405, what + ": this path does not take that method");
  if (std::ranges::find(kUnsupported, request.path) != std::end(kUnsupported))
    return refusal_of(request, 501, what + ": this server does not have that");
  return refusal_of(request, 404, what + ": no such endpoint");
}

std::optional<HttpRefusal> access_refusal(const HttpRequest& request, const Access& access, bool open, bool changes) {
  if (!open && !authorized(request, access.api_key))
    return refusal_of(request, 401, "missing or wrong API key; send the header Authorization: Bearer KEY");
  const bool reads = request.method == "GET" || request.method == "HEAD";
  if (reads && !changes) return std::nullopt;
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
