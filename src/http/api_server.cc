#include "http/api_server.h"

#include <cmath>

#include "base/log.h"
#include "http/generation.h"
#include "http/json.h"
#include "http/load_report.h"

namespace baton::http {
namespace json = boost::json;
namespace {

constexpr const char* kDraining = "the server is shutting down: it finishes what it has begun and takes nothing new";

}  // namespace

const std::vector<Route<ApiServer::Handler>>& ApiServer::table() {
  constexpr bool kOpen = true, kKeyed = false, kChanges = true;
  using S = ApiServer;
  static const std::vector<Route<Handler>> routes = {
      {"GET", "/health", &S::health, kOpen},
      {"GET", "/ping", &S::health, kOpen},
      {"POST", "/ping", &S::health, kOpen},
      {"GET", "/liveness", &S::health, kOpen},
      {"GET", "/readiness", &S::readiness, kOpen},
      {"GET", "/metrics", &S::metrics, kOpen},
      {"GET", "/prometheus/metrics", &S::metrics, kOpen},
      {"GET", "/version", &S::version, kOpen},
      {"GET", "/health_generate", &S::health_generate, kKeyed, kChanges},
      {"POST", "/health_generate", &S::health_generate},
      {"POST", "/generate", &S::generate},
      {"PUT", "/generate", &S::generate},
      {"POST", "/v1/completions", &S::completions},
      {"POST", "/v1/chat/completions", &S::chat},
      {"POST", "/invocations", &S::invocations},
      {"GET", "/v1/models", &S::models},
      {"GET", "/v1/models/*", &S::models},
      {"GET", "/get_model_info", &S::model_info},
      {"GET", "/model_info", &S::model_info},
      {"GET", "/get_server_info", &S::server_info},
      {"GET", "/server_info", &S::server_info},
      {"GET", "/get_load", &S::load},
      {"GET", "/v1/loads", &S::load},
      {"GET", "/load", &S::load},
      {"GET", "/get_weight_version", &S::weight_version},
      {"GET", "/weight_version", &S::weight_version},
      {"POST", "/update_weight_version", &S::update_weight_version},
      {"POST", "/tokenize", &S::tokenize},
      {"POST", "/v1/tokenize", &S::tokenize},
      {"POST", "/detokenize", &S::detokenize},
      {"POST", "/v1/detokenize", &S::detokenize},
      {"GET", "/tokenizer_info", &S::tokenizer_info},
      {"POST", "/flush_cache", &S::flush_cache},
      {"GET", "/flush_cache", &S::flush_cache, kKeyed, kChanges},
      {"POST", "/reset_prefix_cache", &S::flush_cache},
      {"POST", "/abort_request", &S::abort_request},
      {"POST", "/pause_generation", &S::pause_generation},
      {"POST", "/continue_generation", &S::continue_generation},
      {"POST", "/pause", &S::pause},
      {"POST", "/resume", &S::resume},
      {"GET", "/is_paused", &S::is_paused},
      {"POST", "/pair", &S::pair},
      {"GET", "/plan", &S::plan},
      {"POST", "/start_profile", &S::start_profile},
      {"POST", "/stop_profile", &S::stop_profile},
      {"POST", "/configure_logging", &S::configure_logging},
  };
  return routes;
}

std::vector<std::string> ApiServer::routes() { return route_names(table()); }

ApiServer::ApiServer(Options options)
    : options_(std::move(options)),
      access_{options_.api_key, options_.loopback, options_.allowed_origins, options_.root_path},
      log_requests_(options_.log_requests),
      log_requests_level_(options_.log_requests_level),
      pool_(options_.text_threads) {}
ApiServer::~ApiServer() = default;

void ApiServer::set_progress(LoadProgress progress) {
  std::lock_guard lock(mutex_);
  progress_ = std::move(progress);
}

void ApiServer::set_ready(engine::Engine& engine, const ModelText& model, Metrics& metrics) {
  ready_storage_ = std::make_unique<Ready>(Ready{&engine, &model, &metrics});
  ready_.store(ready_storage_.get());
}

void ApiServer::set_draining() { draining_.store(true); }

void ApiServer::stop() {
  stopping_text_.request_stop();
  pool_.stop();
}

Admission<ApiServer::Handler> ApiServer::admission(const HttpRequest& head) const {
  auto found = admit(table(), head, access_);
  if (found.refusal) return found;
  const Handler handler = found.route->handler;
  const bool needs_engine =
      handler != &ApiServer::health && handler != &ApiServer::version && handler != &ApiServer::readiness;
  if (needs_engine && ready_.load() == nullptr) {
    std::lock_guard lock(mutex_);
    return {nullptr, found.path,
            refusal_of(
                head, 503,
                fmt::format("still loading ({}, {} of {} bytes)", progress_.phase, progress_.done, progress_.total))};
  }
  const bool is_work = handler == &ApiServer::generate || handler == &ApiServer::completions ||
                       handler == &ApiServer::chat || handler == &ApiServer::invocations ||
                       handler == &ApiServer::health_generate || handler == &ApiServer::pair;
  if (draining_ && is_work) return {nullptr, found.path, refusal_of(head, 503, kDraining)};
  return found;
}

std::optional<HttpRefusal> ApiServer::check_head(const HttpRequest& head) const { return admission(head).refusal; }

void ApiServer::handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
  const auto x = std::make_shared<Call>(std::move(request), std::move(writer));
  auto [route, path, refusal] = admission(x->request);
  if (refusal) return x->refuse(*refusal);
  x->request.path = std::move(path);
  if (const Ready* ready = ready_.load()) {
    x->ready = *ready;
    x->writer = ready->metrics->http().watch(std::move(x->writer), route->path, x->request.method);
  }
  const size_t bytes = x->request.body.size();
  if (bytes == 0) return (this->*route->handler)(*x);
  // What a client put into a body may take long to read, and I/O threads have others to serve meanwhile.
  const bool queued = pool_.submit(bytes, [this, x, handler = route->handler] {
    if (!x->writer->client_left()) (this->*handler)(*x);
  });
  if (!queued) x->refuse(503, "too many requests wait to be read; try again");
}

