// What stands between an HTTP server and its handlers: which one takes a request, and whether the client may.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "http/server.h"

namespace baton::http {

inline constexpr const char* kPlainText = "text/plain; charset=utf-8";
inline constexpr const char* kPrometheusText = "text/plain; version=0.0.4; charset=utf-8";

// One request and the way to answer it.
struct Exchange {
  Exchange(HttpRequest incoming, std::shared_ptr<ResponseWriter> answer);

  void reply(std::string json, int status = 200) const;
  void reply_text(const char* content_type, std::string text) const;
  void refuse(int status, const std::string& message) const;
  void refuse(const Error& failure) const;
  void refuse(const HttpRefusal& refusal) const;

  HttpRequest request;
  std::shared_ptr<ResponseWriter> writer;
  Headers headers;  // go with every answer: x-request-id, if the request has one
};

// Who may use a server.
struct Access {
  std::string api_key;    // empty: everybody who can connect
  bool loopback = false;  // the server listens on loopback alone
  Origins origins = {};   // whose pages may do what any client may
  // What a proxy may leave in front of every path, as "/llm"; requests without it are served too.
  std::string root_path = {};
};
// Of the address that a server listens on.
[[nodiscard]] bool is_loopback(std::string_view host);

template <typename Handler>
struct Route {
  const char* method;
  const char* path;  // one that ends in '*' takes every path that begins so
  Handler handler;
  bool open = false;     // served without the API key
  bool changes = false;  // a GET that does something
};

// A path as routes have it: without a last slash, as servers of the same APIs take both.
[[nodiscard]] std::string bare_path(std::string_view path);
// The path without `root`, if it begins with that.
[[nodiscard]] std::string_view below_root(std::string_view path, std::string_view root);
enum class RouteMatch { kNone, kPathOnly, kFull };
// Of a route's method and path with a request's.
[[nodiscard]] RouteMatch match_route(std::string_view method, std::string_view route, std::string_view asked,
                                     std::string_view path);
// True without a key, and when the request has it as "Authorization: Bearer KEY" or "X-Api-Key: KEY".
[[nodiscard]] bool authorized(const HttpRequest& request, const std::string& api_key);
// With the x-request-id, as every answer has it.
[[nodiscard]] HttpRefusal refusal_of(const HttpRequest& request, int status, std::string message);
// `bare`: the path as routes would have it. 404; 405 when the path is there for other methods, which are `allow`; 501
// for those that clients of other servers know.
[[nodiscard]] HttpRefusal unrouted(const HttpRequest& request, const std::string& bare, const std::string& allow);
// 401 without the key that is needed. 403 for what a browser sends on behalf of a page that has no business here:
// from another site, unless it is declared as JSON, which browsers do only after asking the server; or to a keyless
// server on loopback by a name that others can give to this machine (DNS rebinding).
[[nodiscard]] std::optional<HttpRefusal> access_refusal(const HttpRequest& request, const Access& access, bool open,
                                                        bool changes);

// Where a request goes, or why it goes nowhere. Asks for its head only.
template <typename Handler>
struct Admission {
  const Route<Handler>* route = nullptr;
  std::string path = {};                    // as the route has it
  std::optional<HttpRefusal> refusal = {};  // exactly when there is no route
};

template <typename Handler>
Admission<Handler> admit(const std::vector<Route<Handler>>& table, const HttpRequest& request, const Access& access) {
  std::string allow;
  const std::string bare = bare_path(below_root(request.path, access.root_path));
  for (const std::string& path : {bare, "/v1" + bare}) {  // clients of llama.cpp leave /v1 out
    for (const Route<Handler>& route : table) {
      const RouteMatch match = match_route(route.method, route.path, request.method, path);
      if (match == RouteMatch::kPathOnly) allow += (allow.empty() ? "" : ", ") + std::string(route.method);
      if (match != RouteMatch::kFull) continue;
      auto refusal = access_refusal(request, access, route.open, route.changes);
      return {refusal ? nullptr : &route, path, std::move(refusal)};
    }
    if (!allow.empty()) break;
  }
  return {nullptr, bare, unrouted(request, bare, allow)};
}

// "METHOD PATH" of every route.
template <typename Handler>
std::vector<std::string> route_names(const std::vector<Route<Handler>>& table) {
  std::vector<std::string> names;
  names.reserve(table.size());
  for (const Route<Handler>& route : table) names.push_back(std::string(route.method) + " " + route.path);
  return names;
}

}  // namespace baton::http
