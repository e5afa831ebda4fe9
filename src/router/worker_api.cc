#include "router/worker_api.h"

#include <algorithm>
#include <boost/json.hpp>
#include <optional>

#include "base/log.h"
#include "http/json.h"
#include "router/fan_out.h"

namespace baton::router {

namespace json = boost::json;
using http::Exchange;

namespace {

constexpr std::string_view kPrefix = "/workers/";

std::string url_of(const WorkerAddress& address) { return "http://" + address.url.authority() + address.url.path; }

std::optional<engine::Role> role_named(std::string_view name) {
  if (name == "prefill") return engine::Role::kPrefill;
  if (name == "decode") return engine::Role::kDecode;
  return std::nullopt;
}

std::string text_field(const json::object& body, const char* a, const char* b) {
  const json::value* value = http::find_field(body, a);
  if (value == nullptr) value = http::find_field(body, b);
  return value != nullptr && value->is_string() ? std::string(value->as_string()) : std::string();
}

}  // namespace

std::string worker_json(const WorkerView& view) {
  const bool prefill = view.address.role == engine::Role::kPrefill;
  return fmt::format(
      "{{\"id\":\"{}\",\"url\":{},\"model_id\":\"unknown\",\"priority\":50,\"cost\":1.0,\"worker_type\":\"{}\",\"is_"
      "healthy\":{},"
      "\"status\":\"{}\",\"load\":{},\"connection_mode\":\"http\",\"runtime_type\":\"sglang\",\"bootstrap_port\":{},"
      "\"metadata\":{{}},\"breaker_open\":{},\"outstanding\":{},\"requests\":{},\"failures\":{},\"problem\":{}}}",
      view.name, http::json_string(url_of(view.address)), engine::role_name(view.address.role), view.healthy,
      view.healthy ? "healthy" : "unhealthy", view.outstanding,
      prefill ? std::to_string(view.address.bootstrap_port) : "null", view.breaker_open, view.outstanding,
      view.requests, view.failures, http::json_string(view.problem));
}

void WorkerApi::list(const Exchange& x) const {
  std::string list;
  size_t prefill = 0;
  const std::vector<WorkerView> views = registry_.view();
  for (const WorkerView& view : views) {
    list += (list.empty() ? "" : ",") + worker_json(view);
    prefill += view.address.role == engine::Role::kPrefill ? 1 : 0;
  }
  x.reply(fmt::format(
      "{{\"workers\":[{}],\"total\":{},\"stats\":{{\"prefill_count\":{},\"decode_count\":{},\"regular_count\":0}}}}",
      list, views.size(), prefill, views.size() - prefill));
}

Result<WorkerView> WorkerApi::named(const http::HttpRequest& request) const {
  std::string name = http::query_value(request.query, "url");
  if (request.path.starts_with(kPrefix)) name = request.path.substr(kPrefix.size());
  // Of a URL in a path the doubled slash is gone.
  if (name.starts_with("http:/") && !name.starts_with("http://")) name.insert(6, "/");
  const auto url = http::parse_url(name);
  for (WorkerView& view : registry_.view()) {
    if (view.name == name || (url && url->authority() == view.address.url.authority())) return std::move(view);
  }
  return error(ErrorCode::kNotFound, "{} is not a worker of this router", name);
}

void WorkerApi::show(const Exchange& x) const {
  const auto view = named(x.request);
  view ? x.reply(worker_json(*view)) : x.refuse(view.error());
}

void WorkerApi::remove(const Exchange& x) const {
  const auto view = named(x.request);
  if (!view) return x.refuse(view.error());
  const Status removed = registry_.remove(view->address.url);
  if (!removed) return x.refuse(removed.error());
  log_info("{} left", view->address.url.authority());
  x.reply(fmt::format(
              "{{\"success\":true,\"status\":\"accepted\",\"worker_id\":\"{}\",\"message\":\"the worker is removed\"}}",
              view->name),
          202);
}

void WorkerApi::add(Exchange x) const {
  auto body = http::parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  WorkerAddress worker;
  auto url = http::parse_url(text_field(*body, "url", "registry_url"));
  if (!url) return x.refuse(url.error());
  worker.url = *url;
  auto port = http::int_field(*body, "bootstrap_port", 1, 65535);
  if (!port) return x.refuse(port.error());
  worker.bootstrap_port = static_cast<int>(port->value_or(worker.bootstrap_port));
  auto host = http::string_field(*body, "bootstrap_host");
  if (!host) return x.refuse(host.error());
  worker.bootstrap_host = host->value_or("");
  const std::string mode = text_field(*body, "mode", "worker_type");
  if (mode.empty()) return ask_and_add(std::move(x), worker, port->has_value());
  const auto role = role_named(mode);
  if (!role) return x.refuse(400, "worker_type (or mode): must be prefill or decode");
  worker.role = *role;
  join(x, worker);
}

// sglang-router asks a worker for what it was not told.
void WorkerApi::ask_and_add(Exchange x, WorkerAddress worker, bool port_given) const {
  if (!api_key_.empty()) {
    std::erase_if(x.request.headers, [](const auto& h) { return http::equal_ignoring_case(h.first, "authorization"); });
    x.request.headers.emplace_back("authorization", "Bearer " + api_key_);
  }
  x.request.method = "GET";
  x.request.path = "/server_info";
  x.request.query.clear();
  x.request.body.clear();
  WorkerView asked;
  asked.address = worker;
  constexpr std::chrono::seconds kPatience{5};
  fan_out(
      client_, calls_, {asked}, std::move(x),
      [this, worker, port_given](const Exchange& answered, std::vector<WorkerReply> replies) {
        const WorkerReply& reply = replies.front();
        const auto info = http::parse_object(reply.body);
        const std::string who = worker.url.authority();
        if (reply.status != 200 || !info) {
          return answered.refuse(502, fmt::format("{} does not say what it is (GET /server_info: {}); give worker_type",
                                                  who, reply.status));
        }
        const std::string mode = text_field(*info, "disaggregation_mode", "disaggregation_mode");
        const auto role = role_named(mode);
        if (!role) {
          return answered.refuse(400, fmt::format("{} is neither a prefill nor a decode instance (disaggregation_mode "
                                                  "{}), and this router pairs those",
                                                  who, http::json_string(mode)));
        }
        WorkerAddress told = worker;
        told.role = *role;
        const auto port = http::int_field(*info, "disaggregation_bootstrap_port", 1, 65535);
        if (!port_given && port && *port) told.bootstrap_port = static_cast<int>(**port);
        join(answered, told);
      },
      kPatience);
}

void WorkerApi::join(const Exchange& x, const WorkerAddress& worker) const {
  const Status added = registry_.add(worker);
  if (!added) return x.refuse(added.error());
  log_info("{} {} joined", engine::role_name(worker.role), worker.url.authority());
  std::string name;
  for (const WorkerView& view : registry_.view()) {
    if (view.address.url.authority() == worker.url.authority()) name = view.name;
  }
  Exchange answer = x;
  answer.headers.emplace_back("Location", std::string(kPrefix) + name);
  answer.reply(
      fmt::format("{{\"success\":true,\"status\":\"accepted\",\"worker_id\":\"{}\",\"url\":{},\"location\":\"{}{}\","
                  "\"message\":\"the worker is added; GET its location to see it become healthy\"}}",
                  name, http::json_string(url_of(worker)), kPrefix, name),
      202);
}

}  // namespace baton::router