void ApiServer::health(Call& x) {
  // An instance that drains is alive, and must not be killed for it.
  const bool well = !draining_ || x.request.path == "/liveness";
  if (x.ready.engine != nullptr && well) return x.reply("{\"status\":\"ok\"}");
  if (draining_) return x.refuse(503, kDraining);
  std::lock_guard lock(mutex_);
  x.reply(fmt::format("{{\"status\":\"loading\",\"phase\":{},\"done\":{},\"total\":{}}}", json_string(progress_.phase),
                      progress_.done, progress_.total),
          503);
}

// 200 only if work moves or nothing waits.
void ApiServer::readiness(Call& x) {
  if (x.ready.engine == nullptr || draining_) return health(x);
  if (x.ready.engine->healthy()) return x.reply("{\"status\":\"ready\"}");
  x.refuse(503, "requests wait and no step has finished lately");
}

// One token through the whole engine; on a prefill or decode instance with a fake transfer.
void ApiServer::health_generate(Call& x) {
  const bool pd = x.ready.engine->info().role != engine::Role::kUnified;
  const std::string body =
      fmt::format("{{\"input_ids\":[0],\"sampling_params\":{{\"max_new_tokens\":1,\"temperature\":0}}{}}}",
                  pd ? ",\"bootstrap_host\":\"2.2.2.2\",\"bootstrap_room\":0" : "");
  x.request.body = body;
  generate(x);
}

void ApiServer::metrics(Call& x) {
  x.reply_text(kPrometheusText, x.ready.metrics->render(x.ready.engine->stats(), x.ready.engine->info()));
}

void ApiServer::version(Call& x) { x.reply(fmt::format("{{\"version\":{}}}", json_string(options_.version))); }

void ApiServer::models(Call& x) {
  const ModelText& model = *x.ready.model;
  const std::string card = fmt::format(
      "{{\"id\":{0},\"object\":\"model\",\"created\":0,\"owned_by\":\"baton\",\"root\":{0},\"parent\":null,\"max_model_"
      "len\":{1}}}",
      json_string(model.served_name), model.context_length);
  constexpr std::string_view kPrefix = "/v1/models/";
  if (!x.request.path.starts_with(kPrefix)) return x.reply(fmt::format("{{\"object\":\"list\",\"data\":[{}]}}", card));
  const std::string id = x.request.path.substr(kPrefix.size());
  // A name that is a path lost its first slash with the doubled ones, and its last with that of the target.
  const auto names = [&](const std::string& name) { return id == bare_path(name) || "/" + id == bare_path(name); };
  if (names(model.served_name) || names(model.model_path)) return x.reply(card);
  x.refuse(404, fmt::format("the model '{}' does not exist here; this server serves '{}'", id, model.served_name));
}

void ApiServer::model_info(Call& x) {
  const ModelText& model = *x.ready.model;
  x.reply(fmt::format(
      "{{\"model_path\":{0},\"tokenizer_path\":{0},\"is_generation\":true,\"served_model_name\":{1},\"model_type\":{2},"
      "\"architectures\":[{3}],\"preferred_sampling_params\":null,\"weight_version\":{7},\"max_model_len\":{4},"
      "\"dp_size\":{5},\"version\":{6}}}",
      json_string(model.model_path), json_string(model.served_name), json_string(model.model_type),
      json_string(model.architecture), model.context_length, x.ready.engine->info().layout.dp,
      json_string(options_.version), json_string(model.weight_version->get())));
}

