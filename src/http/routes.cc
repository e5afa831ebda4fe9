#include "http/routes.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <iterator>

#include "http/api_error.h"

namespace baton {

Exchange::Exchange(HttpRequest incoming, std::shared_ptr<ResponseWriter> answer)
    : request(std::move(incoming)), writer(std::move(answer)) {
  if (const auto id = find_header(request.headers, "x-request-id"); !id.empty())
    headers.emplace_back("x-request-id", std::string(id));
}

void Exchange::reply(std::string json, int status) const { send_json(*writer, status, std::move(json), headers); }

void Exchange::reply_text(const char* content_type, std::string text) const {
  Headers all = headers;
  all.emplace_back("Content-Type", content_type);
  writer->send(200, std::move(all), std::move(text));
}

void Exchange::refuse(int status, const std::string& message) const { send_error(*writer, status, message, headers); }
void Exchange::refuse(const Error& failure) const { send_error(*writer, failure, headers); }

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

void refuse_unrouted(const Exchange& x, bool path_known) {
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
  const std::string what = fmt::format("{} {}", x.request.method, x.request.path);
  if (path_known) return x.refuse(405, what + ": this path does not take that method");
  if (std::ranges::find(kUnsupported, x.request.path) != std::end(kUnsupported))
    return x.refuse(501, what + ": this server does not have that");
  x.refuse(404, what + ": no such endpoint");
}

void refuse_unauthorized(const Exchange& x) {
  x.refuse(401, "missing or wrong API key; send the header Authorization: Bearer KEY");
}

}  // namespace baton
