#include "router/router_server.h"

#include <algorithm>
#include <atomic>
#include <boost/json.hpp>

#include "base/log.h"
#include "http/json.h"
#include "http/routes.h"
#include "http/work_pool.h"
#include "router/fan_out.h"
#include "router/pd_call.h"
#include "router/worker_api.h"
#include "router/worker_loads.h"
#include "router/worker_metrics.h"
#include "router/worker_probe.h"

namespace baton::router {

using http::Exchange;

namespace {

namespace json = boost::json;

// What each instance says of itself, and what clients read at the top: of the model, which is the same everywhere.
json::object joined_info(const std::vector<WorkerReply>& replies, const std::string& version) {
  json::array prefill, decode, states;
  json::object out;
  int64_t kv_tokens = 0;  // of decode: what the context of running requests has
  for (const WorkerReply& reply : replies) {
    auto info = http::parse_object(reply.body);
    if (reply.status != 200 || !info) continue;
    const bool is_decode = reply.worker.role == engine::Role::kDecode;
    const json::value* mine = is_decode ? http::find_field(*info, "internal_states") : nullptr;
    if (mine != nullptr && mine->is_array())
      states.insert(states.end(), mine->as_array().begin(), mine->as_array().end());
    const json::value* tokens = is_decode ? http::find_field(*info, "max_total_num_tokens") : nullptr;
    if (tokens != nullptr && tokens->is_int64()) kv_tokens += tokens->as_int64();
    // What cached tokens are counted in.
    if (const json::value* page = info->if_contains("page_size"); page != nullptr && !is_decode)
      out["page_size"] = *page;
    for (const char* field : {"model_path", "tokenizer_path", "is_generation", "served_model_name", "model_type",
                              "architectures", "dp_size"}) {
      if (const json::value* said = info->if_contains(field); said != nullptr && (is_decode || !out.contains(field)))
        out[field] = *said;
    }
    (is_decode ? decode : prefill).push_back(std::move(*info));
  }
  if (kv_tokens > 0) out["max_total_num_tokens"] = kv_tokens;
  out["version"] = version;
  out["status"] = "ready";
  // Old benchmark clients read internal_states[0]: it is there even with no instance.
  if (states.empty()) states.push_back(json::object{{"avg_spec_accept_length", nullptr}});
  out["internal_states"] = std::move(states);
  out["prefill"] = std::move(prefill);
  out["decode"] = std::move(decode);
  return out;
}

struct JoinedReplies {
  explicit JoinedReplies(const std::vector<WorkerReply>& replies) {
    for (const WorkerReply& reply : replies) {
      worst = std::max(worst, reply.status);
      const auto said = http::parse_object(reply.body);
      const json::value* success = said ? http::find_field(*said, "success") : nullptr;
      says_success = says_success || (success != nullptr && success->is_bool() && success->as_bool());
      list += fmt::format("{}{{\"url\":{},\"status\":{},\"reply\":{}}}", list.empty() ? "" : ",",
                          http::json_string("http://" + reply.worker.url.authority()), reply.status,
                          said ? json::serialize(*said) : "null");
    }
    if (replies.empty()) worst = 503;
  }
  int worst = 200;
  bool says_success = false;  // any of them
  std::string list;           // of JSON objects
};

constexpr const char* kDraining = "the router is shutting down: it finishes what it has begun and takes nothing new";

}  // namespace

class Router::Impl {
 public:
  explicit Impl(RouterOptions options)
      : options_(std::move(options)),
        access_{options_.api_key, http::is_loopback(options_.http.host), options_.http.allowed_origins,
                options_.root_path},
        registry_({.silence_max = options_.health_timeout},
                  PairPolicy(options_.prefill_policy, options_.decode_policy, entropy())),
        client_(1),
        pool_(kTextThreads) {}

  ~Impl() {
    probe_.reset();
    if (server_) server_->stop();
    pool_.stop();
  }

