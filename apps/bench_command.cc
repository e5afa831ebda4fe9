// baton bench: SGLang's serving benchmark, its flags and its report.
#include <cerrno>
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
  bool disable_stream = false, disable_ignore_eos = false;
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
  std::cout << bench::report_text(flags.bench, result->figures) << std::flush;
  for (const std::string& failure : result->failures) fmt::print(stderr, "failed: {}\n", failure);
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
  flags->foreign.accept(*app, "--disable-tqdm", ForeignFlags::Values::kNone, "there is no progress bar");
  flags->foreign.accept(*app, "--tokenize-prompt", ForeignFlags::Values::kNone, "prompts are always sent as token ids");
  flags->foreign.accept(*app, "--trust-remote-code", ForeignFlags::Values::kNone, "no code is loaded");
  flags->foreign.accept(*app, "--pd-separated", ForeignFlags::Values::kNone, "the router is asked like any server");
  return {app, [app, flags] { return run_bench_command(*app, *flags); }};
}

}  // namespace baton::apps
