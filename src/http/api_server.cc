#include "http/api_server.h"

#include <openssl/crypto.h>

#include <cmath>

#include "http/api_error.h"
#include "http/generation.h"
#include "http/json.h"

namespace baton {
namespace json = boost::json;

struct ApiServer::Exchange {
  HttpRequest request;
  std::shared_ptr<ResponseWriter> writer;
  Headers headers;  // x-request-id, if the client sent one
  Ready ready;

  void reply(std::string body) { send_json(*writer, 200, std::move(body), headers); }
  void refuse(int status, const std::string& message) { send_error(*writer, status, message, headers); }
  void refuse(const Error& failure) { send_error(*writer, failure, headers); }
};

const std::vector<ApiServer::RouteEntry>& ApiServer::table() {
  constexpr bool kOpen = true, kGuarded = false;
  using S = ApiServer;
  static const std::vector<RouteEntry> entries = {
      {"GET", "/health", &S::health, kOpen},
      {"GET", "/ping", &S::health, kOpen},
      {"GET", "/liveness", &S::health, kOpen},
      {"GET", "/readiness", &S::readiness, kOpen},
      {"GET", "/metrics", &S::metrics, kOpen},
      {"GET", "/prometheus/metrics", &S::metrics, kOpen},
      {"GET", "/version", &S::version, kOpen},
      {"GET", "/health_generate", &S::health_generate, kGuarded},
      {"POST", "/health_generate", &S::health_generate, kGuarded},
      {"POST", "/generate", &S::generate, kGuarded},
      {"PUT", "/generate", &S::generate, kGuarded},
      {"POST", "/v1/completions", &S::completions, kGuarded},
      {"POST", "/v1/chat/completions", &S::chat, kGuarded},
      {"GET", "/v1/models", &S::models, kGuarded},
      {"GET", "/v1/models/*", &S::models, kGuarded},
      {"GET", "/get_model_info", &S::model_info, kGuarded},
      {"GET", "/model_info", &S::model_info, kGuarded},
      {"GET", "/get_server_info", &S::server_info, kGuarded},
      {"GET", "/server_info", &S::server_info, kGuarded},
      {"GET", "/get_load", &S::load, kGuarded},
      {"GET", "/v1/loads", &S::load, kGuarded},
      {"POST", "/tokenize", &S::tokenize, kGuarded},
      {"POST", "/v1/tokenize", &S::tokenize, kGuarded},
      {"POST", "/detokenize", &S::detokenize, kGuarded},
      {"POST", "/v1/detokenize", &S::detokenize, kGuarded},
      {"GET", "/tokenizer_info", &S::tokenizer_info, kGuarded},
      {"POST", "/flush_cache", &S::flush_cache, kGuarded},
      {"GET", "/flush_cache", &S::flush_cache, kGuarded},
      {"POST", "/abort_request", &S::abort_request, kGuarded},
      {"POST", "/pair", &S::pair, kGuarded},
      {"GET", "/plan", &S::plan, kGuarded},
      {"POST", "/v1/embeddings", &S::unsupported, kGuarded},
      {"POST", "/v1/responses", &S::unsupported, kGuarded},
      {"POST", "/v1/score", &S::unsupported, kGuarded},
      {"POST", "/v1/rerank", &S::unsupported, kGuarded},
      {"POST", "/v1/messages", &S::unsupported, kGuarded},
      {"POST", "/load_lora_adapter", &S::unsupported, kGuarded},
      {"POST", "/update_weights_from_disk", &S::unsupported, kGuarded},
      {"POST", "/start_profile", &S::unsupported, kGuarded},
      {"POST", "/stop_profile", &S::unsupported, kGuarded},
  };
  return entries;
}

std::vector<std::string> ApiServer::routes() {
  std::vector<std::string> names;
  for (const RouteEntry& entry : table()) names.push_back(fmt::format("{} {}", entry.method, entry.path));
  return names;
}

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

void ApiServer::set_stopping() { stopping_.store(true); }

bool ApiServer::authorized(const HttpRequest& request) const {
  if (options_.api_key.empty()) return true;
  const std::string_view given = find_header(request.headers, "authorization");
  const std::string wanted = "Bearer " + options_.api_key;
  // Constant time in the key's bytes, so that its prefix cannot be guessed by timing.
  return given.size() == wanted.size() && CRYPTO_memcmp(given.data(), wanted.data(), wanted.size()) == 0;
}

void ApiServer::handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
  Exchange x{std::move(request), std::move(writer), {}, {}};
  if (const auto id = find_header(x.request.headers, "x-request-id"); !id.empty())
    x.headers.emplace_back("x-request-id", std::string(id));
  const RouteEntry* found = nullptr;
  bool path_known = false;
  for (const RouteEntry& entry : table()) {
    const std::string_view path = entry.path;
    const bool prefix = path.ends_with('*');
    const bool matches = prefix ? x.request.path.starts_with(path.substr(0, path.size() - 1)) : x.request.path == path;
    if (!matches) continue;
    path_known = true;
    if (x.request.method == entry.method || (x.request.method == "HEAD" && std::string_view(entry.method) == "GET")) {
      found = &entry;
      break;
    }
  }
  if (found == nullptr) {
    const std::string what = fmt::format("{} {}", x.request.method, x.request.path);
    return path_known ? x.refuse(405, what + ": this path does not take that method")
                      : x.refuse(404, what + ": no such endpoint");
  }
  if (!found->open && !authorized(x.request)) {
    return x.refuse(401, "missing or wrong API key; send the header Authorization: Bearer KEY");
  }
  const Ready* ready = ready_.load();
  if (ready != nullptr) x.ready = *ready;
  const bool needs_engine = found->route != &ApiServer::health && found->route != &ApiServer::version &&
                            found->route != &ApiServer::readiness;
  if (needs_engine && ready == nullptr) {
    std::lock_guard lock(mutex_);
    return x.refuse(
        503, fmt::format("still loading ({}, {} of {} bytes)", progress_.phase, progress_.done, progress_.total));
  }
  if (stopping_ && !found->open) return x.refuse(503, "the server is shutting down");
  (this->*found->route)(x);
}

