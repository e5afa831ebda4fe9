#include "cluster_flags.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>

#include "base/log.h"

namespace baton::apps {

void add_cluster_flags(CLI::App& app, ClusterFlags& flags) {
  app.add_option("--model-path,--model", flags.model_path, "Hugging Face directory")->required();
  app.add_option("--prefill", flags.prefill, "Layout of a prefill instance, as tp=4,dp=1,pp=1,ep=1; may be repeated");
  app.add_option("--decode", flags.decode, "Layout of a decode instance; may be repeated");
  app.add_option("--unified", flags.unified, "Layout of one undivided instance, in place of --prefill and --decode");
  app.add_option("--host", flags.host, "Address to listen on");
  app.add_option("--port", flags.port, "Port of the API; 0: any free one")->transform(number_from(0, 65535));
  add_device_flags(app, flags.device);
  app.get_option("--base-gpu-id")
      ->description(
          "GPU of the first instance's first rank; each instance's GPUs follow those of the one before if "
          "there are enough, otherwise all instances begin with this one");
  // Flags that are passed on, so that a cluster is configured like one server.
  const auto pass_on = [&app](const char* name, const char* help, std::vector<std::string>& arguments) {
    app.add_option_function<std::string>(
        name,
        [own = std::string(name).substr(0, std::string_view(name).find(',')), &arguments](const std::string& value) {
          arguments.push_back(own);
          arguments.push_back(value);
        },
        help);
  };
  for (const char* name : {"--api-key", "--allowed-origins", "--log-level", "--root-path"})
    pass_on(name, "As of `baton serve`, for every instance and the router", flags.common);
  for (const char* name : {"--page-size,--block-size",
                           "--attention-backend",
                           "--prefill-attention-backend",
                           "--decode-attention-backend",
                           "--sampling-backend",
                           "--dtype",
                           "--kv-cache-dtype",
                           "--quantization",
                           "--load-format",
                           "--max-total-tokens",
                           "--mem-fraction-static,--gpu-memory-utilization",
                           "--max-running-requests,--max-num-seqs",
                           "--chunked-prefill-size,--max-num-batched-tokens",
                           "--context-length,--max-model-len",
                           "--max-prefill-tokens",
                           "--schedule-policy",
                           "--max-queued-requests",
                           "--decode-log-interval",
                           "--served-model-name",
                           "--disaggregation-transfer-backend",
                           "--num-reserved-decode-tokens",
                           "--fanout",
                           "--writer-policy",
                           "--handoff-key-file",
                           "--weight-version",
                           "--tokenizer-path,--tokenizer",
                           "--chat-template",
                           "--random-seed",
                           "--log-requests-level",
                           "--max-body-bytes",
                           "--watchdog-timeout",
                           "--max-logprobs",
                           "--default-priority-value",
                           "--priority-scheduling-preemption-threshold"}) {
    pass_on(name, "As of `baton serve`, for every instance", flags.serve);
  }
  for (const char* name : {"--request-timeout", "--health-check-timeout"})
    pass_on(name, "As of `baton router`", flags.router);
  add_drain_timeout(app, flags.drain_timeout_s);
  for (const char* name :
       {"--enable-mixed-chunk", "--disable-radix-cache", "--disable-overlap-schedule", "--allow-longer-context",
        "--enable-priority-scheduling", "--log-requests", "--strict-model-names", "--allow-auto-truncate",
        "--enable-cache-report", "--trust-request-chat-template", "--skip-tokenizer-init",
        "--disable-priority-preemption", "--abort-on-priority-when-disabled", "--schedule-low-priority-values-first",
        "--incremental-streaming-output", "--stream-output", "--stream-response-default-include-usage",
        "--enable-force-include-usage", "--return-tokens-as-token-ids"}) {
    app.add_flag_callback(
        name, [name, &flags] { flags.serve.emplace_back(name); }, "As of `baton serve`, for every instance");
  }
}

void default_log_level(ClusterFlags& flags, const char* level) {
  const std::vector<std::string>& given = flags.common;
  if (std::find(given.begin(), given.end(), "--log-level") != given.end()) return;
  flags.common.insert(flags.common.end(), {"--log-level", level});
}

Result<ClusterOptions> cluster_options(const ClusterFlags& flags) {
  for (const std::string& line : flags.foreign.warnings()) log_warning("{}", line);
  BATON_TRY(flags.foreign.check());
  ClusterOptions options;
  char program[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", program, sizeof(program));
  if (n <= 0) return error(ErrorCode::kUnavailable, "cannot find our own executable in /proc");
  options.program.assign(program, static_cast<size_t>(n));
  options.model_path = flags.model_path;
  options.host = flags.host;
  options.port = flags.port;
  options.common_arguments = flags.common;
  options.serve_arguments = flags.serve;
  options.router_arguments = flags.router;
  options.device = flags.device;
  options.drain_timeout = from_seconds(flags.drain_timeout_s);
  options.unified = !flags.unified.empty();
  if (options.unified != (flags.prefill.empty() && flags.decode.empty())) {
    return error(ErrorCode::kInvalidArgument,
                 "give either --unified LAYOUT, or at least one --prefill LAYOUT and one --decode LAYOUT");
  }
  if (options.unified) {
    BATON_ASSIGN(options.unified_layout, layout::parse_layout(flags.unified));
    return options;
  }
  if (flags.prefill.empty() || flags.decode.empty()) {
    return error(ErrorCode::kInvalidArgument, "{} --prefill and {} --decode: at least one of each is needed",
                 flags.prefill.size(), flags.decode.size());
  }
  for (const std::string& text : flags.prefill) {
    BATON_ASSIGN(const layout::Layout layout, layout::parse_layout(text));
    options.prefill.push_back(layout);
  }
  for (const std::string& text : flags.decode) {
    BATON_ASSIGN(const layout::Layout layout, layout::parse_layout(text));
    options.decode.push_back(layout);
  }
  return options;
}

}  // namespace baton::apps
