#include "router/router_server.h"

#include <openssl/crypto.h>

#include <boost/json.hpp>
#include <condition_variable>
#include <thread>

#include "base/log.h"
#include "http/api_error.h"
#include "http/json.h"
#include "router/pd_call.h"

namespace baton {
namespace {

namespace json = boost::json;
constexpr size_t kFanOutBytesMax = 64u << 20;

std::string worker_json(const WorkerView& view) {
  return fmt::format(
      "{{\"url\":{},\"worker_type\":\"{}\",\"bootstrap_port\":{},\"is_healthy\":{},\"breaker_open\":{},\"outstanding\":"
      "{},\"requests\":{},\"failures\":{},"
      "\"problem\":{}}}",
      json_string("http://" + view.address.url.authority()), role_name(view.address.role), view.address.bootstrap_port,
      view.healthy, view.breaker_open, view.outstanding, view.requests, view.failures, json_string(view.problem));
}

// Collects the replies of many workers, then calls `done` with them in the order asked. On client threads.
struct FanOut {
  struct Reply {
    WorkerAddress worker;
    int status = 0;
    std::string body;
  };
  std::mutex mutex;
  std::vector<Reply> replies;
  size_t missing = 0;
  std::function<void(std::vector<Reply>)> done;
};

}  // namespace

class Router::Impl {
 public:
  explicit Impl(RouterOptions options)
      : options_(std::move(options)),
        registry_({}, PairPolicy(options_.prefill_policy, options_.decode_policy, entropy())),
        client_(1) {}

  ~Impl() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    if (prober_.joinable()) prober_.join();
    if (server_) server_->stop();
  }

  Status start() {
    for (const WorkerAddress& worker : options_.workers) BATON_TRY(registry_.add(worker));
    auto server = HttpServer::start(options_.http, [this](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
      handle(std::move(request), std::move(writer));
    });
    if (!server) return server.error();
    server_ = std::move(*server);
    prober_ = std::thread([this] { probe_loop(); });
    return {};
  }

  [[nodiscard]] int port() const { return server_->port(); }

