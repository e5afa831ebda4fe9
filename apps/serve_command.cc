// baton serve: one instance. The port answers from the start (503 with progress while weights load).
#include <unistd.h>

#include <algorithm>
#include <future>
#include <memory>

#include "command_line.h"
#include "commands.h"
#include "drain.h"
#include "engine/make_engine.h"
#include "exit_code.h"
#include "handoff/key_file.h"
#include "handoff/trust.h"
#include "http/api_server.h"
#include "http/json.h"
#include "http/model_text.h"
#include "http/url.h"
#include "kv_cache_dtype.h"
#include "report_pipe.h"
#include "serve_flags.h"
#include "signals.h"

namespace baton::apps {
namespace {

// A failure and what it ends the program with: the same kind of error means another thing at another step.
struct StageFailure {
  int code;
  std::string message;
};

// SGLang's policies that need what is not known here, and what stands for them.
constexpr struct {
  const char* name;
  const char* instead;
  const char* why;
} kPoliciesReplaced[] = {{"dfs-weight", "lpm", "the tree's weights are not counted"},
                         {"routing-key", "fair", "requests have no routing key"}};

engine::QueueOptions queue_options(const ServeFlags& flags) {
  std::string policy = flags.schedule_policy;
  for (const auto& replaced : kPoliciesReplaced) {
    if (policy == replaced.name) policy = replaced.instead;
  }
  engine::QueueOptions queue;
  queue.policy = scheduler::queue_policy_of(policy).value_or(queue.policy);
  queue.priorities = flags.enable_priority_scheduling;
  queue.low_values_first = flags.low_priority_values_first;
  queue.refuse_priorities = flags.abort_on_priority_when_disabled;
  queue.default_priority = flags.default_priority;
  if (!flags.disable_priority_preemption) queue.preemption_threshold = flags.preemption_threshold;
  queue.waiting_max = flags.max_queued_requests;
  return queue;
}

Result<engine::EngineOptions> engine_options(const ServeFlags& flags) {
  engine::EngineOptions options;
  options.role = flags.disaggregation_mode == "prefill"  ? engine::Role::kPrefill
                 : flags.disaggregation_mode == "decode" ? engine::Role::kDecode
                                                         : engine::Role::kUnified;
  BATON_TRY(layout::check_layout(flags.layout));
  const bool float32 = flags.dtype.starts_with("float");
  model::ExecutorOptions& e = options.executor;
  e.model_path = flags.model_path;
  e.layout = flags.layout;
  BATON_ASSIGN(e.first_device, first_device(flags.device, flags.layout.world(),
                                            flags.disaggregation_mode == "null" || flags.transfer_backend != "shm"));
  e.device_step = flags.device.gpu_id_step;
  e.compute = float32 ? kernels::Compute::kF32 : kernels::Compute::kBF16;
  e.kv_dtype = kv_cache_dtype(flags.kv_cache_dtype, float32);
  e.quantize_fp8 = flags.quantization == "fp8";
  e.load_format = flags.load_format == "dummy" ? model::LoadFormat::kDummy : model::LoadFormat::kAuto;
  e.seed = flags.random_seed;
  e.page_tokens = flags.page_size;
  if (flags.context_length > 0) options.context_length = flags.context_length;
  options.allow_longer_context = flags.allow_longer_context;
  if (flags.max_total_tokens > 0) options.pool.max_total_tokens = flags.max_total_tokens;
  if (flags.mem_fraction_static > 0) options.pool.mem_fraction_static = flags.mem_fraction_static;
  options.max_running_requests = flags.max_running_requests;
  options.chunked_prefill_size = flags.chunked_prefill_size;
  options.max_prefill_tokens = flags.max_prefill_tokens;
  options.queue = queue_options(flags);
  options.decode_log_interval = flags.decode_log_interval;
  options.mixed_chunk = flags.enable_mixed_chunk;
  options.overlap = !flags.disable_overlap_schedule;
  options.prefix_cache = !flags.disable_radix_cache;
  options.decode_prefix_cache = flags.decode_radix_cache && !flags.disable_radix_cache;
  options.reserved_decode_tokens = flags.num_reserved_decode_tokens;
  options.watchdog_timeout = std::chrono::milliseconds(static_cast<int64_t>(flags.watchdog_timeout_s * 1000));
  engine::TransferOptions& transfer = options.transfer;
  const bool by_tcp =
      flags.transfer_backend == "tcp" || flags.transfer_backend == "mooncake" || flags.transfer_backend == "nixl";
  const bool on_cards = e.first_device.kind == device::DeviceKind::kCuda;
  transfer.backend = by_tcp                             ? "tcp"
                     : flags.transfer_backend != "auto" ? flags.transfer_backend
                     : on_cards                         ? "cuda_ipc"
                                                        : "shm";
  const std::string& meet = flags.disaggregation_host.empty() ? flags.host : flags.disaggregation_host;
  transfer.bootstrap_host = meet == "localhost" ? "127.0.0.1" : meet;
  transfer.advertise_host = flags.advertise_host;
  transfer.bootstrap_port = flags.bootstrap_port;
  transfer.prefill_peers = flags.prefill_peers;
  BATON_TRY(handoff::TrustedPeers::parse(flags.prefill_peers));  // a wrong entry is found before the model is loaded
  if (!flags.handoff_key_file.empty()) {
    BATON_ASSIGN(transfer.handoff_key, handoff::read_key_file(flags.handoff_key_file));
  }
  BATON_ASSIGN(transfer.writer_policy, layout::parse_writer_policy(flags.writer_policy));
  BATON_ASSIGN(transfer.fanout, layout::parse_fanout(flags.fanout));
  return options;
}

std::string args_json(const ServeFlags& f) {
  return fmt::format(
      "{{\"host\":{},\"port\":{},\"disaggregation_host\":{},\"advertise_host\":{},\"dtype\":{},\"quantization\":{},"
      "\"load_format\":{},\"chunked_prefill_size\":{},"
      "\"enable_mixed_chunk\":{},\"max_prefill_tokens\":{},\"schedule_policy\":{},"
      "\"enable_priority_scheduling\":{},\"max_queued_requests\":{},"
      "\"disable_radix_cache\":{},\"disable_overlap_schedule\":{},\"enable_dp_attention\":{},\"num_reserved_decode_"
      "tokens\":{},\"mem_fraction_static\":"
      "{}}}",
      http::json_string(f.host), f.port,
      f.disaggregation_host.empty() ? "null" : http::json_string(f.disaggregation_host),
      f.advertise_host.empty() ? "null" : http::json_string(f.advertise_host), http::json_string(f.dtype),
      f.quantization.empty() ? "null" : http::json_string(f.quantization), http::json_string(f.load_format),
      f.chunked_prefill_size, f.enable_mixed_chunk, f.max_prefill_tokens, http::json_string(f.schedule_policy),
      f.enable_priority_scheduling, f.max_queued_requests ? std::to_string(*f.max_queued_requests) : "null",
      f.disable_radix_cache, f.disable_overlap_schedule, f.layout.dp > 1, f.num_reserved_decode_tokens,
      f.mem_fraction_static);
}

// What the same seed gives the same text with: this build, the model and how it is computed. FNV-1a, so that it is the
// same number on every machine.
std::string fingerprint(const ServeFlags& f) {
  const std::string all = fmt::format("{} {} {} {} {} {}", BATON_VERSION, f.model_path, f.dtype, f.quantization,
                                      f.kv_cache_dtype, f.layout.to_string());
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : all) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return fmt::format("fp_{:016x}", hash);
}

void warn(const ServeFlags& flags) {
  for (const std::string& line : flags.foreign.warnings()) log_warning("{}", line);
  for (const auto& replaced : kPoliciesReplaced) {
    if (flags.schedule_policy == replaced.name)
      log_warning("--schedule-policy {}: {}, {} is used", replaced.name, replaced.why, replaced.instead);
  }
  if (flags.max_queued_requests && flags.disaggregation_mode != "null")
    log_warning("--max-queued-requests is for undivided instances, it is not used here");
  if (flags.layout.dp > 1 && !flags.enable_dp_attention) {
    log_warning("--dp-size {} without --enable-dp-attention: the ranks form DP attention groups all the same",
                flags.layout.dp);
  }
  if (flags.transfer_backend == "mooncake" || flags.transfer_backend == "nixl") {
    log_warning(
        "--disaggregation-transfer-backend {}: not built here, tcp is used; both sides of a pair must use the same",
        flags.transfer_backend);
  }
}

std::string describe(const engine::InstanceInfo& info, const std::string& model) {
  std::string text = fmt::format("{} {} of {}: {} KV tokens in pages of {} ({}), context {}",
                                 engine::role_name(info.role), info.layout.to_string(), model, info.max_total_tokens,
                                 info.page_tokens, info.kv_dtype, info.max_model_len);
  if (info.role != engine::Role::kUnified) text += ", transfers over " + info.transfer_backend;
  return text;
}

class Serve {
 public:
  Serve(const ServeFlags& flags, http::Origins origins, SignalWait& signals)
      : flags_(flags),
        origins_(std::move(origins)),
        signals_(signals),
        report_(flags.report_fd),
        api_({flags.api_key, BATON_VERSION, args_json(flags), http::is_loopback(flags.host), flags.text_threads,
              flags.log_requests, flags.log_requests_level, origins_, flags.root_path}) {}

