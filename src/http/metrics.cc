#include "http/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>

#include <map>
#include <mutex>
#include <sstream>

#include "base/log.h"
#include "http/load_report.h"

namespace baton::http {

using engine::EngineStats;

namespace {

using Labels = std::map<std::string, std::string>;
using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets kTtft{0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400};
const Buckets kItl{0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06,
                   0.08,  0.1,   0.2,   0.4,   0.6,  0.8,   1,    2,     4,    6,     8};
const Buckets kE2e{0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400, 600, 1200, 1800, 2400};
const Buckets kStage{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
const Buckets kMs{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000};
const Buckets kGbPerS{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256};
const Buckets kMb{0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000};

// vLLM's, up to any context: 1, 2, 5, 10, 20, ...
const Buckets kTokens{1,    2,    5,    10,    20,    50,    100,    200,    500,
                      1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000};
const Buckets kStepTokens{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
const Buckets kSamples{1, 2, 5, 10, 20};
const Buckets kTimes{0, 1, 2, 5, 10, 20};

struct Shape {
  const char* name;
  const char* help;
  const Buckets& buckets;
};
const Shape kSglangHistograms[] = {
    {"sglang:time_to_first_token_seconds", "Time to first token", kTtft},
    {"sglang:inter_token_latency_seconds", "Gap between tokens", kItl},
    {"sglang:e2e_request_latency_seconds", "Request latency", kE2e},
    {"sglang:prompt_tokens_histogram", "Prompt tokens of a request", kTokens},
    {"sglang:generation_tokens_histogram", "Generated tokens of a request", kTokens},
    {"sglang:queue_time_seconds", "Time from arrival to the first step", kStage},
    {"sglang:kv_transfer_latency_ms", "KV handoff, first write to last completion", kMs},
    {"sglang:kv_transfer_total_mb", "KV bytes of a handoff", kMb},
    {"sglang:kv_transfer_speed_gb_s", "KV handoff rate", kGbPerS},
    {"sglang:kv_transfer_bootstrap_ms", "Prefill: wait for decode's grant", kMs},
    {"sglang:kv_transfer_alloc_ms", "Decode: wait for pages to grant", kMs},
};
const Shape kVllmHistograms[] = {
    {"vllm:time_to_first_token_seconds", "Time to first token", kTtft},
    {"vllm:inter_token_latency_seconds", "Gap between tokens", kItl},
    {"vllm:e2e_request_latency_seconds", "Request latency", kE2e},
    {"vllm:request_queue_time_seconds", "Time from arrival to the first step", kStage},
    {"vllm:request_prefill_time_seconds", "Time computing the prompt", kStage},
    {"vllm:request_decode_time_seconds", "Time from the first token to the last", kE2e},
    {"vllm:request_inference_time_seconds", "Time from the first step to the last token", kE2e},
    {"vllm:request_time_per_output_token_seconds", "Mean gap between a request's tokens", kItl},
    {"vllm:time_per_output_token_seconds", "Gap between tokens, by its old name", kItl},
    {"vllm:request_prompt_tokens", "Prompt tokens of a request", kTokens},
    {"vllm:request_generation_tokens", "Generated tokens of a request", kTokens},
    {"vllm:request_max_num_generation_tokens", "Generated tokens of a prompt's longest sample", kTokens},
    {"vllm:request_params_max_tokens", "max_tokens of a request", kTokens},
    {"vllm:request_params_n", "Samples that are asked for of a prompt", kSamples},
    {"vllm:request_num_preemptions", "Times that a request was retracted", kTimes},
    {"vllm:iteration_tokens_total", "Tokens of a step: new ones, and the prompts whose first they are", kStepTokens},
};
constexpr const char* kStageName = "sglang:per_stage_req_latency_seconds";
// SGLang's stages, and what they are here.
constexpr const char* kStages[] = {"prefill_bootstrap", "prefill_forward",    "prefill_transfer_kv_cache",
                                   "decode_bootstrap",  "decode_transferred", "decode_forward"};
constexpr std::pair<const char*, double engine::TtftParts::*> kParts[] = {
    {"grant", &engine::TtftParts::grant_ms},
    {"prefill_queue", &engine::TtftParts::prefill_queue_ms},
    {"prefill", &engine::TtftParts::prefill_ms},
    {"transfer", &engine::TtftParts::transfer_ms},
    {"first_step", &engine::TtftParts::first_step_ms}};

double process_cpu_s() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

struct Metrics::Impl {
  explicit Impl(const MetricsOptions& wanted);

  const MetricsOptions options;
  HttpActivity activity;
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  // Histograms and the counters of events are made by the constructor: they stand at zero before their first event, so
  // that dashboards and rates have a beginning, and their maps need no lock.
  std::map<std::string, prometheus::Histogram*, std::less<>> histograms;
  std::map<std::string, prometheus::Histogram*, std::less<>> ttft_parts;
  std::map<std::string, prometheus::Histogram*, std::less<>> stages;
  prometheus::Counter* transfer_copies = nullptr;
  std::map<engine::FinishReason, prometheus::Counter*> successes;
  std::mutex mutex;  // of what render() raises
  std::map<std::string, prometheus::Family<prometheus::Gauge>*> gauges;
  std::map<std::string, prometheus::Family<prometheus::Counter>*> counters;

  [[nodiscard]] Labels sglang_labels() const {
    return {{"model_name", options.model_name},
            {"engine_type", engine::role_name(options.role)},
            {"tp_rank", "0"},
            {"dp_rank", "0"}};
  }
  [[nodiscard]] Labels vllm_labels() const { return {{"model_name", options.model_name}, {"engine", "0"}}; }

  prometheus::Family<prometheus::Histogram>& histogram_family(const Shape& shape) {
    return prometheus::BuildHistogram().Name(shape.name).Help(shape.help).Register(*registry);
  }
  // Names that were switched off are not there, and nothing is counted.
  void observe(std::string_view name, double value, size_t times = 1) {
    const auto found = histograms.find(name);
    if (found == histograms.end()) return;
    for (size_t i = 0; i < times; ++i) found->second->Observe(value);
  }

  void gauge(const std::string& name, const char* help, double value, const Labels& labels) {
    auto& family = gauges[name];
    if (family == nullptr) family = &prometheus::BuildGauge().Name(name).Help(help).Register(*registry);
    family->Add(labels).Set(value);
  }
  // Raises a counter to a total that is counted elsewhere.
  void counter(const std::string& name, const char* help, double total, const Labels& labels) {
    auto& family = counters[name];
    if (family == nullptr) family = &prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
    prometheus::Counter& c = family->Add(labels);
    if (total > c.Value()) c.Increment(total - c.Value());
  }
  void render_sglang(const EngineStats& stats, const engine::InstanceInfo& info);
  void render_steps(const EngineStats& stats);
  void render_vllm(const EngineStats& stats, const engine::InstanceInfo& info);
  void render_own(const EngineStats& stats);
};

Metrics::Impl::Impl(const MetricsOptions& wanted) : options(wanted) {
  for (const Shape& shape : kSglangHistograms)
    histograms[shape.name] = &histogram_family(shape).Add(sglang_labels(), shape.buckets);
  auto& stage_family = histogram_family({kStageName, "Time of a request in a stage", kStage});
  for (const char* stage : kStages) {
    Labels labels = sglang_labels();
    labels["stage"] = stage;
    stages[stage] = &stage_family.Add(labels, kStage);
  }
  const Shape transfer{"baton_transfer_seconds", "KV handoff, first write to last completion", kStage};
  histograms[transfer.name] = &histogram_family(transfer).Add({}, transfer.buckets);
  auto& parts = histogram_family({"baton_ttft_part_seconds", "TTFT as a sum of its parts", kStage});
  for (const auto& [part, member] : kParts) ttft_parts[part] = &parts.Add({{"part", part}}, kStage);
  transfer_copies = &prometheus::BuildCounter()
                         .Name("baton_transfer_copies_total")
                         .Help("Contiguous copies of all handoffs")
                         .Register(*registry)
                         .Add({});
  if (!options.vllm_names) return;
  for (const Shape& shape : kVllmHistograms)
    histograms[shape.name] = &histogram_family(shape).Add(vllm_labels(), shape.buckets);
  auto& ended = prometheus::BuildCounter()
                    .Name("vllm:request_success_total")
                    .Help("Requests that ended, by their reason")
                    .Register(*registry);
  for (const auto& [reason, text] : {std::pair{engine::FinishReason::kStop, "stop"},
                                     {engine::FinishReason::kLength, "length"},
                                     {engine::FinishReason::kAbort, "abort"}}) {
    Labels labels = vllm_labels();
    labels["finished_reason"] = text;
    successes[reason] = &ended.Add(labels);
  }
}

Metrics::Metrics(const MetricsOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Metrics::~Metrics() = default;

void Metrics::on_queue_time(double seconds) {
  impl_->observe("sglang:queue_time_seconds", seconds);
  impl_->observe("vllm:request_queue_time_seconds", seconds);
}

void Metrics::on_transfer(double seconds, uint64_t bytes, uint64_t copies) {
  const double mb = static_cast<double>(bytes) / 1e6;
  impl_->observe("sglang:kv_transfer_latency_ms", seconds * 1e3);
  impl_->observe("sglang:kv_transfer_total_mb", mb);
  if (seconds > 0) impl_->observe("sglang:kv_transfer_speed_gb_s", mb / 1e3 / seconds);
  impl_->observe("baton_transfer_seconds", seconds);
  impl_->transfer_copies->Increment(static_cast<double>(copies));
}

void Metrics::on_ttft(const engine::TtftParts& parts) {
  for (const auto& [part, member] : kParts) {
    if (parts.*member >= 0) impl_->ttft_parts.at(part)->Observe(parts.*member / 1e3);
  }
  if (parts.prefill_ms >= 0) impl_->observe("vllm:request_prefill_time_seconds", parts.prefill_ms / 1e3);
  // Decode makes the grant that prefill waits for.
  const bool decode = impl_->options.role == engine::Role::kDecode;
  if (parts.grant_ms >= 0)
    impl_->observe(decode ? "sglang:kv_transfer_alloc_ms" : "sglang:kv_transfer_bootstrap_ms", parts.grant_ms);
  const auto stage = [&](const char* name, double ms) {
    if (ms >= 0) impl_->stages.at(name)->Observe(ms / 1e3);
  };
  stage(decode ? "decode_bootstrap" : "prefill_bootstrap", parts.grant_ms);
  stage(decode ? "decode_transferred" : "prefill_transfer_kv_cache", parts.transfer_ms);
  if (!decode) stage("prefill_forward", parts.prefill_ms);
}

void Metrics::on_step(int64_t tokens) { impl_->observe("vllm:iteration_tokens_total", static_cast<double>(tokens)); }

HttpActivity& Metrics::http() { return impl_->activity; }

void Metrics::on_first_token(double seconds) {
  impl_->observe("sglang:time_to_first_token_seconds", seconds);
  impl_->observe("vllm:time_to_first_token_seconds", seconds);
}

void Metrics::on_inter_token(double seconds, size_t tokens) {
  if (tokens == 0) return;
  const double each = seconds / static_cast<double>(tokens);
  impl_->observe("sglang:inter_token_latency_seconds", each, tokens);
  impl_->observe("vllm:inter_token_latency_seconds", each, tokens);
  impl_->observe("vllm:time_per_output_token_seconds", each, tokens);
}

void Metrics::on_request_end(const EndedRequest& ended) {
  impl_->observe("sglang:e2e_request_latency_seconds", ended.seconds);
  impl_->observe("vllm:e2e_request_latency_seconds", ended.seconds);
  impl_->observe("vllm:request_inference_time_seconds", ended.inference_s);
  impl_->observe("sglang:prompt_tokens_histogram", ended.prompt_tokens);
  impl_->observe("sglang:generation_tokens_histogram", ended.completion_tokens);
  impl_->observe("vllm:request_prompt_tokens", ended.prompt_tokens);
  impl_->observe("vllm:request_generation_tokens", ended.completion_tokens);
  impl_->observe("vllm:request_params_max_tokens", ended.max_tokens);
  impl_->observe("vllm:request_num_preemptions", ended.preemptions);
  if (ended.since_first_token) {
    impl_->observe("vllm:request_decode_time_seconds", *ended.since_first_token);
    if (impl_->options.role != engine::Role::kPrefill)
      impl_->stages.at("decode_forward")->Observe(*ended.since_first_token);
    if (ended.completion_tokens > 1) {
      impl_->observe("vllm:request_time_per_output_token_seconds",
                     *ended.since_first_token / (ended.completion_tokens - 1));
    }
  }
  if (const auto found = impl_->successes.find(ended.reason); found != impl_->successes.end())
    found->second->Increment();
}

void Metrics::on_prompt_end(int samples, int longest) {
  impl_->observe("vllm:request_params_n", samples);
  impl_->observe("vllm:request_max_num_generation_tokens", longest);
}

void Metrics::Impl::render_sglang(const EngineStats& stats, const engine::InstanceInfo& info) {
  const Labels l = sglang_labels();
  int used = 0, total = 0, free = 0, cached = 0;
  for (const EngineStats::Pages& p : stats.pages) {
    free += p.free;
    cached += p.cached;
    used += p.used();
    total += p.free + p.used() + p.cached;
  }
  gauge("sglang:num_running_reqs", "Requests in the running batch", stats.running, l);
  gauge("sglang:num_queue_reqs", "Requests waiting", stats.waiting, l);
  // As of a server of SGLang's whose requests want neither.
  gauge("sglang:num_grammar_queue_reqs", "Requests waiting for a grammar", 0, l);
  gauge("sglang:spec_accept_length", "Tokens that speculation adds to a step", 0, l);
  gauge("sglang:gen_throughput", "Generated tokens per second", stats.generation_tokens_per_s, l);
  gauge("sglang:cache_hit_rate", "Prompt tokens found in the prefix cache", stats.cache_hit_rate, l);
  gauge("sglang:token_usage", "Share of the KV pool in use", total > 0 ? static_cast<double>(used) / total : 0, l);
  gauge("sglang:num_used_tokens", "KV tokens in use", static_cast<double>(used) * info.page_tokens, l);
  gauge("sglang:max_total_num_tokens", "KV tokens of the pool", static_cast<double>(info.max_total_tokens), l);
  const auto tokens = [&](int pages) { return static_cast<double>(pages) * info.page_tokens; };
  gauge("sglang:kv_used_tokens", "KV tokens in use", tokens(used), l);
  gauge("sglang:kv_available_tokens", "KV tokens that hold nothing", tokens(free), l);
  gauge("sglang:kv_evictable_tokens", "KV tokens of cached prefixes", tokens(cached), l);
  gauge("sglang:num_retracted_reqs", "Requests that lost their pages and wait for others", stats.retracted, l);
  counter("sglang:num_retracted_requests_total", "Times that requests lost their pages",
          static_cast<double>(stats.preemptions_total), l);
  counter("sglang:num_retracted_input_tokens_total", "Prompt tokens of requests that lost their pages",
          static_cast<double>(stats.retracted_prompt_tokens), l);
  counter("sglang:num_retracted_output_tokens_total", "Generated tokens of requests that lost their pages",
          static_cast<double>(stats.retracted_new_tokens), l);
  gauge("sglang:decode_sum_seq_lens", "Tokens of the sequences in the running batch",
        static_cast<double>(stats.running_tokens), l);
  gauge("sglang:full_token_usage", "Share of the KV pool in use", total > 0 ? static_cast<double>(used) / total : 0, l);
  gauge("sglang:page_size", "Tokens of a KV page", info.page_tokens, l);
  gauge("sglang:num_pages", "KV pages", total, l);
  gauge("sglang:context_len", "Prompt and new tokens that a request may have", static_cast<double>(info.max_model_len),
        l);
  constexpr double kGiB = 1024.0 * 1024 * 1024;
  gauge("sglang:weight_memory_usage_gb", "Weights in GiB", static_cast<double>(info.weight_bytes) / kGiB, l);
  gauge("sglang:kv_cache_memory_usage_gb", "KV pools in GiB", static_cast<double>(info.kv_bytes) / kGiB, l);
  for (const auto& [phase, seconds] : {std::pair{"load_weight", info.load_weight_s},
                                       {"kv_cache_allocation", info.kv_allocation_s},
                                       {"scheduler_e2e", info.startup_s}}) {
    Labels labels = l;
    labels["phase"] = phase;
    gauge("sglang:startup_time_seconds", "What the start took, by phase", seconds, labels);
  }
  counter("sglang:prompt_tokens_total", "Prompt tokens", static_cast<double>(stats.prompt_tokens_total), l);
  counter("sglang:generation_tokens_total", "Generated tokens", static_cast<double>(stats.generation_tokens_total), l);
  counter("sglang:cached_tokens_total", "Prompt tokens from the prefix cache",
          static_cast<double>(stats.cached_tokens_total), l);
  counter("sglang:num_requests_total", "Requests", static_cast<double>(stats.requests_total), l);
  counter("sglang:num_aborted_requests_total", "Requests that were aborted", static_cast<double>(stats.aborted_total),
          l);
  const bool prefill = options.role == engine::Role::kPrefill, decode = options.role == engine::Role::kDecode;
  gauge("sglang:num_prefill_prealloc_queue_reqs", "Prefill: waiting for a grant", prefill ? stats.waiting_grant : 0, l);
  gauge("sglang:num_prefill_bootstrap_queue_reqs", "Prefill: waiting for a grant", prefill ? stats.waiting_grant : 0,
        l);
  gauge("sglang:num_prefill_inflight_queue_reqs", "Prefill: KV on its way", prefill ? stats.transferring : 0, l);
  gauge("sglang:num_decode_prealloc_queue_reqs", "Decode: waiting for pages", decode ? stats.waiting_grant : 0, l);
  gauge("sglang:num_decode_transfer_queue_reqs", "Decode: KV on its way", decode ? stats.transferring : 0, l);
  counter("sglang:num_bootstrap_failed_reqs_total", "Handoffs that failed before a grant",
          static_cast<double>(stats.bootstrap_failed_total), l);
  counter("sglang:num_transfer_failed_reqs_total", "Handoffs that failed after a grant",
          static_cast<double>(stats.transfer_failed_total), l);
}

void Metrics::Impl::render_steps(const EngineStats& stats) {
  const auto labelled = [this](const char* name, const char* value) {
    Labels labels = sglang_labels();
    labels[name] = value;
    return labels;
  };
  for (const auto& [mode, tokens] : {std::pair{"prefill_compute", stats.steps.prompt_tokens},
                                     {"prefill_cache", stats.steps.cached_tokens},
                                     {"decode", stats.steps.decode_tokens}}) {
    counter("sglang:realtime_tokens_total", "Tokens as steps compute them, and those found in the prefix cache",
            static_cast<double>(tokens), labelled("mode", mode));
  }
  for (const auto& [category, seconds] :
       {std::pair{"extend", stats.steps.prompt_s}, {"decode", stats.steps.decode_s}, {"mixed", stats.steps.mixed_s}}) {
    counter("sglang:forward_execution_seconds_total", "Time of forward passes", seconds,
            labelled("category", category));
  }
  counter("sglang:process_cpu_seconds_total", "CPU time of the process, user and system", process_cpu_s(),
          {{"component", "tokenizer"}});
}

void Metrics::Impl::render_vllm(const EngineStats& stats, const engine::InstanceInfo& info) {
  if (!options.vllm_names) return;
  const Labels l = vllm_labels();
  gauge("vllm:num_requests_running", "Requests in the running batch", stats.running, l);
  gauge("vllm:num_requests_waiting", "Requests waiting", stats.waiting + stats.waiting_grant, l);
  // Requests wait for room, or for what another instance has to do first.
  for (const auto& [reason, requests] : {std::pair{"capacity", stats.waiting}, {"deferred", stats.waiting_grant}}) {
    Labels labels = l;
    labels["reason"] = reason;
    gauge("vllm:num_requests_waiting_by_reason", "Requests waiting, by what they wait for", requests, labels);
  }
  // As of a server of vLLM's that never sleeps.
  for (const auto& [state, is] : {std::pair{"awake", 1}, {"weights_offloaded", 0}, {"discard_all", 0}}) {
    Labels labels = l;
    labels["sleep_state"] = state;
    gauge("vllm:engine_sleep_state", "1 for the state that the engine is in", is, labels);
  }
  const double concurrency =
      info.max_model_len > 0 ? static_cast<double>(info.max_total_tokens) / static_cast<double>(info.max_model_len) : 0;
  gauge("vllm:cache_config_info", "The KV cache, in labels", 1,
        {{"engine", "0"},
         {"block_size", std::to_string(info.page_tokens)},
         {"num_gpu_blocks", std::to_string(int64_t{info.pages_per_group} * static_cast<int64_t>(stats.pages.size()))},
         {"cache_dtype", info.kv_dtype},
         {"kv_cache_size_tokens", std::to_string(info.max_total_tokens)},
         {"kv_cache_max_concurrency", fmt::format("{:.2f}", concurrency)}});
  gauge("vllm:kv_cache_usage_perc", "Share of the KV pool in use", kv_usage(stats, info), l);
  counter("vllm:prompt_tokens_total", "Prompt tokens", static_cast<double>(stats.prompt_tokens_total), l);
  counter("vllm:generation_tokens_total", "Generated tokens", static_cast<double>(stats.generation_tokens_total), l);
  counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up", static_cast<double>(stats.prompt_tokens_total),
          l);
  counter("vllm:prefix_cache_hits_total", "Prompt tokens found", static_cast<double>(stats.cached_tokens_total), l);
  counter("vllm:num_preemptions_total", "Sequences retracted", static_cast<double>(stats.preemptions_total), l);
}

void Metrics::Impl::render_own(const EngineStats& stats) {
  EngineStats::Pages sum;
  for (const EngineStats::Pages& p : stats.pages) {
    sum.free += p.free;
    sum.owned += p.owned;
    sum.granted += p.granted;
    sum.quarantined += p.quarantined;
    sum.cached += p.cached;
  }
  const std::pair<const char*, int> states[] = {{"free", sum.free},
                                                {"owned", sum.owned},
                                                {"granted", sum.granted},
                                                {"quarantined", sum.quarantined},
                                                {"cached", sum.cached}};
  for (const auto& [state, pages] : states) gauge("baton_pages", "KV pages by state", pages, {{"state", state}});
  for (const EngineStats::Link& link : stats.links) {
    const Labels ranks{{"src_rank", std::to_string(link.source)}, {"dst_rank", std::to_string(link.destination)}};
    counter("baton_transfer_bytes_total", "KV bytes by rank pair", static_cast<double>(link.bytes), ranks);
    Labels planned = ranks;
    planned["kind"] = link.real ? "real" : "dummy";
    gauge("baton_link_planned", "Rank pairs of the transfer plan", 1, planned);
  }
  for (const auto& [reason, times] : stats.transfer_failures) {
    counter("baton_transfer_failures_total", "Handoffs that failed", static_cast<double>(times), {{"reason", reason}});
  }
  const std::pair<const char*, uint64_t> checks[] = {{"equal", stats.checksums - stats.checksum_mismatches},
                                                     {"different", stats.checksum_mismatches}};
  for (const auto& [result, pages] : checks) {
    counter("baton_page_checksums_total", "Pages that came, compared with what prefill computed",
            static_cast<double>(pages), {{"result", result}});
  }
  counter("baton_log_lines_dropped_total", "Log lines that nobody read in time",
          static_cast<double>(log_lines_dropped()), {});
  counter("baton_steps_total", "Forward passes", static_cast<double>(stats.steps_total), {});
}

std::string Metrics::render(const EngineStats& stats, const engine::InstanceInfo& info) {
  std::lock_guard lock(impl_->mutex);
  impl_->render_sglang(stats, info);
  impl_->render_steps(stats);
  impl_->render_vllm(stats, info);
  impl_->render_own(stats);
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, impl_->registry->Collect());
  return out.str() + render_exposition(impl_->activity.families());
}

}  // namespace baton::http