  Status start() {
    for (const WorkerAddress& worker : options_.workers) BATON_TRY(registry_.add(worker));
    http::HttpServerOptions http = options_.http;
    http.check_head = [this](const http::HttpRequest& head) { return http::admit(table(), head, access_).refusal; };
    auto server =
        http::HttpServer::start(http, [this](http::HttpRequest request, std::shared_ptr<http::ResponseWriter> writer) {
          handle(std::make_shared<Exchange>(std::move(request), std::move(writer)));
        });
    if (!server) return server.error();
    server_ = std::move(*server);
    probe_ = std::make_unique<WorkerProbe>(
        WorkerProbe::Options{std::min(options_.health_interval, options_.health_timeout / 4), options_.health_timeout,
                             options_.api_key},
        registry_, calls_, client_, clock_);
    return {};
  }

  [[nodiscard]] int port() const { return server_->port(); }

  void drain() {
    draining_ = true;
    server_->drain();
  }
  [[nodiscard]] size_t in_flight() const { return server_->in_flight(); }
  void end_calls() { calls_.end_all(error(ErrorCode::kUnavailable, "the router is shutting down")); }

  Status wait_ready(Duration timeout) { return probe_->wait_ready(timeout); }

  using Handler = void (Impl::*)(Exchange);
  static const std::vector<http::Route<Handler>>& table() {
    constexpr bool kOpen = true, kKeyed = false, kChanges = true;
    using I = Impl;
    static const std::vector<http::Route<Handler>> routes = {
        {"POST", "/generate", &I::pd},
        {"PUT", "/generate", &I::pd},
        {"POST", "/v1/completions", &I::pd},
        {"POST", "/v1/chat/completions", &I::pd},
        {"POST", "/invocations", &I::pd},
        {"GET", "/health", &I::health, kOpen},
        {"GET", "/ping", &I::health, kOpen},
        {"POST", "/ping", &I::health, kOpen},
        {"GET", "/liveness", &I::health, kOpen},
        {"GET", "/readiness", &I::health, kOpen},
        {"GET", "/health_generate", &I::every_worker, kKeyed, kChanges},
        {"POST", "/health_generate", &I::every_worker},
        {"GET", "/flush_cache", &I::every_worker, kKeyed, kChanges},
        {"POST", "/flush_cache", &I::every_worker},
        {"POST", "/reset_prefix_cache", &I::every_worker},
        {"POST", "/abort_request", &I::abort_request},
        {"POST", "/pause_generation", &I::every_worker},
        {"POST", "/continue_generation", &I::every_worker},
        {"POST", "/pause", &I::pause},
        {"POST", "/resume", &I::alike_on_every_worker},
        {"GET", "/is_paused", &I::is_paused},
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
        {"GET", "/get_load", &I::every_load},
        {"GET", "/v1/loads", &I::every_load},
        {"GET", "/get_loads", &I::every_load},
        {"GET", "/load", &I::load},
        {"GET", "/get_weight_version", &I::one_worker},
        {"GET", "/weight_version", &I::one_worker},
        {"POST", "/update_weight_version", &I::alike_on_every_worker},
        {"POST", "/start_profile", &I::every_worker},
        {"POST", "/stop_profile", &I::every_worker},
        {"POST", "/configure_logging", &I::every_worker},
        {"GET", "/version", &I::version, kOpen},
        {"GET", "/metrics", &I::metrics, kOpen},
        {"GET", "/engine_metrics", &I::engine_metrics, kOpen},
        {"GET", "/workers", &I::list_workers},
        {"POST", "/workers", &I::add_worker},
        {"DELETE", "/workers", &I::remove_worker},
        {"GET", "/workers/*", &I::show_worker},
        {"PUT", "/workers/*", &I::update_worker},
        {"DELETE", "/workers/*", &I::remove_worker},
        {"GET", "/list_workers", &I::list_worker_urls},
        {"POST", "/add_worker", &I::add_worker_url},
        {"POST", "/remove_worker", &I::remove_worker_url},
        {"POST", "/register", &I::add_worker},
    };
    return routes;
  }

 private:
  void handle(const std::shared_ptr<Exchange>& x) {
    auto [route, path, refusal] = http::admit(table(), x->request, access_);
    if (refusal) return x->refuse(*refusal);
    x->request.path = std::move(path);
    const size_t bytes = x->request.body.size();
    if (bytes == 0) return (this->*route->handler)(std::move(*x));
    // What a client put into a body may take long to read, and I/O threads have streams to pass on meanwhile.
    const bool queued = pool_.submit(bytes, [this, x, handler = route->handler] {
      if (!x->writer->client_left()) (this->*handler)(std::move(*x));
    });
    if (!queued) x->refuse(503, "too many requests wait to be read; try again");
  }