  // Everything up to the first request; false in `failure_` says why not.
  std::optional<StageFailure> start() {
    http::HttpServerOptions http;
    http.host = flags_.host;
    http.port = flags_.port;
    http.threads = flags_.http_threads;
    http.allowed_origins = origins_;
    // A router in front takes as much, and adds what the two instances need.
    constexpr size_t kRouterFieldsBytes = 1 << 20;
    http.body_bytes_max = flags_.max_body_bytes + (flags_.disaggregation_mode == "null" ? 0 : kRouterFieldsBytes);
    http.check_head = [this](const http::HttpRequest& head) { return api_.check_head(head); };
    auto server =
        http::HttpServer::start(http, [this](http::HttpRequest request, std::shared_ptr<http::ResponseWriter> writer) {
          api_.handle(std::move(request), std::move(writer));
        });
    if (!server) return StageFailure{exit_code_of(server.error().code), server.error().message};
    server_ = std::move(*server);

    auto options = engine_options(flags_);
    if (!options) return StageFailure{kExitUsage, options.error().message};
    auto config = model::load_model_config(flags_.model_path);
    if (!config) return StageFailure{kExitModel, config.error().message};
    for (const std::string& line : config->warnings) log_warning("{}", line);
    http::ModelTextOptions text{flags_.model_path, flags_.tokenizer_path, flags_.served_model_name,
                                flags_.chat_template, flags_.skip_tokenizer_init || needs_no_tokenizer()};
    auto model = http::load_model_text(text);
    if (!model) return StageFailure{kExitModel, model.error().message};
    model_ = std::move(*model);
    metrics_ = std::make_unique<http::Metrics>(
        http::MetricsOptions{model_->served_name, options->role, flags_.metrics_compat == "sglang,vllm"});
    log_info("{}", describe_kernels(flags_.kernels, options->executor.first_device));
    options->observer = metrics_.get();
    options->eos_ids = model_->eos_ids;
    config->add_eos_ids(model_->eos_ids);
    options->executor.progress = [this](uint64_t done, uint64_t total) {
      api_.set_progress({"weights", done, total});
      report_.progress("weights", done, total);
    };
    auto engine = engine::make_engine(*options);
    if (!engine) return StageFailure{engine_exit_code(engine.error().code), engine.error().message};
    engine_ = std::move(*engine);
    model_->vocab = config->vocab;
    model_->weight_version->set(flags_.weight_version);
    model_->eos_ids = config->eos_ids;
    model_->model_type = config->model_type;
    model_->architecture = config->architecture_name;
    model_->context_length = engine_->info().max_model_len;
    model_->fingerprint = fingerprint(flags_);
    model_->strict_model_names = flags_.strict_model_names;
    model_->report_cached_tokens = flags_.report_cached_tokens;
    if (flags_.usage_in_streams) model_->usage_in_streams = http::StreamUsage::kLast;
    if (flags_.usage_in_every_event) model_->usage_in_streams = http::StreamUsage::kEveryEvent;
    model_->tokens_as_ids = flags_.tokens_as_ids;
    model_->allow_auto_truncate = flags_.allow_auto_truncate;
    model_->incremental_streaming = flags_.incremental_streaming;
    model_->logprobs_max = flags_.max_logprobs;
    model_->trust_request_chat_template = flags_.trust_request_chat_template;
    api_.set_ready(*engine_, *model_, *metrics_);
    return std::nullopt;
  }