  Status wait_ready(Duration timeout) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, timeout, [&] { return stopping_ || registry_.can_serve(clock_.now(), true); }) &&
        !stopping_)
      return {};
    std::string problems = registry_.refusals();
    for (const WorkerView& view : registry_.view()) {
      if (!view.problem.empty())
        problems +=
            fmt::format("; {} {}: {}", role_name(view.address.role), view.address.url.authority(), view.problem);
    }
    return error(ErrorCode::kDeadlineExceeded, "no pair of instances can serve after {:.0f} s{}", to_seconds(timeout),
                 problems);
  }

  struct RouteEntry {
    const char* method;
    const char* path;
    void (Impl::*route)(HttpRequest, std::shared_ptr<ResponseWriter>);
  };
  static const std::vector<RouteEntry>& table() {
    using I = Impl;
    static const std::vector<RouteEntry> entries = {
        {"POST", "/generate", &I::pd},
        {"PUT", "/generate", &I::pd},
        {"POST", "/v1/completions", &I::pd},
        {"POST", "/v1/chat/completions", &I::pd},
        {"GET", "/health", &I::health},
        {"GET", "/ping", &I::health},
        {"GET", "/liveness", &I::health},
        {"GET", "/readiness", &I::health},
        {"GET", "/health_generate", &I::every_worker},
        {"POST", "/health_generate", &I::every_worker},
        {"GET", "/flush_cache", &I::every_worker},
        {"POST", "/flush_cache", &I::every_worker},
        {"POST", "/abort_request", &I::every_worker},
        {"GET", "/get_server_info", &I::server_info},
        {"GET", "/server_info", &I::server_info},
        {"GET", "/get_model_info", &I::one_worker},
        {"GET", "/model_info", &I::one_worker},
        {"GET", "/v1/models", &I::one_worker},
        {"GET", "/v1/models/*", &I::one_worker},
        {"POST", "/tokenize", &I::one_worker},
        {"POST", "/v1/tokenize", &I::one_worker},
        {"POST", "/detokenize", &I::one_worker},
        {"POST", "/v1/detokenize", &I::one_worker},
        {"GET", "/tokenizer_info", &I::one_worker},
        {"GET", "/plan", &I::one_worker},
        {"GET", "/version", &I::version},
        {"GET", "/metrics", &I::metrics},
        {"GET", "/engine_metrics", &I::engine_metrics},
        {"GET", "/workers", &I::list_workers},
        {"POST", "/workers", &I::add_worker},
        {"DELETE", "/workers", &I::remove_worker},
        {"POST", "/register", &I::add_worker},
    };
    return entries;
  }

 private:
  [[nodiscard]] bool authorized(const HttpRequest& request) const {
    if (options_.api_key.empty()) return true;
    const std::string wanted = "Bearer " + options_.api_key;
    const std::string_view given = find_header(request.headers, "authorization");
    return given.size() == wanted.size() && CRYPTO_memcmp(given.data(), wanted.data(), wanted.size()) == 0;
  }

  void handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    bool path_known = false;
    for (const RouteEntry& entry : table()) {
      const std::string_view path = entry.path;
      const bool matches =
          path.ends_with('*') ? request.path.starts_with(path.substr(0, path.size() - 1)) : request.path == path;
      if (!matches) continue;
      path_known = true;
      if (request.method != entry.method) continue;
      const bool open = entry.route == &Impl::health || entry.route == &Impl::metrics ||
                        entry.route == &Impl::engine_metrics || entry.route == &Impl::version;
      if (!open && !authorized(request))
        return send_error(*writer, 401, "missing or wrong API key; send the header Authorization: Bearer KEY");
      return (this->*entry.route)(std::move(request), std::move(writer));
    }
    const std::string what = fmt::format("{} {}", request.method, request.path);
    send_error(*writer, path_known ? 405 : 404,
               what + (path_known ? ": this path does not take that method" : ": no such endpoint"));
  }

  void pd(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    start_pd_call({registry_, client_, clock_, counters_}, std::move(request), std::move(writer));
  }

  void health(HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    if (registry_.can_serve(clock_.now())) return send_json(*writer, 200, "{\"status\":\"ok\"}");
    std::string list;
    for (const WorkerView& view : registry_.view()) list += (list.empty() ? "" : ",") + worker_json(view);
    send_json(*writer, 503, fmt::format("{{\"status\":\"no pair of instances can serve\",\"workers\":[{}]}}", list),
              {{"Retry-After", "1"}});
  }

  void version(HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    send_json(*writer, 200, fmt::format("{{\"version\":{}}}", json_string(options_.version)));
  }

  // Asks the workers that `wanted` names and hands their replies on.
  void fan_out(const HttpRequest& request, const std::vector<WorkerAddress>& wanted,
               std::function<void(std::vector<FanOut::Reply>)> done) {
    auto all = std::make_shared<FanOut>();
    all->missing = wanted.size();
    all->done = std::move(done);
    for (const WorkerAddress& worker : wanted) all->replies.push_back({worker, 0, {}});
    if (wanted.empty()) return all->done({});
    for (size_t i = 0; i < wanted.size(); ++i) {
      HttpCallRequest call;
      call.url = wanted[i].url;
      call.method = request.method;
      call.target = wanted[i].url.path + request.path + (request.query.empty() ? "" : "?" + request.query);
      call.body = request.body;
      call.idle_timeout = std::chrono::seconds(60);
      if (const auto auth = find_header(request.headers, "authorization"); !auth.empty())
        call.headers.emplace_back("Authorization", std::string(auth));
      HttpCallHandlers handlers;
      handlers.on_head = [all, i](int status, const Headers&) { all->replies[i].status = status; };
      handlers.on_data = [all, i](std::string_view bytes) {
        if (all->replies[i].body.size() + bytes.size() <= kFanOutBytesMax) all->replies[i].body += bytes;
      };
      handlers.on_end = [all, i](const Status& status) {
        if (!status) all->replies[i].body = error_json(502, status.error().message);
        bool last = false;
        {
          std::lock_guard lock(all->mutex);
          last = --all->missing == 0;
        }
        if (last) all->done(std::move(all->replies));
      };
      client_.start(std::move(call), std::move(handlers));
    }
  }

  [[nodiscard]] std::vector<WorkerAddress> healthy_workers() const {
    std::vector<WorkerAddress> out;
    for (const WorkerView& view : registry_.view()) {
      if (view.healthy) out.push_back(view.address);
    }
    return out;
  }

  void one_worker(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    std::vector<WorkerAddress> workers = healthy_workers();
    std::erase_if(workers, [](const WorkerAddress& w) { return w.role != Role::kDecode; });
    if (workers.empty()) return send_error(*writer, 503, "no decode instance is healthy");
    const bool text = request.path == "/plan";
    fan_out(request, {workers.front()}, [writer, text](std::vector<FanOut::Reply> replies) {
      FanOut::Reply& reply = replies.front();
      writer->send(reply.status == 0 ? 502 : reply.status,
                   {{"Content-Type", text ? "text/plain; charset=utf-8" : "application/json"}}, std::move(reply.body));
    });
  }

  void every_worker(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    fan_out(request, healthy_workers(), [writer](std::vector<FanOut::Reply> replies) {
      int worst = replies.empty() ? 503 : 200;
      std::string list;
      for (const FanOut::Reply& reply : replies) {
        worst = std::max(worst, reply.status == 0 ? 502 : reply.status);
        list += fmt::format("{}{{\"url\":{},\"status\":{}}}", list.empty() ? "" : ",",
                            json_string("http://" + reply.worker.url.authority()), reply.status);
      }
      send_json(*writer, worst, fmt::format("{{\"success\":{},\"workers\":[{}]}}", worst == 200, list));
    });
  }

  void server_info(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    fan_out(request, healthy_workers(), [writer, version = options_.version](std::vector<FanOut::Reply> replies) {
      json::array prefill, decode, states;
      for (const FanOut::Reply& reply : replies) {
        auto info = parse_object(reply.body);
        if (reply.status != 200 || !info) continue;
        if (reply.worker.role == Role::kDecode) {
          if (const json::value* mine = find_field(*info, "internal_states"); mine != nullptr && mine->is_array()) {
            for (const json::value& state : mine->as_array()) states.push_back(state);
          }
        }
        (reply.worker.role == Role::kPrefill ? prefill : decode).push_back(*info);
      }
      json::object out{{"version", version}, {"status", "ready"}};
      // Old benchmark clients read internal_states[0]: it is there even with no instance.
      if (states.empty()) states.push_back(json::object{{"avg_spec_accept_length", nullptr}});
      out["internal_states"] = std::move(states);
      out["prefill"] = std::move(prefill);
      out["decode"] = std::move(decode);
      send_json(*writer, 200, json::serialize(out));
    });
  }

  void engine_metrics(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    request.path = "/metrics";
    fan_out(request, healthy_workers(), [writer](std::vector<FanOut::Reply> replies) {
      std::string text;
      for (const FanOut::Reply& reply : replies) {
        if (reply.status == 200)
          text += fmt::format("# worker http://{}\n{}", reply.worker.url.authority(), reply.body);
      }
      writer->send(200, {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}}, std::move(text));
    });
  }

  void metrics(HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    std::string text;
    const auto counter = [&](const char* name, const char* help, uint64_t value) {
      text += fmt::format("# HELP {0} {1}\n# TYPE {0} counter\n{0} {2}\n", name, help, value);
    };
    counter("baton_router_requests_total", "Requests", counters_.requests);
    counter("baton_router_retries_total", "New attempts after a failure the client did not see", counters_.retries);
    counter("baton_router_prefill_errors_total", "Prefill legs that failed", counters_.prefill_errors);
    counter("baton_router_decode_errors_total", "Decode legs that failed", counters_.decode_errors);
    counter("baton_router_clients_left_total", "Clients that left before the end", counters_.clients_left);
    counter("baton_router_stream_errors_total", "Answers that broke off after their first byte",
            counters_.stream_errors);
    text += "# HELP baton_router_worker_healthy Health of each worker\n# TYPE baton_router_worker_healthy gauge\n";
    for (const WorkerView& view : registry_.view()) {
      text += fmt::format("baton_router_worker_healthy{{role=\"{}\",worker=\"{}\"}} {}\n", role_name(view.address.role),
                          view.address.url.authority(), view.healthy ? 1 : 0);
    }
    text +=
        "# HELP baton_router_worker_outstanding Requests under way on each worker\n# TYPE "
        "baton_router_worker_outstanding gauge\n";
    for (const WorkerView& view : registry_.view()) {
      text += fmt::format("baton_router_worker_outstanding{{role=\"{}\",worker=\"{}\"}} {}\n",
                          role_name(view.address.role), view.address.url.authority(), view.outstanding);
    }
    writer->send(200, {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}}, std::move(text));
  }

  void list_workers(HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    std::string prefill, decode;
    for (const WorkerView& view : registry_.view()) {
      std::string& list = view.address.role == Role::kPrefill ? prefill : decode;
      list += (list.empty() ? "" : ",") + worker_json(view);
    }
    send_json(*writer, 200, fmt::format("{{\"prefill\":[{}],\"decode\":[{}]}}", prefill, decode));
  }

  // {"url" or "registry_url", "mode" or "worker_type": prefill|decode, "bootstrap_port"}: ours and mini_lb's spelling.
  void add_worker(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    auto body = parse_object(request.body);
    if (!body) return send_error(*writer, body.error());
    const auto text = [&](const char* a, const char* b) {
      const json::value* value = find_field(*body, a);
      if (value == nullptr) value = find_field(*body, b);
      return value != nullptr && value->is_string() ? std::string(value->as_string()) : std::string();
    };
    WorkerAddress worker;
    const std::string mode = text("mode", "worker_type");
    if (mode != "prefill" && mode != "decode") return send_error(*writer, 400, "mode: must be prefill or decode");
    worker.role = mode == "prefill" ? Role::kPrefill : Role::kDecode;
    auto url = parse_url(text("url", "registry_url"));
    if (!url) return send_error(*writer, url.error());
    worker.url = *url;
    auto port = int_field(*body, "bootstrap_port", 1, 65535);
    if (!port) return send_error(*writer, port.error());
    worker.bootstrap_port = static_cast<int>(port->value_or(8998));
    const Status added = registry_.add(worker);
    if (!added) return send_error(*writer, added.error());
    log_info("{} {} joined", mode, worker.url.authority());
    send_json(*writer, 200, "{\"success\":true}");
  }

  void remove_worker(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    auto url = parse_url(query_value(request.query, "url"));
    if (!url) return send_error(*writer, url.error());
    const Status removed = registry_.remove(*url);
    if (!removed) return send_error(*writer, removed.error());
    log_info("{} left", url->authority());
    send_json(*writer, 200, "{\"success\":true}");
  }

  // Health of each worker, then the meeting of pairs that have not met, so that a mismatch is known before a request
  // is.
  void probe_loop() {
    while (true) {
      for (const WorkerView& view : registry_.view()) probe(view);
      for (const WorkerRegistry::Pair& pair : registry_.unpaired()) introduce(pair);
      std::unique_lock lock(mutex_);
      changed_.notify_all();
      if (changed_.wait_for(lock, options_.health_interval, [&] { return stopping_; })) return;
    }
  }

  void probe(const WorkerView& view) {
    HttpCallRequest call;
    call.url = view.address.url;
    call.target = view.address.url.path + "/health";
    call.connect_timeout = std::chrono::duration_cast<std::chrono::milliseconds>(options_.health_timeout);
    call.idle_timeout = call.connect_timeout;
    const auto reply = client_.fetch(std::move(call));
    const bool healthy = reply.ok() && reply->status == 200;
    std::string problem = !reply.ok() ? reply.error().message
                          : healthy   ? ""
                                      : fmt::format("/health says {}: {}", reply->status, reply->body);
    while (problem.ends_with('\n')) problem.pop_back();
    if (healthy != view.healthy) {
      log_info("{} {} is {}{}", role_name(view.address.role), view.address.url.authority(),
               healthy ? "healthy" : "not healthy: ", problem);
    }
    registry_.set_health(view.address.url, healthy, std::move(problem));
  }

  void introduce(const WorkerRegistry::Pair& pair) {
    HttpCallRequest call;
    call.url = pair.decode.url;
    call.method = "POST";
    call.target = pair.decode.url.path + "/pair";
    call.body = fmt::format("{{\"bootstrap_host\":{},\"bootstrap_port\":{}}}", json_string(pair.prefill.url.host),
                            pair.prefill.bootstrap_port);
    call.idle_timeout = std::chrono::seconds(10);
    if (!options_.api_key.empty()) call.headers.emplace_back("Authorization", "Bearer " + options_.api_key);
    const auto reply = client_.fetch(std::move(call));
    if (!reply.ok() || (reply->status != 200 && reply->status != 409 && reply->status != 404)) {
      log_warning("{} and {} have not met yet: {}", pair.prefill.url.authority(), pair.decode.url.authority(),
                  reply.ok() ? reply->body : reply.error().message);
      return;  // tried again at the next round
    }
    const bool refused = reply->status == 409;
    std::string why;
    if (refused) {
      auto body = parse_object(reply->body);
      const json::value* failure = body ? find_field(*body, "error") : nullptr;
      const json::value* message =
          failure != nullptr && failure->is_object() ? find_field(failure->as_object(), "message") : nullptr;
      why = message != nullptr && message->is_string() ? std::string(message->as_string()) : reply->body;
      log_error("{} and {} cannot work together: {}", pair.prefill.url.authority(), pair.decode.url.authority(), why);
    } else {
      log_info("prefill {} and decode {} have met", pair.prefill.url.authority(), pair.decode.url.authority());
    }
    registry_.set_pairing(pair.prefill.url, pair.decode.url, refused, std::move(why));
  }

  const RouterOptions options_;
  SteadyClock clock_;
  RouterCounters counters_;
  WorkerRegistry registry_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::unique_ptr<HttpServer> server_;
  HttpClient client_;  // destroyed before the server: its calls end and let go of their writers
  std::thread prober_;
};

Router::Router(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Router::~Router() = default;

Result<std::unique_ptr<Router>> Router::start(RouterOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  BATON_TRY(impl->start());
  return std::unique_ptr<Router>(new Router(std::move(impl)));
}

int Router::port() const { return impl_->port(); }
Status Router::wait_ready(Duration timeout) { return impl_->wait_ready(timeout); }
std::vector<std::string> Router::routes() {
  std::vector<std::string> names;
  for (const Impl::RouteEntry& entry : Impl::table()) names.push_back(fmt::format("{} {}", entry.method, entry.path));
  return names;
}

}  // namespace baton