void ApiServer::health(Exchange& x) {
  if (x.ready.engine != nullptr && !stopping_) return x.reply("{\"status\":\"ok\"}");
  if (stopping_) return x.refuse(503, "the server is shutting down");
  std::lock_guard lock(mutex_);
  send_json(*x.writer, 503,
            fmt::format("{{\"status\":\"loading\",\"phase\":{},\"done\":{},\"total\":{}}}",
                        json_string(progress_.phase), progress_.done, progress_.total),
            x.headers);
}

// 200 only if work moves or none waits (L8).
void ApiServer::readiness(Exchange& x) {
  if (x.ready.engine == nullptr || stopping_) return health(x);
  if (x.ready.engine->healthy()) return x.reply("{\"status\":\"ready\"}");
  x.refuse(503, "requests wait and no step has finished lately");
}

// One token through the whole engine; on a prefill or decode instance with a fake transfer.
void ApiServer::health_generate(Exchange& x) {
  const bool pd = x.ready.engine->info().role != Role::kUnified;
  const std::string body =
      fmt::format("{{\"input_ids\":[0],\"sampling_params\":{{\"max_new_tokens\":1,\"temperature\":0}}{}}}",
                  pd ? ",\"bootstrap_host\":\"2.2.2.2\",\"bootstrap_room\":0" : "");
  x.request.body = body;
  generate(x);
}