  int run() {
    const engine::InstanceInfo& info = engine_->info();
    const std::string summary = describe(info, model_->served_name);
    log_info("{}", summary);
    log_info("API on http://{}{}", http::Url{flags_.host, server_->port(), ""}.authority(),
             info.bootstrap_port != 0 ? fmt::format(", decode instances meet it at port {}", info.bootstrap_port) : "");
    log_info("The server is fired up and ready to roll!");
    report_.summary(summary);
    report_.ready(server_->port(), info.bootstrap_port);
    while (!signals_.wait_stop(std::chrono::seconds(3600))) continue;
    api_.set_draining();
    server_->drain();
    // A prefill's or decode's attempt outlives its client's connection until its writers are quiet.
    const auto in_flight = [this] {
      const engine::EngineStats stats = engine_->stats();
      const int live = stats.running + stats.waiting + stats.waiting_grant + stats.transferring;
      return std::max(server_->in_flight(), static_cast<size_t>(std::max(0, live)));
    };
    return drain(signals_, from_seconds(flags_.drain_timeout_s), {in_flight, [this] { engine_->shut_down(); }});
  }

  ~Serve() {
    if (server_) server_->stop();
    api_.stop();
    engine_.reset();  // lets go of its clients' writers before the server goes
  }

 private:
  // A directory with a config.json alone serves dummy weights to token ids.
  [[nodiscard]] bool needs_no_tokenizer() const {
    return flags_.load_format == "dummy" && flags_.tokenizer_path.empty() &&
           access((flags_.model_path + "/tokenizer.json").c_str(), R_OK) != 0;
  }
  static int engine_exit_code(ErrorCode code) {
    switch (code) {
      case ErrorCode::kUnavailable:
        return kExitNetwork;
      case ErrorCode::kNotFound:
      case ErrorCode::kCorrupt:
        return kExitModel;
      default:
        return kExitConfiguration;
    }
  }

