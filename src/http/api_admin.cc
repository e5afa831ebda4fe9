// The endpoints of an instance that look after it: cache, aborts, pairing, profiles, logging.
#include <fmt/chrono.h>

#include "base/log.h"
#include "http/api_server.h"
#include "http/json.h"
#include "http/url.h"

namespace baton::http {

using engine::EngineStats;

namespace {

// As vLLM's framework reads it.
Result<bool> query_bool(std::string_view query, const char* name, bool otherwise) {
  const std::string value = query_value(query, name);
  if (value.empty()) return otherwise;
  for (const char* yes : {"true", "1", "on", "t", "y", "yes"}) {
    if (equal_ignoring_case(value, yes)) return true;
  }
  for (const char* no : {"false", "0", "off", "f", "n", "no"}) {
    if (equal_ignoring_case(value, no)) return false;
  }
  return error(ErrorCode::kInvalidArgument, "{}: \"{}\" is neither true nor false", name, value.substr(0, 100));
}

}  // namespace

void ApiServer::flush_cache(Call& x) {
  const Status flushed = x.ready.engine->flush_cache();
  // SGLang answers 400 while requests run.
  if (!flushed) return x.refuse(400, flushed.error().message);
  x.reply("{\"success\":true,\"message\":\"cache flushed\"}");
}

// Of each DP group, and of all together: what routers of SGLang balance by. Requests that wait and may go to any group
// stand as evenly as they will be spread.
void ApiServer::load(Call& x) {
  const EngineStats stats = x.ready.engine->stats();
  const engine::InstanceInfo& info = x.ready.engine->info();
  const int waiting = stats.waiting + stats.waiting_grant;
  const int all = stats.running + waiting + stats.transferring;
  if (x.request.path == "/load") return x.reply(fmt::format("{{\"server_load\":{}}}", all));
  const int groups = static_cast<int>(stats.pages.size());
  int anywhere = waiting;
  for (const EngineStats::Pages& p : stats.pages) anywhere -= p.waiting;
  anywhere = std::max(0, anywhere);
  std::string entries;
  for (int g = 0; g < groups; ++g) {
    const EngineStats::Pages& p = stats.pages[static_cast<size_t>(g)];
    const int my_waiting = p.waiting + anywhere / groups + (g < anywhere % groups ? 1 : 0);
    const int64_t used = int64_t{p.used()} * info.page_tokens;
    const int64_t total = int64_t{info.pages_per_group} * info.page_tokens;
    entries += fmt::format(
        "{}{{\"dp_rank\":{},\"num_reqs\":{},\"num_running_reqs\":{},\"num_waiting_reqs\":{},\"num_total_reqs\":{},"
        "\"num_tokens\":{},\"num_used_tokens\":{},\"max_total_num_tokens\":{},\"token_usage\":{:.4f},"
        "\"gen_throughput\":{:.3f},\"cache_hit_rate\":{:.4f},\"max_running_requests\":{}}}",
        g == 0 ? "" : ",", g, p.sequences + my_waiting, p.sequences, my_waiting, p.sequences + my_waiting, used, used,
        total, total > 0 ? static_cast<double>(used) / static_cast<double>(total) : 0.0,
        stats.generation_tokens_per_s / groups, stats.cache_hit_rate, info.max_running_requests);
  }
  if (x.request.path == "/get_load") return x.reply("[" + entries + "]");
  x.reply(fmt::format(
      "{{\"timestamp\":\"{:%FT%TZ}\",\"version\":{},\"dp_rank_count\":{},\"loads\":[{}],\"aggregate\":{{"
      "\"total_running_reqs\":{},\"total_waiting_reqs\":{},\"total_reqs\":{}}}}}",
      fmt::gmtime(std::time(nullptr)), json_string(options_.version), groups, entries, all - waiting, waiting, all));
}

void ApiServer::weight_version(Call& x) {
  x.reply(fmt::format("{{\"weight_version\":{}}}", json_string(x.ready.model->weight_version->get())));
}

// {"new_version", "abort_all_requests"}: a name that answers and infos say; the weights stay as they are.
void ApiServer::update_weight_version(Call& x) {
  auto body = parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  auto version = string_field(*body, "new_version");
  auto abort = bool_field(*body, "abort_all_requests");
  if (!version || !abort) return x.refuse(!version ? version.error() : abort.error());
  if (!*version) return x.refuse(400, "new_version: missing");
  if ((*version)->size() > kNameBytesMax)
    return x.refuse(400, fmt::format("new_version: at most {} bytes", kNameBytesMax));
  if (abort->value_or(false)) x.ready.engine->abort_all();
  x.ready.model->weight_version->set(**version);
  x.reply(fmt::format("{{\"success\":true,\"message\":{},\"new_version\":{}}}",
                      json_string("Weight version updated to " + **version), json_string(**version)));
}

void ApiServer::abort_request(Call& x) {
  auto body = parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  auto all = bool_field(*body, "abort_all");
  auto rid = string_field(*body, "rid");
  if (!all || !rid) return x.refuse(!all ? all.error() : rid.error());
  if (all->value_or(false)) {
    x.ready.engine->abort_all();
    return x.reply("{\"success\":true}");
  }
  if (!*rid) return x.refuse(400, "give rid, or abort_all true");
  // 200 in any case, as SGLang has it: a request that has ended meanwhile is no error of whoever wants its end.
  x.ready.engine->abort(**rid, [x = Exchange(x), name = **rid](size_t ended) {
    if (ended > 0) return x.reply("{\"success\":true}");
    x.reply(fmt::format("{{\"success\":false,\"message\":{}}}",
                        json_string("no request or call of this name is waiting or running: " + name)));
  });
}

// {"mode": "abort", "retract" or "in_place"}, as SGLang has it: abort without it, and without a body.
void ApiServer::pause_generation(Call& x) {
  auto body =
      x.request.body.empty() ? Result<boost::json::object>(boost::json::object()) : parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  auto mode = string_field(*body, "mode");
  if (!mode) return x.refuse(mode.error());
  const std::string name = mode->value_or("abort");
  if (name != "abort" && name != "retract" && name != "in_place")
    return x.refuse(400, "mode: \"" + name.substr(0, 100) + "\" is none of abort, retract, in_place");
  const auto chosen = name == "abort"     ? engine::PauseMode::kAbort
                      : name == "retract" ? engine::PauseMode::kRetract
                                          : engine::PauseMode::kInPlace;
  x.ready.engine->pause(chosen, [x = Exchange(x)](const Status& paused) {
    paused ? x.reply("{\"message\":\"Generation paused successfully.\",\"status\":\"ok\"}") : x.refuse(paused.error());
  });
}

void ApiServer::continue_generation(Call& x) {
  x.ready.engine->resume([x = Exchange(x)](const Status& resumed) {
    resumed ? x.reply("{\"message\":\"Generation continued successfully.\",\"status\":\"ok\"}")
            : x.refuse(resumed.error());
  });
}

// vLLM's names of the two, with its modes: abort without one. What waited for pages waits on in all of them.
// `clear_cache` (true without it) is not heeded with keep, as there.
void ApiServer::pause(Call& x) {
  auto waits = query_bool(x.request.query, "wait_for_inflight_requests", false);
  auto clears = query_bool(x.request.query, "clear_cache", true);
  if (!waits || !clears) return x.refuse(!waits ? waits.error() : clears.error());
  std::string name = query_value(x.request.query, "mode");
  if (name.empty()) name = "abort";
  if (*waits) name = "wait";
  if (name != "abort" && name != "wait" && name != "keep")
    return x.refuse(400, "mode: \"" + name.substr(0, 100) + "\" is none of abort, wait, keep");
  const auto chosen = name == "abort"  ? engine::PauseMode::kAbort
                      : name == "wait" ? engine::PauseMode::kWait
                                       : engine::PauseMode::kInPlace;
  engine::Engine* engine = x.ready.engine;
  x.ready.engine->pause(chosen, [x = Exchange(x), engine, clears = *clears && name != "keep"](const Status& paused) {
    if (!paused) return x.refuse(paused.error());
    // What has come meanwhile has no pages, and what is being handed over keeps its own.
    const Status flushed = clears ? engine->flush_cache() : Status();
    flushed ? x.reply("{\"status\":\"paused\"}") : x.refuse(flushed.error());
  });
}

void ApiServer::resume(Call& x) {
  x.ready.engine->resume([x = Exchange(x)](const Status& resumed) {
    resumed ? x.reply("{\"status\":\"resumed\"}") : x.refuse(resumed.error());
  });
}

void ApiServer::is_paused(Call& x) { x.reply(fmt::format("{{\"is_paused\":{}}}", x.ready.engine->paused())); }

// Decode: {"bootstrap_host", "bootstrap_port"}. Meets the prefill instance now; 409 says why the two cannot work
// together, 403 that this instance was not told of that one.
void ApiServer::pair(Call& x) {
  if (x.ready.engine->info().role != engine::Role::kDecode)
    return x.refuse(400, "only a decode instance pairs; ask one of those");
  auto body = parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  auto host = string_field(*body, "bootstrap_host");
  auto port = int_field(*body, "bootstrap_port", 1, 65535);
  if (!host || !port) return x.refuse(!host ? host.error() : port.error());
  if (!*host || !*port) return x.refuse(400, "bootstrap_host and bootstrap_port: both are needed");
  // Whoever shows our key may say whom we trust; without a key anybody could.
  const bool told = !options_.api_key.empty();
  x.ready.engine->pair(**host, static_cast<int>(**port), told, [x = Exchange(x)](const Status& met) {
    met ? x.reply("{\"paired\":true}") : x.refuse(met.error());
  });
}

void ApiServer::plan(Call& x) { x.reply_text(kPlainText, x.ready.engine->describe_pairs()); }

void ApiServer::start_profile(Call& x) {
  std::lock_guard lock(mutex_);
  if (profile_) return x.refuse(400, "a profile is being taken already; POST /stop_profile ends it");
  profile_ = Profile{std::chrono::steady_clock::now(), x.ready.engine->stats()};
  x.reply("{\"success\":true,\"message\":\"profiling; POST /stop_profile answers with what was counted\"}");
}

// What the engine did since /start_profile.
void ApiServer::stop_profile(Call& x) {
  std::optional<Profile> begun;
  {
    std::lock_guard lock(mutex_);
    begun.swap(profile_);
  }
  if (!begun) return x.refuse(400, "no profile is being taken; POST /start_profile begins one");
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun->start).count();
  const EngineStats now = x.ready.engine->stats();
  std::string body = fmt::format("{{\"success\":true,\"seconds\":{:.3f}", seconds);
  const auto count = [&](const char* name, uint64_t EngineStats::*total) {
    const uint64_t done = now.*total - begun->stats.*total;
    body += fmt::format(",\"{0}\":{1},\"{0}_per_second\":{2:.3f}", name, done, static_cast<double>(done) / seconds);
  };
  count("steps", &EngineStats::steps_total);
  count("requests", &EngineStats::requests_total);
  count("prompt_tokens", &EngineStats::prompt_tokens_total);
  count("cached_tokens", &EngineStats::cached_tokens_total);
  count("generation_tokens", &EngineStats::generation_tokens_total);
  count("preemptions", &EngineStats::preemptions_total);
  x.reply(body + "}");
}