void ApiServer::server_info(Call& x) {
  const engine::InstanceInfo& info = x.ready.engine->info();
  const engine::EngineStats stats = x.ready.engine->stats();
  auto parsed = parse_object(options_.server_args_json);
  json::object out = parsed ? std::move(*parsed) : json::object();
  const ModelText& model = *x.ready.model;
  out["model_path"] = model.model_path;
  out["tokenizer_path"] = model.model_path;
  out["served_model_name"] = model.served_name;
  out["model_type"] = model.model_type;
  out["architectures"] = json::array{json::value(model.architecture)};
  out["is_generation"] = true;
  out["tp_size"] = info.layout.tp;
  out["dp_size"] = info.layout.dp;
  out["pp_size"] = info.layout.pp;
  out["ep_size"] = info.layout.ep;
  out["page_size"] = info.page_tokens;
  out["kv_cache_dtype"] = info.kv_dtype;
  out["max_total_num_tokens"] = info.max_total_tokens;
  out["max_req_input_len"] = info.max_model_len - 1;
  out["max_running_requests"] = info.max_running_requests;
  out["disaggregation_mode"] = info.role == engine::Role::kUnified ? "null" : engine::role_name(info.role);
  out["disaggregation_transfer_backend"] = info.transfer_backend;
  out["disaggregation_bootstrap_port"] = info.bootstrap_port;
  out["version"] = options_.version;
  out["weight_version"] = model.weight_version->get();
  out["status"] = "ready";
  out["startup_time"] = json::object{
      {"load_weight", info.load_weight_s}, {"kv_cache_allocation", info.kv_allocation_s}, {"e2e", info.startup_s}};
  // In GiB, of all ranks; SGLang's of a rank.
  constexpr double kGiB = 1024.0 * 1024 * 1024;
  const json::object memory{{"weight", static_cast<double>(info.weight_bytes) / kGiB},
                            {"kvcache", static_cast<double>(info.kv_bytes) / kGiB},
                            {"graph", 0.0},
                            {"token_capacity", int64_t{info.pages_per_group} * info.page_tokens}};
  json::array states;
  for (size_t dp = 0; dp < stats.pages.size(); ++dp) {
    const engine::EngineStats::Pages& p = stats.pages[dp];
    states.push_back(json::object{{"dp_rank", dp},
                                  {"last_gen_throughput", stats.generation_tokens_per_s},
                                  {"avg_spec_accept_length", nullptr},
                                  {"memory_usage", memory},
                                  {"pages", json::object{{"free", p.free},
                                                         {"owned", p.owned},
                                                         {"granted", p.granted},
                                                         {"quarantined", p.quarantined},
                                                         {"cached", p.cached}}}});
  }
  out["internal_states"] = std::move(states);
  x.reply(json::serialize(out));
}

void ApiServer::run(Call& x, std::optional<ApiKind> kind) {
  auto body = parse_object(x.request.body);
  std::string().swap(x.request.body);
  if (!body) return x.refuse(body.error());
  if (!kind) {
    const auto invoked = invoked_kind(*body);
    if (!invoked) return x.refuse(invoked.error());
    kind = *invoked;
  }
  auto parsed = parse_api_request(*kind, std::move(*body), *x.ready.model, x.ready.engine->info().role,
                                  stopping_text_.get_token());
  if (!parsed) return x.refuse(parsed.error());
  x.request.drop_body();
  std::shared_ptr<LiveNames::Hold> names;
  // One of a pair may still have the try before this one.
  if (x.ready.engine->info().role == engine::Role::kUnified) {
    auto claimed = live_names_.claim(*parsed);
    if (!claimed) return x.refuse(claimed.error());
    names = std::move(*claimed);
  }
  if (log_requests_) log_request(x, *parsed);
  // From here on the call lives on its connection's strand.
  const auto request = std::make_shared<ApiRequest>(std::move(*parsed));
  Headers headers = x.headers;
  if (const auto format = find_header(x.request.headers, kLoadFormatHeader); !format.empty()) {
    if (auto load = load_report(format, x.ready.engine->stats(), x.ready.engine->info()))
      headers.emplace_back(kLoadHeader, std::move(*load));
  }
  x.writer->post([request, names, ready = x.ready, writer = x.writer, headers = std::move(headers)] {
    start_generation(std::move(*request), *ready.model, *ready.engine, *ready.metrics, writer, headers, names);
  });
}
void ApiServer::generate(Call& x) { run(x, ApiKind::kGenerate); }
void ApiServer::completions(Call& x) { run(x, ApiKind::kCompletion); }
void ApiServer::chat(Call& x) { run(x, ApiKind::kChat); }
void ApiServer::invocations(Call& x) { run(x, std::nullopt); }

}  // namespace baton::http