void ApiServer::metrics(Exchange& x) {
  x.headers.emplace_back("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
  x.writer->send(200, x.headers, x.ready.metrics->render(x.ready.engine->stats(), x.ready.engine->info()));
}

void ApiServer::version(Exchange& x) { x.reply(fmt::format("{{\"version\":{}}}", json_string(options_.version))); }

void ApiServer::models(Exchange& x) {
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

void ApiServer::model_info(Exchange& x) {
  const ModelText& model = *x.ready.model;
  x.reply(fmt::format(
      "{{\"model_path\":{0},\"tokenizer_path\":{0},\"is_generation\":true,\"served_model_name\":{1},\"model_type\":{2},"
      "\"architectures\":[{3}],\"preferred_sampling_params\":null,\"weight_version\":\"default\",\"max_model_len\":{4}}"
      "}",
      json_string(model.model_path), json_string(model.served_name), json_string(model.model_type),
      json_string(model.architecture), model.context_length));
}

void ApiServer::server_info(Exchange& x) {
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

void ApiServer::load(Exchange& x) {
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

void ApiServer::call(Exchange& x, ApiKind kind) {
  auto parsed = parse_api_request(kind, x.request.body, *x.ready.model, x.ready.engine->info().role);
  if (!parsed) return x.refuse(parsed.error());
  start_generation(std::move(*parsed), *x.ready.model, *x.ready.engine, *x.ready.metrics, x.writer, x.headers);
}
void ApiServer::generate(Exchange& x) { call(x, ApiKind::kGenerate); }
void ApiServer::completions(Exchange& x) { call(x, ApiKind::kCompletion); }
void ApiServer::chat(Exchange& x) { call(x, ApiKind::kChat); }

// {"prompt": text, "add_special_tokens": true} -> {"tokens": [...], "count", "max_model_len"}; "text" for "prompt" too.
void ApiServer::tokenize(Exchange& x) {
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
  std::string list;
  for (const int32_t id : ids) list += fmt::format("{}{}", list.empty() ? "" : ",", id);
  x.reply(fmt::format("{{\"tokens\":[{}],\"count\":{},\"max_model_len\":{}}}", list, ids.size(), model.context_length));
}

void ApiServer::detokenize(Exchange& x) {
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

void ApiServer::tokenizer_info(Exchange& x) {
  const ModelText& model = *x.ready.model;
  x.reply(fmt::format(
      "{{\"name_or_path\":{},\"vocab_size\":{},\"bos_token\":{},\"eos_token\":{},\"chat_template\":{},\"max_model_"
      "len\":{}}}",
      json_string(model.model_path), model.vocab, json_string(model.bos_token), json_string(model.eos_token),
      model.chat_template ? json_string(model.chat_template->source()) : "null", model.context_length));
}

void ApiServer::flush_cache(Exchange& x) {
  const Status flushed = x.ready.engine->flush_cache();
  // SGLang answers 400 while requests run.
  if (!flushed) return x.refuse(400, flushed.error().message);
  x.reply("{\"success\":true,\"message\":\"cache flushed\"}");
}

void ApiServer::abort_request(Exchange& x) {
  auto body = parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  auto all = bool_field(*body, "abort_all");
  auto rid = string_field(*body, "rid");
  if (!all || !rid) return x.refuse(!all ? all.error() : rid.error());
  if (all->value_or(false)) {
    x.ready.engine->abort_all();
  } else if (*rid) {
    x.ready.engine->abort(**rid);
  } else {
    return x.refuse(400, "give rid, or abort_all true");
  }
  x.reply("{\"success\":true}");
}

// Decode: {"bootstrap_host", "bootstrap_port"}. Meets the prefill instance now; 409 says why the two cannot work
// together.
void ApiServer::pair(Exchange& x) {
  if (x.ready.engine->info().role != Role::kDecode)
    return x.refuse(400, "only a decode instance pairs; ask one of those");
  auto body = parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  auto host = string_field(*body, "bootstrap_host");
  auto port = int_field(*body, "bootstrap_port", 1, 65535);
  if (!host || !port) return x.refuse(!host ? host.error() : port.error());
  if (!*host || !*port) return x.refuse(400, "bootstrap_host and bootstrap_port: both are needed");
  x.ready.engine->pair(**host, static_cast<int>(**port), [writer = x.writer, headers = x.headers](const Status& met) {
    if (met) {
      send_json(*writer, 200, "{\"paired\":true}", headers);
    } else {
      send_error(*writer, met.error(), headers);
    }
  });
}

void ApiServer::plan(Exchange& x) {
  x.headers.emplace_back("Content-Type", "text/plain; charset=utf-8");
  x.writer->send(200, x.headers, x.ready.engine->describe_pairs());
}

void ApiServer::unsupported(Exchange& x) {
  x.refuse(501, fmt::format("{}: this server does not have that", x.request.path));
}

}  // namespace baton