void ApiServer::log_request(const Call& x, const ApiRequest& request) const {
  const engine::Request& first = request.choices.front().engine;
  const engine::SamplingParams& p = first.sampling;
  std::string line =
      fmt::format("{} {}: {} sequences, the first with {} prompt tokens and at most {} new ones", x.request.path,
                  request.id, request.choices.size(), first.prompt.size(), p.max_new_tokens);
  if (log_requests_level_ >= 1) {
    line += fmt::format(", temperature {}, top_p {}, top_k {}, min_p {}, penalties {} {} {}, seed {}, ignore_eos {}",
                        p.temperature, p.top_p, p.top_k, p.min_p, p.frequency_penalty, p.presence_penalty,
                        p.repetition_penalty, p.seed ? std::to_string(*p.seed) : "drawn", p.ignore_eos);
  }
  log_info("{}", line);
}

// {"log_requests": bool, "log_requests_level": 0 to 3}, as SGLang has it: a line for each generation call.
// {"log_level"}: ours.
void ApiServer::configure_logging(Call& x) {
  auto body = parse_object(x.request.body);
  if (!body) return x.refuse(body.error());
  auto requests = bool_field(*body, "log_requests");
  auto level = string_field(*body, "log_level");
  auto detail = int_field(*body, "log_requests_level", 0, 3);
  if (!requests || !level) return x.refuse(!requests ? requests.error() : level.error());
  if (!detail) return x.refuse(detail.error());
  if (*level) {
    const auto parsed = parse_log_level(**level);
    if (!parsed) return x.refuse(400, "log_level: " + parsed.error().message);
    log_set_level(*parsed);
  }
  if (*requests) log_requests_ = **requests;
  if (*detail) log_requests_level_ = static_cast<int>(**detail);
  x.reply("{\"success\":true}");
}

}  // namespace baton::http
