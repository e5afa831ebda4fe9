// baton plan: who would send what to whom, without starting anything.
#include <iostream>
#include <limits>
#include <memory>

#include "command_line.h"
#include "commands.h"
#include "exit_code.h"
#include "kv_cache_dtype.h"
#include "layout/plan.h"
#include "model/model_config.h"

namespace baton::apps {
namespace {

struct Flags {
  std::string prefill, decode, model, kv_dtype = "auto", policy = "balanced", fanout = "direct", rates;
  int page_size = 64, prefill_page_size = 0, decode_page_size = 0;
  int64_t tokens = 4096;
  uint64_t attempt = 1;
};

Result<std::string> make_plan_text(const Flags& flags) {
  BATON_ASSIGN(const model::ModelConfig config, model::load_model_config(flags.model));
  layout::PlanSide prefill, decode;
  BATON_ASSIGN(prefill.layout, layout::parse_layout(flags.prefill));
  BATON_ASSIGN(decode.layout, layout::parse_layout(flags.decode));
  BATON_TRY(model::check_model_layout(config, prefill.layout));
  BATON_TRY(model::check_model_layout(config, decode.layout));
  prefill.page_tokens = flags.prefill_page_size > 0 ? flags.prefill_page_size : flags.page_size;
  decode.page_tokens = flags.decode_page_size > 0 ? flags.decode_page_size : flags.page_size;
  const tensor::DType dtype = kv_cache_dtype(flags.kv_dtype, false);
  BATON_ASSIGN(const layout::WriterPolicy policy, layout::parse_writer_policy(flags.policy));
  BATON_ASSIGN(const layout::Fanout fanout, layout::parse_fanout(flags.fanout));
  BATON_ASSIGN(const layout::Planner planner,
               layout::Planner::make(config.kv_geometry(dtype), prefill, decode, policy, fanout));
  if (flags.rates.empty()) return layout::describe_plan(planner, flags.tokens, AttemptId(flags.attempt));
  BATON_ASSIGN(const layout::LinkRate rate, layout::LinkRate::parse(flags.rates));
  return layout::describe_plan(planner, flags.tokens, AttemptId(flags.attempt), &rate);
}

}  // namespace

Subcommand add_plan(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("plan", "Show who sends which KV to whom between two layouts");
  auto flags = std::make_shared<Flags>();
  app->add_option("--prefill", flags->prefill, "Layout, as tp=8,dp=1,pp=1,ep=1")->required();
  app->add_option("--decode", flags->decode, "Layout")->required();
  app->add_option("--model,--model-path", flags->model, "Directory with a config.json")->required();
  app->add_option("--tokens", flags->tokens, "Prompt tokens of the request")
      ->transform(number_from<int64_t>(1, int64_t{1} << 32));
  app->add_option("--page-size", flags->page_size, "Tokens of a page, both sides")->transform(number_from(1, 128));
  app->add_option("--prefill-page-size", flags->prefill_page_size, "Tokens of a page on prefill")
      ->transform(number_from(1, 128));
  app->add_option("--decode-page-size", flags->decode_page_size, "Tokens of a page on decode")
      ->transform(number_from(1, 128));
  add_kv_cache_dtype(*app, flags->kv_dtype);
  app->add_option("--writer-policy", flags->policy, "balanced, random or first");
  app->add_option("--fanout", flags->fanout, "direct or local");
  app->add_option(
      "--rates", flags->rates,
      "Estimate times: cuda_ipc, shm or tcp as docs/BENCHMARKS.md has them, or GB/s by the length of a copy, "
      "as 64K:346,1M:360");
  app->add_option("--attempt", flags->attempt, "The attempt whose writers are shown; they rotate")
      ->transform(number_from(uint64_t{1}, std::numeric_limits<uint64_t>::max() >> 1));
  return {app, [app, flags] {
            auto text = make_plan_text(*flags);
            if (!text) return fail(*app, text.error());
            std::cout << *text;
            return static_cast<int>(kExitOk);
          }};
}

}  // namespace baton::apps