  const ServeFlags& flags_;
  const http::Origins origins_;
  SignalWait& signals_;
  ReportPipe report_;
  http::ApiServer api_;
  std::unique_ptr<http::ModelText> model_;
  std::unique_ptr<http::Metrics> metrics_;
  std::unique_ptr<http::HttpServer> server_;
  std::unique_ptr<engine::Engine> engine_;
};

int run_serve(const CLI::App& app, const ServeFlags& flags) {
  auto level = parse_log_level(flags.log_level);
  if (!level) return fail(app, level.error());
  if (const Status foreign = flags.foreign.check(); !foreign) return fail(app, foreign.error());
  log_init(*level, flags.log_name);
  SignalWait signals;
  warn(flags);
  auto origins = http::parse_origins(flags.allowed_origins);
  if (!origins) return fail(app, origins.error());
  Serve serve(flags, std::move(*origins), signals);
  // Beside, so that a signal is obeyed while weights load: nobody is served yet.
  auto starting = std::async(std::launch::async, [&serve] { return serve.start(); });
  while (starting.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    if (!signals.wait_stop(std::chrono::milliseconds(10))) continue;
    log_info("stopped while starting");
    log_flush();
    _exit(kExitOk);
  }
  if (const auto failure = starting.get()) return fail(app, failure->code, failure->message);
  return serve.run();
}

}  // namespace

Subcommand add_serve(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("serve", "One instance: unified, prefill or decode");
  auto flags = std::make_shared<ServeFlags>();
  add_serve_flags(*app, *flags);
  return {app, [app, flags] { return run_serve(*app, *flags); }};
}

}  // namespace baton::apps
