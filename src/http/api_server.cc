#include "http/api_server.h"

#include <cmath>

#include "base/log.h"
#include "http/generation.h"
#include "http/json.h"

namespace baton {
namespace json = boost::json;
namespace {

constexpr const char* kDraining = "the server is shutting down: it finishes what it has begun and takes nothing new";

}  // namespace

const std::vector<Route<ApiServer::Handler>>& ApiServer::table() {
  constexpr bool kOpen = true;
  using S = ApiServer;
  static const std::vector<Route<Handler>> routes = {
      {"GET", "/health", &S::health, kOpen},
      {"GET", "/ping", &S::health, kOpen},
      {"GET", "/liveness", &S::health, kOpen},
      {"GET", "/readiness", &S::readiness, kOpen},
      {"GET", "/metrics", &S::metrics, kOpen},
      {"GET", "/prometheus/metrics", &S::metrics, kOpen},
      {"GET", "/version", &S::version, kOpen},
      {"GET", "/health_generate", &S::health_generate},
      {"POST", "/health_generate", &S::health_generate},
      {"POST", "/generate", &S::generate},
      {"PUT", "/generate", &S::generate},
      {"POST", "/v1/completions", &S::completions},
      {"POST", "/v1/chat/completions", &S::chat},
      {"GET", "/v1/models", &S::models},
      {"GET", "/v1/models/*", &S::models},
      {"GET", "/get_model_info", &S::model_info},
      {"GET", "/model_info", &S::model_info},
      {"GET", "/get_server_info", &S::server_info},
      {"GET", "/server_info", &S::server_info},
      {"GET", "/get_load", &S::load},
      {"GET", "/v1/loads", &S::load},
      {"POST", "/tokenize", &S::tokenize},
      {"POST", "/v1/tokenize", &S::tokenize},
      {"POST", "/detokenize", &S::detokenize},
      {"POST", "/v1/detokenize", &S::detokenize},
      {"GET", "/tokenizer_info", &S::tokenizer_info},
      {"POST", "/flush_cache", &S::flush_cache},
      {"GET", "/flush_cache", &S::flush_cache},
      {"POST", "/abort_request", &S::abort_request},
      {"POST", "/pair", &S::pair},
      {"GET", "/plan", &S::plan},
      {"POST", "/start_profile", &S::start_profile},
      {"POST", "/stop_profile", &S::stop_profile},
      {"POST", "/configure_logging", &S::configure_logging},
  };
  return routes;
}

std::vector<std::string> ApiServer::routes() { return route_names(table()); }

ApiServer::ApiServer(Options options) : options_(std::move(options)) {}
ApiServer::~ApiServer() = default;

void ApiServer::set_progress(LoadProgress progress) {
  std::lock_guard lock(mutex_);
  progress_ = std::move(progress);
}

void ApiServer::set_ready(Engine& engine, const ModelText& model, Metrics& metrics) {
  ready_storage_ = std::make_unique<Ready>(Ready{&engine, &model, &metrics});
  ready_.store(ready_storage_.get());
}

void ApiServer::set_draining() { draining_.store(true); }

void ApiServer::handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
  Call x(std::move(request), std::move(writer));
  const Route<Handler>* found = find_route(table(), x, options_.api_key);
  if (found == nullptr) return;
  const Ready* ready = ready_.load();
  if (ready != nullptr) x.ready = *ready;
  const bool needs_engine = found->handler != &ApiServer::health && found->handler != &ApiServer::version &&
                            found->handler != &ApiServer::readiness;
  if (needs_engine && ready == nullptr) {
    std::lock_guard lock(mutex_);
    return x.refuse(
        503, fmt::format("still loading ({}, {} of {} bytes)", progress_.phase, progress_.done, progress_.total));
  }
  const auto is_work = [&](Handler h) { return found->handler == h; };
  if (draining_ && (is_work(&ApiServer::generate) || is_work(&ApiServer::completions) || is_work(&ApiServer::chat) ||
                    is_work(&ApiServer::health_generate) || is_work(&ApiServer::pair)))
    return x.refuse(503, kDraining);
  (this->*found->handler)(x);
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
  const bool pd = x.ready.engine->info().role != Role::kUnified;
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
  // A name that is an absolute path lost its first slash with the doubled ones.
  const auto names = [&](const std::string& name) { return id == name || "/" + id == name; };
  if (names(model.served_name) || names(model.model_path)) return x.reply(card);
  x.refuse(404, fmt::format("the model '{}' does not exist here; this server serves '{}'", id, model.served_name));
}

void ApiServer::model_info(Call& x) {
  const ModelText& model = *x.ready.model;
  x.reply(fmt::format(
      "{{\"model_path\":{0},\"tokenizer_path\":{0},\"is_generation\":true,\"served_model_name\":{1},\"model_type\":{2},"
      "\"architectures\":[{3}],\"preferred_sampling_params\":null,\"weight_version\":\"default\",\"max_model_len\":{4},"
      "\"dp_size\":{5},\"version\":{6}}}",
      json_string(model.model_path), json_string(model.served_name), json_string(model.model_type),
      json_string(model.architecture), model.context_length, x.ready.engine->info().layout.dp,
      json_string(options_.version)));
}

