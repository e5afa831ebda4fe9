// Prometheus text: the names, kinds and labels of compatibility.inc, from the first scrape on.
#include "http/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "http/exposition_check.h"
#include "http/test_support.h"

namespace baton::http {

using engine::Role;

namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kSglang = "dp_rank,engine_type,model_name,tp_rank";
constexpr const char* kVllm = "engine,model_name";
struct Name {
  const char* kind;
  const char* name;
  const char* labels;
};
const Name kNames[] = {
#define METRIC(kind, name, labels) {kind, name, labels},
#include "http/compatibility.inc"
};

engine::EngineStats busy() {
  engine::EngineStats stats;
  stats.running = 3;
  stats.waiting = 2;
  stats.waiting_grant = 5;
  stats.transferring = 7;
  stats.pages = {{10, 4, 2, 1, 3}, {20, 0, 0, 0, 0}};
  stats.prompt_tokens_total = 100;
  stats.cached_tokens_total = 25;
  stats.links = {{0, 1, 4096, 2, true}, {1, 1, 0, 0, false}};
  stats.transfer_failures = {{"timeout", 2}};
  stats.retracted = 1;
  stats.retracted_prompt_tokens = 30;
  stats.retracted_new_tokens = 4;
  stats.running_tokens = 90;
  stats.steps = {75, 48, 25, 1.5, 0.5, 0.25};
  return stats;
}
engine::InstanceInfo instance() {
  engine::InstanceInfo info;
  info.page_tokens = 16;
  info.pages_per_group = 20;
  info.max_total_tokens = 640;
  info.max_model_len = 320;
  info.kv_dtype = "bfloat16";
  info.weight_bytes = uint64_t{3} << 29;
  info.kv_bytes = uint64_t{1} << 30;
  info.load_weight_s = 2;
  return info;
}
std::string render(Role role = Role::kDecode, bool vllm = true) {
  Metrics metrics({"tiny", role, vllm});
  return metrics.render(busy(), instance());
}

// Label names of the first sample of a metric, sorted, without a histogram's own.
std::string labels_of(const std::string& text, const Name& metric) {
  const std::string sample =
      std::string("\n") + metric.name + (std::string(metric.kind) == "histogram" ? "_bucket" : "");
  const size_t at = text.find(sample);
  if (at == std::string::npos) return "no sample";
  const std::string line = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
  std::set<std::string> names;
  static const std::regex label("([a-z_]+)=\"");
  for (std::sregex_iterator it(line.begin(), line.end(), label), end; it != end; ++it) names.insert((*it)[1]);
  names.erase("le");
  std::string joined;
  for (const std::string& name : names) joined += (joined.empty() ? "" : ",") + name;
  return joined;
}

TEST(Metrics, EveryNameIsThereBeforeTheFirstRequest) {
  const std::string text = render();
  for (const Name& metric : kNames) {
    EXPECT_THAT(text, HasSubstr(std::string("# TYPE ") + metric.name + " " + metric.kind + "\n"));
    EXPECT_EQ(labels_of(text, metric), metric.labels) << metric.name;
  }
}

TEST(Metrics, VllmNamesCanBeSwitchedOff) {
  EXPECT_THAT(render(Role::kUnified, false), Not(HasSubstr("vllm:")));
  Metrics metrics({"tiny", Role::kUnified, false});
  metrics.on_queue_time(1);
  metrics.on_request_end({1, 1, 1, engine::FinishReason::kStop, 3, 2, 2, 0});
  EXPECT_THAT(metrics.render(busy(), instance()), Not(HasSubstr("vllm:")));
}

// The line of a sample, for its value.
std::string value_of(const std::string& text, const std::string& start) {
  const size_t at = text.find("\n" + start);
  if (at == std::string::npos) return "no sample " + start;
  const size_t end = text.find('\n', at + 1);
  const size_t space = text.rfind(' ', end);
  return text.substr(space + 1, end - space - 1);
}

TEST(Metrics, GaugesShowTheMoment) {
  const std::string text = render();
  const std::map<std::string, std::string> expected = {
      {"sglang:num_running_reqs{", "3"},
      {"sglang:num_queue_reqs{", "2"},
      {"sglang:num_grammar_queue_reqs{", "0"},
      {"sglang:spec_accept_length{", "0"},
      {"sglang:num_used_tokens{", "112"},  // 7 pages of 16
      {"sglang:token_usage{", "0.175"},    // 7 of 40 pages
      {"sglang:max_total_num_tokens{", "640"},
      {"sglang:num_decode_prealloc_queue_reqs{", "5"},
      {"sglang:num_decode_transfer_queue_reqs{", "7"},
      {"sglang:num_prefill_prealloc_queue_reqs{", "0"},
      {"sglang:kv_available_tokens{", "480"},
      {"sglang:kv_evictable_tokens{", "48"},
      {"sglang:kv_used_tokens{", "112"},
      {"sglang:num_retracted_reqs{", "1"},
      {"sglang:weight_memory_usage_gb{", "1.5"},
      {"sglang:kv_cache_memory_usage_gb{", "1"},
      {"sglang:num_retracted_input_tokens_total{", "30"},
      {"sglang:num_retracted_output_tokens_total{", "4"},
      {"sglang:decode_sum_seq_lens{", "90"},
      {"sglang:full_token_usage{", "0.175"},
      {"sglang:page_size{", "16"},
      {"sglang:num_pages{", "40"},
      {"sglang:context_len{", "320"},
      {"vllm:num_requests_waiting_by_reason{engine=\"0\",model_name=\"tiny\",reason=\"deferred\"}", "5"},
      {"vllm:kv_cache_usage_perc{", "0.175"},
      {"vllm:num_requests_waiting{", "7"},
      {"baton_pages{state=\"free\"}", "30"},
      {"baton_pages{state=\"quarantined\"}", "1"},
      {"baton_transfer_failures_total{reason=\"timeout\"}", "2"},
      {"baton_link_planned{dst_rank=\"1\",kind=\"dummy\",src_rank=\"1\"}", "1"},
      {"baton_transfer_bytes_total{dst_rank=\"1\",src_rank=\"0\"}", "4096"},
  };
  for (const auto& [start, value] : expected) EXPECT_EQ(value_of(text, start), value) << start;
  EXPECT_EQ(value_of(render(Role::kPrefill), "sglang:num_prefill_prealloc_queue_reqs{"), "5");
  EXPECT_THAT(text, HasSubstr("engine_type=\"decode\""));
  for (const auto& [sample, value] : {std::pair{"mode=\"prefill_compute\",model_name=\"tiny\",tp_rank=\"0\"} ", "75"},
                                      {"mode=\"prefill_cache\",model_name=\"tiny\",tp_rank=\"0\"} ", "25"},
                                      {"mode=\"decode\",model_name=\"tiny\",tp_rank=\"0\"} ", "48"}})
    EXPECT_THAT(text, HasSubstr(std::string(sample) + value));
  for (const auto& [category, value] : {std::pair{"extend", "1.5"}, {"decode", "0.5"}, {"mixed", "0.25"}})
    EXPECT_EQ(value_of(text, fmt::format("sglang:forward_execution_seconds_total{{category=\"{}\"", category)), value);
  EXPECT_GT(std::stod(value_of(text, "sglang:process_cpu_seconds_total{component=\"tokenizer\"}")), 0);
  EXPECT_THAT(text, HasSubstr("phase=\"load_weight\",tp_rank=\"0\"} 2\n"));
  EXPECT_THAT(text,
              HasSubstr("kv_cache_max_concurrency=\"2.00\",kv_cache_size_tokens=\"640\",num_gpu_blocks=\"40\"} 1\n"));
}

TEST(Metrics, EventsAreCounted) {
  for (const Role role : {Role::kPrefill, Role::kDecode}) {
    Metrics metrics({"tiny", role, true});
    metrics.on_queue_time(0.5);
    metrics.on_transfer(0.001, 2'000'000, 12);
    engine::TtftParts parts;
    parts.grant_ms = 4;
    parts.prefill_ms = 100;
    metrics.on_ttft(parts);
    metrics.on_first_token(0.3);
    metrics.on_inter_token(0.4, 4);
    metrics.on_request_end({1, 0.7, 0.9, engine::FinishReason::kStop, 5, 8, 10, 1});
    metrics.on_request_end({1, std::nullopt, 0, engine::FinishReason::kAbort, 5, 0, 20, 0});
    metrics.on_prompt_end(2, 8);
    metrics.on_step(6);
    metrics.on_step(1);
    EXPECT_EQ(exposition_faults(metrics.render(busy(), instance())), "");
    const std::string text = metrics.render(busy(), instance());
    const bool decode = role == Role::kDecode;
    const std::map<std::string, std::string> expected = {
        {"sglang:queue_time_seconds_sum", "0.5"},
        {"sglang:kv_transfer_latency_ms_sum", "1"},
        {"sglang:kv_transfer_total_mb_sum", "2"},
        {"sglang:kv_transfer_speed_gb_s_sum", "2"},
        {"sglang:kv_transfer_alloc_ms_count", decode ? "1" : "0"},
        {"sglang:kv_transfer_bootstrap_ms_count", decode ? "0" : "1"},
        {"baton_transfer_copies_total", "12"},
        {"baton_ttft_part_seconds_sum{part=\"prefill\"}", "0.1"},
        {"baton_ttft_part_seconds_count{part=\"transfer\"}", "0"},
        {"sglang:time_to_first_token_seconds_sum", "0.3"},
        {"sglang:inter_token_latency_seconds_count", "4"},
        {"sglang:inter_token_latency_seconds_sum", "0.4"},
        {"sglang:e2e_request_latency_seconds_count", "2"},
        {"vllm:request_decode_time_seconds_sum", "0.7"},
        {"vllm:request_inference_time_seconds_sum", "0.9"},
        {"vllm:request_inference_time_seconds_count", "2"},
        {"vllm:request_time_per_output_token_seconds_count", "1"},
        {"vllm:time_per_output_token_seconds_count", "4"},
        {"vllm:request_prompt_tokens_sum", "10"},
        {"vllm:request_generation_tokens_sum", "8"},
        {"vllm:request_generation_tokens_count", "2"},
        {"vllm:request_max_num_generation_tokens_sum", "8"},
        {"vllm:request_params_max_tokens_sum", "30"},
        {"vllm:request_params_n_sum", "2"},
        {"vllm:request_params_n_count", "1"},
        {"vllm:request_num_preemptions_sum", "1"},
        {"vllm:iteration_tokens_total_sum", "7"},
        {"vllm:iteration_tokens_total_count", "2"},
        {"vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"tiny\"}", "1"},
        {"vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"tiny\"}", "0"},
    };
    for (const auto& [start, value] : expected) EXPECT_EQ(value_of(text, start), value) << start;
  }
}

// However an answer ends: sent, streamed, or dropped.
TEST(Metrics, HttpRequestsAreActiveUntilTheirAnswersEnd) {
  Metrics metrics({"tiny", Role::kUnified, true});
  const auto line = [&](const char* name) {
    return value_of(metrics.render(busy(), instance()), fmt::format("sglang:{}", name));
  };
  constexpr const char* kActive = "http_requests_active{endpoint=\"/generate\",method=\"POST\"}";
  EXPECT_EQ(line(kActive), "0");
  KeptAnswer sent, streamed, dropped;
  const auto watch = [&](KeptAnswer& answer) {
    return metrics.http().watch(std::make_shared<KeepingWriter>(answer), "/generate", "POST");
  };
  auto a = watch(sent), b = watch(streamed), c = watch(dropped);
  EXPECT_EQ(line(kActive), "3");
  a->send(400, {}, "no");
  b->start(200, {});
  EXPECT_EQ(line(kActive), "2");
  b->write("x");
  b->finish();
  c.reset();
  EXPECT_EQ(line(kActive), "0");
  EXPECT_EQ(streamed.body, "x");
  EXPECT_EQ(line("http_requests_total{endpoint=\"/generate\",method=\"POST\"}"), "3");
  EXPECT_EQ(line("http_responses_total{endpoint=\"/generate\",method=\"POST\",status_code=\"400\"}"), "1");
  EXPECT_EQ(line("http_responses_total{endpoint=\"/generate\",method=\"POST\",status_code=\"200\"}"), "1");
}

TEST(Metrics, CountersNeverFall) {
  Metrics metrics({"tiny", Role::kUnified, true});
  engine::EngineStats stats = busy();
  (void)metrics.render(stats, instance());
  stats.prompt_tokens_total = 90;
  EXPECT_EQ(value_of(metrics.render(stats, instance()), "sglang:prompt_tokens_total{"), "100");
  stats.prompt_tokens_total = 110;
  EXPECT_EQ(value_of(metrics.render(stats, instance()), "sglang:prompt_tokens_total{"), "110");
}

}  // namespace
}  // namespace baton::http
