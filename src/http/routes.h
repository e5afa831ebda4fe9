// What stands between an HTTP server and its handlers: which one takes a request, and whether the client may.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "http/server.h"

namespace baton {

inline constexpr const char* kPlainText = "text/plain; charset=utf-8";
inline constexpr const char* kPrometheusText = "text/plain; version=0.0.4; charset=utf-8";

// One request and the way to answer it.
struct Exchange {
  Exchange(HttpRequest incoming, std::shared_ptr<ResponseWriter> answer);

  void reply(std::string json, int status = 200) const;
  void reply_text(const char* content_type, std::string text) const;
  void refuse(int status, const std::string& message) const;
  void refuse(const Error& failure) const;

  HttpRequest request;
  std::shared_ptr<ResponseWriter> writer;
  Headers headers;  // go with every answer: x-request-id, if the client sent one
};

template <typename Handler>
struct Route {
  const char* method;
  const char* path;  // one that ends in '*' takes every path that begins so
  Handler handler;
  bool open = false;  // served without the API key
};

enum class RouteMatch { kNone, kPathOnly, kFull };
[[nodiscard]] RouteMatch match_route(std::string_view method, std::string_view path, const HttpRequest& request);
// True without a key, and when the request has it as "Authorization: Bearer KEY".
[[nodiscard]] bool authorized(const HttpRequest& request, const std::string& api_key);
// 404; 405 when the path is there for another method; 501 for those that clients of other servers know.
void refuse_unrouted(const Exchange& x, bool path_known);
void refuse_unauthorized(const Exchange& x);

// The route that takes the request. nullptr: none does, or the key is missing or wrong, and that was answered here.
template <typename Handler>
const Route<Handler>* find_route(const std::vector<Route<Handler>>& table, const Exchange& x,
                                 const std::string& api_key) {
  bool path_known = false;
  for (const Route<Handler>& route : table) {
    const RouteMatch match = match_route(route.method, route.path, x.request);
    path_known = path_known || match != RouteMatch::kNone;
    if (match != RouteMatch::kFull) continue;
    if (route.open || authorized(x.request, api_key)) return &route;
    refuse_unauthorized(x);
    return nullptr;
  }
  refuse_unrouted(x, path_known);
  return nullptr;
}

// "METHOD PATH" of every route.
template <typename Handler>
std::vector<std::string> route_names(const std::vector<Route<Handler>>& table) {
  std::vector<std::string> names;
  names.reserve(table.size());
  for (const Route<Handler>& route : table) names.push_back(std::string(route.method) + " " + route.path);
  return names;
}

}  // namespace baton