void ApiServer::server_info(Call& x) {
  const InstanceInfo& info = x.ready.engine->info();
  const EngineStats stats = x.ready.engine->stats();
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
  out["disaggregation_mode"] = info.role == Role::kUnified ? "null" : role_name(info.role);
  out["disaggregation_transfer_backend"] = info.transfer_backend;
  out["disaggregation_bootstrap_port"] = info.bootstrap_port;
  out["version"] = options_.version;
  out["status"] = "ready";
  json::array states;
  for (size_t dp = 0; dp < stats.pages.size(); ++dp) {
    const EngineStats::Pages& p = stats.pages[dp];
    states.push_back(json::object{{"dp_rank", dp},
                                  {"last_gen_throughput", stats.generation_tokens_per_s},
                                  {"avg_spec_accept_length", nullptr},
                                  {"pages", json::object{{"free", p.free},
                                                         {"owned", p.owned},
                                                         {"granted", p.granted},
                                                         {"quarantined", p.quarantined},
                                                         {"cached", p.cached}}}});
  }
  out["internal_states"] = std::move(states);
  x.reply(json::serialize(out));
}

void ApiServer::load(Call& x) {
  const EngineStats stats = x.ready.engine->stats();
  const InstanceInfo& info = x.ready.engine->info();
  int used = 0;
  for (const EngineStats::Pages& p : stats.pages) used += p.owned + p.granted + p.quarantined;
  const bool list = x.request.path == "/v1/loads";
  const std::string entry =
      fmt::format("{{\"dp_rank\":0,\"num_reqs\":{},\"num_running_reqs\":{},\"num_waiting_reqs\":{},\"num_tokens\":{}}}",
                  stats.running + stats.waiting + stats.waiting_grant + stats.transferring, stats.running,
                  stats.waiting + stats.waiting_grant, static_cast<int64_t>(used) * info.page_tokens);
  x.reply(list ? fmt::format("{{\"loads\":[{}]}}", entry) : "[" + entry + "]");
}

void ApiServer::run(Call& x, ApiKind kind) {
  auto parsed = parse_api_request(kind, x.request.body, *x.ready.model, x.ready.engine->info().role);
  if (!parsed) return x.refuse(parsed.error());
  if (log_requests_) {
    log_info("{} {}: {} sequences, the first with {} prompt tokens and at most {} new ones", x.request.path, parsed->id,
             parsed->choices.size(), parsed->choices.front().engine.prompt.size(),
             parsed->choices.front().engine.sampling.max_new_tokens);
  }
  start_generation(std::move(*parsed), *x.ready.model, *x.ready.engine, *x.ready.metrics, x.writer, x.headers);
}
void ApiServer::generate(Call& x) { run(x, ApiKind::kGenerate); }
void ApiServer::completions(Call& x) { run(x, ApiKind::kCompletion); }
void ApiServer::chat(Call& x) { run(x, ApiKind::kChat); }

// {"prompt": text, "add_special_tokens": true} -> {"tokens": [...], "count", "max_model_len"}; "text" for "prompt" too.
void ApiServer::tokenize(Call& x) {
  const ModelText& model = *x.ready.model;
  auto body = parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  const json::value* prompt = find_field(*body, "prompt");
  if (prompt == nullptr) prompt = find_field(*body, "text");
  if (prompt == nullptr || !prompt->is_string()) return x.refuse(400, "prompt: must be a string");
  if (!model.tokenizer) return x.refuse(501, "this server has no tokenizer");
  auto special = bool_field(*body, "add_special_tokens");
  if (!special) return x.refuse(special.error());
  const auto ids = model.tokenizer->encode(prompt->as_string(), special->value_or(true));
  if (!ids) return x.refuse(ids.error());
  std::string list;
  for (const int32_t id : *ids) list += fmt::format("{}{}", list.empty() ? "" : ",", id);
  x.reply(fmt::format("{{\"tokens\":[{}],\"count\":{},\"max_model_len\":{}}}", list, ids->size(), model.context_length));
}

void ApiServer::detokenize(Call& x) {
  const ModelText& model = *x.ready.model;
  auto body = parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  const json::value* tokens = find_field(*body, "tokens");
  if (tokens == nullptr) return x.refuse(400, "tokens: missing");
  auto ids = ids_from(*tokens, "tokens");
  if (!ids) return x.refuse(ids.error());
  if (!model.tokenizer) return x.refuse(501, "this server has no tokenizer");
  for (const int32_t id : *ids) {
    if (id >= model.vocab)
      return x.refuse(400, fmt::format("tokens: {} is not below the vocabulary's size {}", id, model.vocab));
  }
  const std::string text = model.tokenizer->decode(*ids, false);
  x.reply(fmt::format("{{\"prompt\":{0},\"text\":{0}}}", json_string(text)));
}

void ApiServer::tokenizer_info(Call& x) {
  const ModelText& model = *x.ready.model;
  x.reply(fmt::format(
      "{{\"name_or_path\":{},\"vocab_size\":{},\"bos_token\":{},\"eos_token\":{},\"chat_template\":{},\"max_model_"
      "len\":{}}}",
      json_string(model.model_path), model.vocab, json_string(model.bos_token), json_string(model.eos_token),
      model.chat_template ? json_string(model.chat_template->source()) : "null", model.context_length));
}

}  // namespace baton
