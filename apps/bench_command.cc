// baton bench: SGLang's serving benchmark, its flags and its report.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <memory>

#include "bench/bench_client.h"
#include "command_line.h"
#include "commands.h"
#include "exit_code.h"

namespace baton::apps {
namespace {

constexpr double kRequestRateMin = 1e-6, kRequestRateMax = 1e9;

struct Flags {
  bench::BenchOptions bench;
  std::string request_rate = "inf";
  bool disable_stream = false, disable_ignore_eos = false, disable_progress = false;
  ForeignFlags foreign;
};

std::string cannot_write(const std::string& path) {
  return fmt::format("cannot write --output-file {}: {}", path, std::strerror(errno));
}

int run_bench_command(const CLI::App& app, Flags& flags) {
  log_init(LogLevel::kWarning, "");
  for (const std::string& line : flags.foreign.warnings()) log_warning("{}", line);
  if (flags.request_rate != "inf") {
    std::string text = flags.request_rate;
    if (const std::string wrong = number_from(kRequestRateMin, kRequestRateMax)(text); !wrong.empty())
      return fail(app, kExitUsage, "--request-rate: " + wrong + ", nor inf");
    flags.bench.request_rate = std::stod(text);
  }
  flags.bench.progress = !flags.disable_progress && isatty(STDERR_FILENO) == 1;
  flags.bench.stream = !flags.disable_stream;
  flags.bench.ignore_eos = !flags.disable_ignore_eos;
  // Opened before the run, so that a path that cannot be written costs nobody a measurement.
  std::ofstream file;
  if (!flags.bench.output_file.empty()) {
    file.open(flags.bench.output_file, std::ios::app);
    if (!file) return fail(app, kExitUsage, cannot_write(flags.bench.output_file));
  }
  auto result = bench::run_bench(flags.bench);
  if (!result) return fail(app, result.error());
  const bench::BenchFigures& figures = result->figures;
  if (figures.failed > 0)
    fmt::print(stderr, "{} of {} requests failed:\n", figures.failed, figures.failed + figures.completed);
  for (const std::string& failure : result->failures) fmt::print(stderr, "failed: {}\n", failure);
  std::fflush(stderr);
  if (figures.completed > 0) std::cout << bench::report_text(flags.bench, figures) << std::flush;
  if (!result->profile.empty()) std::cout << "Profile: " << result->profile << std::endl;
  if (file.is_open() && !(file << bench::report_json(flags.bench, result->figures) << std::endl))
    return fail(app, kExitConfiguration, cannot_write(flags.bench.output_file));
  return result->figures.failed == 0 ? kExitOk : kExitFailed;
}

}  // namespace

Subcommand add_bench(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("bench", "Measure a server: throughput, TTFT and its parts, ITL");
  auto flags = std::make_shared<Flags>();
  bench::BenchOptions& b = flags->bench;
  app->add_option("--backend", b.backend, "sglang (/generate), sglang-oai, sglang-oai-chat, vllm, vllm-chat");
  app->add_option("--host", b.host, "Host of the server");
  app->add_option("--port", b.port, "Port of the server")->transform(number_from(1, 65535));
  app->add_option("--base-url", b.base_url, "In place of --host and --port");
  app->add_option("--model", b.model, "Model directory or name");
  app->add_option("--tokenizer", b.tokenizer,
                  "Directory with tokenizer.json; without it the server is asked for its vocabulary");
  app->add_option("--dataset-name", b.dataset, "random or random-ids");
  app->add_option("--num-prompts", b.num_prompts, "Requests")->transform(number_from(1, 10'000'000));
  app->add_option("--random-input-len", b.input_len, "Prompt tokens of a request")->transform(number_from(1, 1 << 24));
  app->add_option("--random-output-len", b.output_len, "New tokens of a request")->transform(number_from(1, 1 << 24));
  app->add_option("--random-range-ratio", b.range_ratio, "Lengths are uniform in [ratio * len, len]")
      ->transform(number_from(0.0, 1.0));
  app->add_option("--request-rate", flags->request_rate, "Requests a second, exponential gaps; inf: all at once");
  app->add_option("--max-concurrency", b.max_concurrency, "Requests at a time; the wait is not in a request's clock")
      ->transform(number_from(1, 1 << 20));
  app->add_option("--seed", b.seed, "Of lengths, prompts and arrivals")
      ->transform(number_from(uint32_t{0}, std::numeric_limits<uint32_t>::max()));
  app->add_option("--warmup-requests", b.warmup_requests, "Requests before the clock starts")
      ->transform(number_from(0, 1000));
  app->add_flag("--flush-cache", b.flush_cache, "Empty the prefix caches after the warm-up");
  app->add_flag("--disable-stream", flags->disable_stream, "Whole answers");
  app->add_flag("--disable-ignore-eos", flags->disable_ignore_eos, "Stop at the end-of-sequence token");
  app->add_option("--output-file", b.output_file, "Append one JSON line");
  app->add_option("--api-key", b.api_key, "Bearer token")->envname("OPENAI_API_KEY");
  app->add_flag("--tokenize-prompt", b.send_ids, "Prompts as token ids, not as text");
  app->add_flag("--profile", b.profile, "POST /start_profile before and /stop_profile after, and print what it says");
  app->add_flag("--disable-tqdm", flags->disable_progress, "No line of progress on a terminal");
  app->add_option("--temperature", b.temperature, "Of every request")->transform(number_from(0.0, 100.0));
  app->add_option("--top-p", b.top_p, "Of every request")->transform(number_from(0.0, 1.0));
  app->add_option("--served-model-name", b.served_name, "Name of the model in requests, if not --model");
  app->add_option("--extra-request-body", b.extra_request_body, "A JSON object whose members go into every request");
  flags->foreign.accept_all(*app, "trust-remote-code", "no code is loaded");
  flags->foreign.accept_all(*app, "pd-separated profile-prefill-url=+ profile-decode-url=+",
                            "a router is asked like any server, and asks its instances");
  flags->foreign.accept_all(*app,
                            "profile-activities=+ profile-start-step= profile-steps= profile-num-steps= "
                            "profile-by-stage profile-stages=+ profile-output-dir= profile-prefix=",
                            "a profile here is what the engine counted");
  flags->foreign.accept_all(*app, "tag= output-details print-requests plot-throughput goodput=+ cache-report",
                            "the report has its fixed lines");
  flags->foreign.accept_all(*app, "ready-check-timeout-sec= flush-cache-timeout= rust-client rust-worker-threads=",
                            "this client needs no such setting");
  return {app, [app, flags] { return run_bench_command(*app, *flags); }};
}

}  // namespace baton::apps
