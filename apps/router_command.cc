// baton router: one address in front of prefill and decode instances.
#include <memory>

#include "command_line.h"
#include "commands.h"
#include "drain.h"
#include "exit_code.h"
#include "http/url.h"
#include "report_pipe.h"
#include "router/router_server.h"
#include "signals.h"

namespace baton::apps {
namespace {

struct Flags {
  std::vector<std::string> prefill, decode;
  std::vector<int> prefill_ports;
  std::vector<std::string> prefill_hosts;
  std::string host = "127.0.0.1", policy = "least_loaded", prefill_policy, decode_policy, api_key, log_level = "info",
              log_name, allowed_origins, root_path;
  int port = 8000, report_fd = -1, threads = 2;
  size_t max_body_bytes = http::HttpServerOptions().body_bytes_max;
  double wait_ready_s = 60, request_timeout_s = 1800, health_interval_s = 1, health_timeout_s = 10,
         drain_timeout_s = 30;
  ForeignFlags foreign;
};

// --prefill URL [BOOTSTRAP_PORT|none] ...: a word that is a number belongs to the URL before it.
Result<std::vector<router::WorkerAddress>> read_workers(const Flags& flags) {
  std::vector<router::WorkerAddress> workers;
  for (const std::string& word : flags.prefill) {
    const bool number = !word.empty() && word.find_first_not_of("0123456789") == std::string::npos;
    if (number || word == "none" || word == "null") {
      if (workers.empty())
        return error(ErrorCode::kInvalidArgument, "--prefill {}: the URL comes before its bootstrap port", word);
      if (number && (word.size() > 5 || std::stoi(word) > 65535))
        return error(ErrorCode::kInvalidArgument, "--prefill: {} is not a port", word);
      if (number) workers.back().bootstrap_port = std::stoi(word);
      continue;
    }
    router::WorkerAddress worker;
    worker.role = engine::Role::kPrefill;
    BATON_ASSIGN(worker.url, http::parse_url(word));
    workers.push_back(std::move(worker));
  }
  for (size_t i = 0; i < flags.prefill_ports.size() && i < workers.size(); ++i)
    workers[i].bootstrap_port = flags.prefill_ports[i];
  for (size_t i = 0; i < flags.prefill_hosts.size() && i < workers.size(); ++i)
    workers[i].bootstrap_host = flags.prefill_hosts[i];
  for (const std::string& word : flags.decode) {
    router::WorkerAddress worker;
    worker.role = engine::Role::kDecode;
    BATON_ASSIGN(worker.url, http::parse_url(word));
    workers.push_back(std::move(worker));
  }
  return workers;
}

int run_router(const CLI::App& app, const Flags& flags) {
  SignalWait signals;
  auto level = parse_log_level(flags.log_level);
  if (!level) return fail(app, level.error());
  log_init(*level, flags.log_name);
  for (const std::string& line : flags.foreign.warnings()) log_warning("{}", line);
  router::RouterOptions options;
  auto workers = read_workers(flags);
  if (!workers) return fail(app, workers.error());
  options.workers = std::move(*workers);
  for (const auto& [text, policy] :
       {std::pair{&flags.prefill_policy, &options.prefill_policy}, {&flags.decode_policy, &options.decode_policy}}) {
    auto parsed = router::parse_placement_policy(text->empty() ? flags.policy : *text);
    if (!parsed) return fail(app, parsed.error());
    *policy = *parsed;
  }
  options.http.host = flags.host;
  options.http.port = flags.port;
  options.http.threads = flags.threads;
  auto origins = http::parse_origins(flags.allowed_origins);
  if (!origins) return fail(app, origins.error());
  options.http.allowed_origins = std::move(*origins);
  options.http.body_bytes_max = flags.max_body_bytes;
  options.request_timeout = from_seconds(flags.request_timeout_s);
  options.health_interval = from_seconds(flags.health_interval_s);
  options.health_timeout = from_seconds(flags.health_timeout_s);
  options.api_key = flags.api_key;
  options.root_path = flags.root_path;
  options.version = BATON_VERSION;
  if (options.workers.empty()) log_warning("no worker yet: add some with --prefill and --decode, or POST /workers");
  auto router = router::Router::start(std::move(options));
  if (!router) return fail(app, router.error());
  log_info("router listens on http://{}", http::Url{flags.host, (*router)->port(), ""}.authority());
  ReportPipe report(flags.report_fd);
  if (flags.report_fd >= 0) {
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::duration<double>(flags.wait_ready_s);
    Status ready = (*router)->wait_ready(std::chrono::milliseconds(100));
    while (!ready && std::chrono::steady_clock::now() < give_up) {
      if (signals.wait_stop(Duration(0))) return kExitOk;
      ready = (*router)->wait_ready(std::chrono::milliseconds(100));
    }
    if (!ready) {
      return fail(app, kExitConfiguration, fmt::format("{} (waited {} s)", ready.error().message, flags.wait_ready_s));
    }
    report.ready((*router)->port(), 0);
  }
  while (!signals.wait_stop(std::chrono::seconds(3600))) continue;
  (*router)->drain();
  return drain(signals, from_seconds(flags.drain_timeout_s),
               {[&] { return (*router)->in_flight(); }, [&] { (*router)->end_calls(); }});
}

}  // namespace

Subcommand add_router(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("router", "One address in front of prefill and decode instances");
  auto flags = std::make_shared<Flags>();
  app->add_option("--prefill", flags->prefill, "URL [BOOTSTRAP_PORT] of a prefill instance; may be repeated")
      ->type_name("URL [PORT]");
  app->add_option("--decode", flags->decode, "URL of a decode instance; may be repeated")->type_name("URL");
  app->add_option("--prefill-bootstrap-ports", flags->prefill_ports,
                  "Bootstrap ports of the prefill instances, in order")
      ->transform(number_from(1, 65535));
  app->add_option("--prefill-bootstrap-hosts", flags->prefill_hosts,
                  "Where decode meets the prefill instances (their --disaggregation-host), in order; without it the "
                  "hosts of their URLs");
  app->add_option("--host", flags->host, "Address to listen on (loopback unless told otherwise)");
  app->add_option("--port", flags->port, "Port to listen on; 0: any free one")->transform(number_from(0, 65535));
  app->add_option("--policy", flags->policy, "least_loaded, round_robin, random or power_of_two");
  app->add_option("--prefill-policy", flags->prefill_policy, "As --policy, for the prefill side");
  app->add_option("--decode-policy", flags->decode_policy, "As --policy, for the decode side");
  app->add_option("--request-timeout,--request-timeout-secs", flags->request_timeout_s,
                  "Seconds that a generation call may take in all; 0: no limit")
      ->transform(number_from(0.0, kSecondsMax));
  app->add_option("--health-check-interval,--health-check-interval-secs", flags->health_interval_s,
                  "Seconds between two probes of a worker, less where four do not fit into --health-check-timeout")
      ->transform(number_from(0.01, kSecondsMax));
  app->add_option("--health-check-timeout,--health-check-timeout-secs", flags->health_timeout_s,
                  "A worker of which nothing is heard for so many seconds is given up, and its open calls end")
      ->transform(number_from(0.1, kSecondsMax));
  add_drain_timeout(*app, flags->drain_timeout_s);
  app->add_option("--root-path", flags->root_path, "What a proxy in front leaves before each path, as /llm");
  app->add_option("--api-key", flags->api_key, "Key that clients must send as a Bearer token");
  add_allowed_origins(*app, flags->allowed_origins);
  app->add_option("--http-threads", flags->threads, "Threads that serve HTTP")->transform(number_from(1, 64));
  app->add_option("--max-body-bytes,--max-payload-size", flags->max_body_bytes, "Of a request's body; more gets 413")
      ->transform(number_from(1 << 10, 1 << 30));
  app->add_option("--log-level", flags->log_level, "debug, info, warning or error");
  app->add_option("--log-name", flags->log_name, "A name in every log line");
  app->add_option("--wait-ready", flags->wait_ready_s, "Seconds to wait for a first pair")
      ->transform(number_from(0.0, 1e9))
      ->group("");
  app->add_option("--report-fd", flags->report_fd, "For `baton up`")->group("");
  flags->foreign.accept(*app, "--pd-disaggregation", ForeignFlags::Values::kNone, "this router does nothing else");
  flags->foreign.accept(*app, "--mini-lb", ForeignFlags::Values::kNone, "there is one router");
  return {app, [app, flags] { return run_router(*app, *flags); }};
}

}  // namespace baton::apps
