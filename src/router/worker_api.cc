#include "router/worker_api.h"

#include <algorithm>
#include <boost/json.hpp>
#include <limits>
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

// {"priority", "cost", "labels"}: what is not there stays as it is.
Status read_traits(const json::object& body, WorkerTraits* traits) {
  constexpr size_t kLabelsMax = 64, kLabelBytesMax = 1024;
  BATON_ASSIGN(const auto priority, http::int_field(body, "priority", 0, std::numeric_limits<uint32_t>::max()));
  if (priority) traits->priority = *priority;
  BATON_ASSIGN(const auto cost, http::number_field(body, "cost", 0, std::numeric_limits<float>::max()));
  if (cost) traits->cost = *cost;
  const json::value* labels = http::find_field(body, "labels");
  if (labels == nullptr) return {};
  const auto fits = [](const auto& entry) {
    return entry.value().is_string() && entry.key().size() + entry.value().as_string().size() <= kLabelBytesMax;
  };
  if (!labels->is_object() || labels->as_object().size() > kLabelsMax ||
      !std::all_of(labels->as_object().begin(), labels->as_object().end(), fits)) {
    return error(ErrorCode::kInvalidArgument,
                 "labels: must be an object of at most {} strings, each of at most {} bytes", kLabelsMax,
                 kLabelBytesMax);
  }
  traits->labels.clear();
  for (const auto& [name, value] : labels->as_object()) traits->labels[name] = std::string(value.as_string());
  return {};
}

}  // namespace

std::string worker_json(const WorkerView& view) {
  const bool prefill = view.address.role == engine::Role::kPrefill;
  return fmt::format(
      "{{\"id\":\"{}\",\"url\":{},\"model_id\":{},\"priority\":{},\"cost\":{},\"worker_type\":\"{}\",\"is_"
      "healthy\":{},"
      "\"status\":\"{}\",\"load\":{},\"connection_mode\":\"http\",\"runtime_type\":\"sglang\",\"bootstrap_port\":{},"
      "\"metadata\":{},\"breaker_open\":{},\"outstanding\":{},\"requests\":{},\"failures\":{},\"problem\":{}}}",
      view.name, http::json_string(url_of(view.address)),
      http::json_string(view.model.empty() ? "unknown" : view.model), view.traits.priority,
      json::serialize(json::value(view.traits.cost)), engine::role_name(view.address.role), view.healthy,
      view.healthy ? "healthy" : "unhealthy", view.outstanding,
      prefill ? std::to_string(view.address.bootstrap_port) : "null",
      json::serialize(json::value_from(view.traits.labels)), view.breaker_open, view.outstanding, view.requests,
      view.failures, http::json_string(view.problem));
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

// As sglang-router has it: what is named changes, and nothing of how requests are placed does.
void WorkerApi::update(const Exchange& x) const {
  const auto view = named(x.request);
  if (!view) return x.refuse(view.error());
  const auto body = http::parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  for (const auto& [name, value] : *body) {
    const bool probing = name.starts_with("health") || name == "disable_health_check" || name == "api_key";
    if (probing && !value.is_null()) {
      return x.refuse(400, fmt::format("{}: not of one worker; the router's flags --health-check-interval-secs, "
                                       "--health-check-timeout-secs and --api-key hold for all",
                                       std::string_view(name).substr(0, 100)));
    }
  }
  WorkerTraits traits = view->traits;
  const Status read = read_traits(*body, &traits);
  if (!read) return x.refuse(read.error());
  registry_.set_traits(view->id, std::move(traits));
  x.reply(
      fmt::format("{{\"status\":\"accepted\",\"worker_id\":\"{}\",\"message\":\"the worker is updated\"}}", view->name),
      202);
}

// The names of sglang-router's first versions, which took a URL and answered in words.
void WorkerApi::list_urls(const Exchange& x) const {
  json::array urls;
  for (const WorkerView& view : registry_.view()) urls.emplace_back(url_of(view.address));
  x.reply(json::serialize(json::object{{"urls", std::move(urls)}}));
}

void WorkerApi::add_url(Exchange x) const {
  WorkerAddress worker;
  const auto url = http::parse_url(http::query_value(x.request.query, "url"));
  if (!url) return x.refuse(url.error());
  worker.url = *url;
  ask_and_add(std::move(x), worker, {}, false);
}

void WorkerApi::remove_url(const Exchange& x) const {
  const auto view = named(x.request);
  if (!view) return x.refuse(view.error());
  if (const Status removed = registry_.remove(view->address.url); !removed) return x.refuse(removed.error());
  log_info("{} left", view->address.url.authority());
  x.reply_text(http::kPlainText, "Successfully removed worker: " + url_of(view->address));
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
  WorkerTraits traits;
  if (const Status read = read_traits(*body, &traits); !read) return x.refuse(read.error());
  const std::string mode = text_field(*body, "mode", "worker_type");
  if (mode.empty()) return ask_and_add(std::move(x), worker, std::move(traits), port->has_value());
  const auto role = role_named(mode);
  if (!role) return x.refuse(400, "worker_type (or mode): must be prefill or decode");
  worker.role = *role;
  join(x, worker, std::move(traits));
}

// sglang-router asks a worker for what it was not told.
void WorkerApi::ask_and_add(Exchange x, WorkerAddress worker, WorkerTraits traits, bool port_given) const {
  const bool in_words = x.request.path == "/add_worker";
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
      [this, worker, traits, port_given, in_words](const Exchange& answered, std::vector<WorkerReply> replies) {
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
        join(answered, told, traits, in_words);
      },
      kPatience);
}

void WorkerApi::join(const Exchange& x, const WorkerAddress& worker, WorkerTraits traits, bool in_words) const {
  const Status added = registry_.add(worker, std::move(traits));
  if (!added) return x.refuse(added.error());
  log_info("{} {} joined", engine::role_name(worker.role), worker.url.authority());
  if (in_words) return x.reply_text(http::kPlainText, "Successfully added worker: " + url_of(worker));
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
