// baton verify: holds a model or a tokenizer against golden results of an independent implementation.
#include <iostream>
#include <memory>

#include "command_line.h"
#include "commands.h"
#include "device_flags.h"
#include "exit_code.h"
#include "kv_cache_dtype.h"
#include "model/verify_model.h"
#include "text/verify_tokenizer.h"

namespace baton::apps {
namespace {

struct Flags {
  std::string model, tokenizer, golden, dtype = "float32", kv_dtype = "auto";
  layout::Layout layout;
  DeviceFlags device{.device = "cpu"};
  int page_size = 64, chunk = 0;
  double tolerance = 0;
  bool own_routing = false, fp8 = false;
};

int verify_one_model(const CLI::App& app, const Flags& flags) {
  model::VerifyOptions options;
  options.golden_path = flags.golden;
  options.chunk_tokens = flags.chunk;
  options.tolerance = flags.tolerance;
  options.own_routing = flags.own_routing;
  const bool float32 = flags.dtype == "float32";
  model::ExecutorOptions& e = options.executor;
  e.model_path = flags.model;
  e.layout = flags.layout;
  auto device = first_device(flags.device, flags.layout.world(), true);
  if (!device) return fail(app, device.error());
  e.first_device = *device;
  e.device_step = flags.device.gpu_id_step;
  e.compute = float32 ? kernels::Compute::kF32 : kernels::Compute::kBF16;
  e.kv_dtype = kv_cache_dtype(flags.kv_dtype, float32);
  e.page_tokens = flags.page_size;
  e.quantize_fp8 = flags.fp8;
  if (const Status legal = layout::check_layout(flags.layout); !legal) return fail(app, legal.error());
  const auto report = model::verify_model(options);
  if (!report) return fail(app, report.error());
  std::cout << report->to_string();
  if (!report->to_string().ends_with('\n')) std::cout << '\n';
  return report->ok() ? kExitOk : kExitFailed;
}

int verify_one_tokenizer(const CLI::App& app, const Flags& flags) {
  const auto report = text::verify_tokenizer(flags.tokenizer, flags.golden);
  if (!report) return fail(app, report.error());
  for (const std::string& line : report->mismatches) std::cout << line << '\n';
  std::cout << fmt::format("{}: {} cases, {} comparisons, {} mismatches\n", flags.tokenizer, report->cases,
                           report->comparisons, report->mismatches.size());
  return report->mismatches.empty() ? kExitOk : kExitFailed;
}

int run_verify(const CLI::App& app, const Flags& flags) {
  log_init(LogLevel::kWarning, "");
  if (flags.model.empty() == flags.tokenizer.empty())
    return fail(app, kExitUsage, "give either --model DIR or --tokenizer FILE");
  return flags.model.empty() ? verify_one_tokenizer(app, flags) : verify_one_model(app, flags);
}

}  // namespace

Subcommand add_verify(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("verify", "Hold a model or a tokenizer against golden results");
  auto flags = std::make_shared<Flags>();
  const auto ranks = number_from(1, layout::kWorldMax);
  app->add_option("--model,--model-path", flags->model, "Hugging Face directory");
  app->add_option("--tokenizer", flags->tokenizer, "A tokenizer.json");
  app->add_option("--golden", flags->golden, "Golden results: logits of a model, or ids of texts")->required();
  app->add_option("--tp-size,--tp", flags->layout.tp, "Ranks of a pipeline stage")->transform(ranks);
  app->add_option("--dp-size,--dp", flags->layout.dp, "Attention groups")->transform(ranks);
  app->add_option("--pp-size,--pp", flags->layout.pp, "Pipeline stages")->transform(ranks);
  app->add_option("--ep-size,--ep", flags->layout.ep, "Parts that experts are cut into")->transform(ranks);
  add_device_flags(*app, flags->device);
  app->add_option("--dtype", flags->dtype, "float32, auto or bfloat16")
      ->check(CLI::IsMember({"float32", "auto", "bfloat16"}));
  add_kv_cache_dtype(*app, flags->kv_dtype);
  app->add_option("--page-size", flags->page_size, "Tokens of a KV page")->transform(number_from(1, 128));
  app->add_option("--chunked-prefill-size", flags->chunk, "Prompt tokens of a step; 0: the whole prompt")
      ->transform(number_from(0, 1 << 30));
  app->add_option("--tolerance", flags->tolerance,
                  "Largest relative error; 0: 1e-4 if weights and KV are float32, 8e-2 if KV is fp8, else 3e-2")
      ->transform(number_from(0.0, 1e9));
  app->add_flag("--own-routing", flags->own_routing,
                "In bfloat16, experts are chosen without the float32 run that settles ties");
  app->add_option_function<std::string>(
         "--quantization", [flags](const std::string&) { flags->fp8 = true; },
         "fp8: weights pass through e4m3 with 128x128 block scales, which is an error of its own")
      ->check(CLI::IsMember({"fp8"}));
  return {app, [app, flags] { return run_verify(*app, *flags); }};
}

}  // namespace baton::apps