  void pd(Exchange x) {
    if (draining_) return x.refuse(503, kDraining);
    start_pd_call({registry_, calls_, client_, clock_, metrics_, names_, options_.request_timeout}, std::move(x));
  }

  void health(Exchange x) {
    // A router that drains is alive, and must not be killed for it.
    if (draining_) return x.request.path == "/liveness" ? x.reply("{\"status\":\"ok\"}") : x.refuse(503, kDraining);
    // Like sglang-router: without a worker it is well, and has nothing to serve with.
    const bool empty = x.request.path != "/readiness" && registry_.view().empty();
    if (empty || registry_.can_serve()) return x.reply("{\"status\":\"ok\"}");
    std::string list;
    for (const WorkerView& view : registry_.view()) list += (list.empty() ? "" : ",") + worker_json(view);
    x.headers.emplace_back("Retry-After", "1");
    x.reply(fmt::format("{{\"status\":\"no pair of instances can serve\",\"workers\":[{}]}}", list), 503);
  }

  void version(Exchange x) { x.reply(fmt::format("{{\"version\":{}}}", http::json_string(options_.version))); }

  [[nodiscard]] std::vector<WorkerView> healthy_workers() const {
    std::vector<WorkerView> out = registry_.view();
    std::erase_if(out, [](const WorkerView& view) { return !view.healthy; });
    return out;
  }

  void one_worker(Exchange x) {
    std::vector<WorkerView> workers = healthy_workers();
    std::erase_if(workers, [](const WorkerView& w) { return w.address.role != engine::Role::kDecode; });
    if (workers.empty()) return x.refuse(503, "no decode instance is healthy");
    fan_out(
        client_, calls_, {workers.front()}, std::move(x), [](const Exchange& asked, std::vector<WorkerReply> replies) {
          http::Headers headers = asked.headers;
          headers.emplace_back("Content-Type", asked.request.path == "/plan" ? http::kPlainText : "application/json");
          asked.writer->send(replies.front().status, std::move(headers), std::move(replies.front().body));
        });
  }

  void every_worker(Exchange x) {
    fan_out(client_, calls_, healthy_workers(), std::move(x),
            [](const Exchange& asked, std::vector<WorkerReply> replies) {
              const JoinedReplies all(replies);
              asked.reply(fmt::format("{{\"success\":{},\"workers\":[{}]}}", all.worst == 200, all.list), all.worst);
            });
  }

  // What one says stands for all, if all agree.
  void alike_on_every_worker(Exchange x) { alike_on_every_worker(std::move(x), std::chrono::seconds(60)); }
  void alike_on_every_worker(Exchange x, std::chrono::milliseconds patience) {
    fan_out(
        client_, calls_, healthy_workers(), std::move(x),
        [](const Exchange& asked, std::vector<WorkerReply> replies) {
          const JoinedReplies all(replies);
          if (all.worst == 200) return asked.reply(std::move(replies.front().body));
          asked.reply(fmt::format("{{\"success\":false,\"workers\":[{}]}}", all.list), all.worst);
        },
        patience);
  }

  // vLLM's, which may wait for what runs; a worker that is lost meanwhile is not waited for.
  void pause(Exchange x) { alike_on_every_worker(std::move(x), std::chrono::hours(24)); }

  // One that is paused keeps every request from its end, or from its beginning.
  void is_paused(Exchange x) {
    fan_out(client_, calls_, healthy_workers(), std::move(x),
            [](const Exchange& asked, std::vector<WorkerReply> replies) {
              bool any = false;
              for (const WorkerReply& reply : replies) {
                const auto said = http::parse_object(reply.body);
                const json::value* paused = said ? http::find_field(*said, "is_paused") : nullptr;
                any = any || (paused != nullptr && paused->is_bool() && paused->as_bool());
              }
              const JoinedReplies all(replies);
              if (all.worst == 200) return asked.reply(fmt::format("{{\"is_paused\":{}}}", any));
              asked.reply(fmt::format("{{\"success\":false,\"workers\":[{}]}}", all.list), all.worst);
            });
  }

  // Either leg of a request may have ended, so it is enough that one instance knew it.
  void abort_request(Exchange x) {
    fan_out(client_, calls_, healthy_workers(), std::move(x),
            [](const Exchange& asked, std::vector<WorkerReply> replies) {
              const JoinedReplies all(replies);
              const bool success = all.worst == 200 && all.says_success;
              const char* why =
                  success || all.worst != 200 ? "" : ",\"message\":\"no worker has a request or call of this name\"";
              asked.reply(fmt::format("{{\"success\":{}{},\"workers\":[{}]}}", success, why, all.list), all.worst);
            });
  }

  void every_load(Exchange x) {
    const bool of_workers = x.request.path == "/get_loads";
    if (of_workers) x.request.path = "/v1/loads";
    fan_out(client_, calls_, of_workers ? registry_.view() : healthy_workers(), std::move(x),
            [version = options_.version, of_workers](const Exchange& asked, std::vector<WorkerReply> replies) {
              if (of_workers) return asked.reply(loads_of_workers(replies));
              asked.reply(asked.request.path == "/v1/loads" ? loads_in_all(replies, version) : loads_of_ranks(replies));
            });
  }

  // vLLM's: how many requests are under way.
  void load(Exchange x) {
    uint64_t sum = 0;
    for (const WorkerView& view : registry_.view()) {
      if (view.address.role == engine::Role::kDecode) sum += view.outstanding;
    }
    x.reply(fmt::format("{{\"server_load\":{}}}", sum));
  }

  void server_info(Exchange x) {
    fan_out(client_, calls_, healthy_workers(), std::move(x),
            [version = options_.version](const Exchange& asked, std::vector<WorkerReply> replies) {
              asked.reply(json::serialize(joined_info(replies, version)));
            });
  }

  void engine_metrics(Exchange x) {
    x.request.path = "/metrics";
    fan_out(client_, calls_, healthy_workers(), std::move(x),
            [](const Exchange& asked, std::vector<WorkerReply> replies) {
              asked.reply_text(http::kPrometheusText,
                               http::render_exposition(labelled_metrics(pages_of(std::move(replies)))));
            });
  }

  // The router's own, and sums of its workers'. Who answers late is not waited for: what it said last counts.
  void metrics(Exchange x) {
    constexpr std::chrono::seconds kPatience{1};
    fan_out(
        client_, calls_, healthy_workers(), std::move(x),
        [this](const Exchange& asked, std::vector<WorkerReply> replies) {
          const auto pages = last_pages_.update(std::move(replies));
          asked.reply_text(http::kPrometheusText,
                           metrics_.render(registry_.view()) + http::render_exposition(summed_metrics(pages)));
        },
        kPatience);
  }

  void list_workers(Exchange x) { worker_api_.list(x); }
  void show_worker(Exchange x) { worker_api_.show(x); }
  void add_worker(Exchange x) { worker_api_.add(std::move(x)); }
  void remove_worker(Exchange x) { worker_api_.remove(x); }
  void update_worker(Exchange x) { worker_api_.update(x); }
  void list_worker_urls(Exchange x) { worker_api_.list_urls(x); }
  void add_worker_url(Exchange x) { worker_api_.add_url(std::move(x)); }
  void remove_worker_url(Exchange x) { worker_api_.remove_url(x); }

  static constexpr int kTextThreads = 2;
  const RouterOptions options_;
  const http::Access access_;
  SteadyClock clock_;
  RouterMetrics metrics_;
  WorkerRegistry registry_;
  std::atomic<bool> draining_{false};
  OpenCalls calls_;
  http::LiveNames names_;  // of the calls that run
  WorkerApi worker_api_{registry_, calls_, client_, options_.api_key};
  LastPages last_pages_;
  std::unique_ptr<http::HttpServer> server_;
  http::HttpClient client_;  // destroyed before the server: its calls end and let go of their writers
  http::WorkPool pool_;
  std::unique_ptr<WorkerProbe> probe_;
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
void Router::drain() { impl_->drain(); }
size_t Router::in_flight() const { return impl_->in_flight(); }
void Router::end_calls() { impl_->end_calls(); }
std::vector<std::string> Router::routes() { return http::route_names(Impl::table()); }

}  // namespace baton::router
