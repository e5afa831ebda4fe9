#include "bench/bench_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "http/json.h"

namespace baton::bench {
namespace {

constexpr const char* kParts[] = {"router", "grant", "prefill_queue", "prefill", "transfer", "first_step"};

double mean(const std::vector<double>& values) {
  return values.empty() ? 0 : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

double percentile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = q / 100.0 * static_cast<double>(values.size() - 1);
  const auto low = static_cast<size_t>(rank);
  const size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (values[high] - values[low]) * (rank - static_cast<double>(low));
}

BenchFigures summarize(const std::vector<BenchSample>& samples, double duration_s) {
  BenchFigures f;
  f.duration_s = duration_s;
  std::vector<double> e2e, ttft, tpot, itl;
  std::map<std::string, std::vector<double>> parts;
  for (const BenchSample& s : samples) {
    if (!s.ok) {
      ++f.failed;
      continue;
    }
    ++f.completed;
    f.input_tokens += s.prompt_tokens;
    f.output_tokens += s.output_tokens;
    e2e.push_back(s.latency_s * 1e3);
    ttft.push_back(s.ttft_s * 1e3);
    if (s.output_tokens > 1) tpot.push_back((s.latency_s - s.ttft_s) * 1e3 / (s.output_tokens - 1));
    for (const double gap : s.itl_s) itl.push_back(gap * 1e3);
    if (s.ttft_parts.empty()) continue;
    double known = 0;
    for (const auto& [name, ms] : s.ttft_parts) {
      parts[name].push_back(ms);
      known += ms;
    }
    // Router, network and HTTP on both sides: what the engine did not see.
    parts["router"].push_back(std::max(0.0, s.ttft_s * 1e3 - known));
  }
  f.request_throughput = f.completed / duration_s;
  f.input_throughput = static_cast<double>(f.input_tokens) / duration_s;
  f.output_throughput = static_cast<double>(f.output_tokens) / duration_s;
  f.total_throughput = f.input_throughput + f.output_throughput;
  f.concurrency = std::accumulate(e2e.begin(), e2e.end(), 0.0) / 1e3 / duration_s;
  f.e2e_mean = mean(e2e);
  f.e2e_median = percentile(e2e, 50);
  f.ttft_mean = mean(ttft);
  f.ttft_median = percentile(ttft, 50);
  f.ttft_p99 = percentile(ttft, 99);
  f.tpot_mean = mean(tpot);
  f.tpot_median = percentile(tpot, 50);
  f.tpot_p99 = percentile(tpot, 99);
  f.itl_mean = mean(itl);
  f.itl_median = percentile(itl, 50);
  f.itl_p95 = percentile(itl, 95);
  f.itl_p99 = percentile(itl, 99);
  f.itl_max = itl.empty() ? 0 : *std::max_element(itl.begin(), itl.end());
  for (const auto& [name, values] : parts) f.ttft_parts_mean[name] = mean(values);
  return f;
}

std::string report_text(const BenchOptions& options, const BenchFigures& f) {
  std::string out;
  const auto title = [&](const std::string& text, char fill) {
    const size_t width = 50, pad = width - std::min(width, text.size());
    out += std::string(pad / 2, fill) + text + std::string(pad - pad / 2, fill) + "\n";
  };
  const auto text = [&](const char* label, const std::string& value) {
    out += fmt::format("{:<40} {:<10}\n", label, value);
  };
  const auto count = [&](const char* label, int64_t value) { text(label, std::to_string(value)); };
  const auto real = [&](const char* label, double value) { text(label, fmt::format("{:.2f}", value)); };
  title(" Serving Benchmark Result ", '=');
  text("Backend:", options.backend);
  text("Traffic request rate:", options.request_rate > 0 ? fmt::format("{}", options.request_rate) : "inf");
  text("Max request concurrency:", options.max_concurrency > 0 ? std::to_string(options.max_concurrency) : "not set");
  count("Successful requests:", f.completed);
  if (f.failed > 0) count("Failed requests:", f.failed);
  real("Benchmark duration (s):", f.duration_s);
  count("Total input tokens:", f.input_tokens);
  count("Total generated tokens:", f.output_tokens);
  real("Request throughput (req/s):", f.request_throughput);
  real("Input token throughput (tok/s):", f.input_throughput);
  real("Output token throughput (tok/s):", f.output_throughput);
  real("Total token throughput (tok/s):", f.total_throughput);
  real("Concurrency:", f.concurrency);
  title("End-to-End Latency", '-');
  real("Mean E2E Latency (ms):", f.e2e_mean);
  real("Median E2E Latency (ms):", f.e2e_median);
  title("Time to First Token", '-');
  real("Mean TTFT (ms):", f.ttft_mean);
  real("Median TTFT (ms):", f.ttft_median);
  real("P99 TTFT (ms):", f.ttft_p99);
  if (!f.ttft_parts_mean.empty()) {
    title("TTFT as a sum (means)", '-');
    for (const char* part : kParts) {
      const auto found = f.ttft_parts_mean.find(part);
      if (found != f.ttft_parts_mean.end()) real(fmt::format("TTFT part {} (ms):", part).c_str(), found->second);
    }
  }
  title("Time per Output Token (excl. 1st token)", '-');
  real("Mean TPOT (ms):", f.tpot_mean);
  real("Median TPOT (ms):", f.tpot_median);
  real("P99 TPOT (ms):", f.tpot_p99);
  title("Inter-Token Latency", '-');
  real("Mean ITL (ms):", f.itl_mean);
  real("Median ITL (ms):", f.itl_median);
  real("P95 ITL (ms):", f.itl_p95);
  real("P99 ITL (ms):", f.itl_p99);
  real("Max ITL (ms):", f.itl_max);
  title("", '=');
  return out;
}

std::string report_json(const BenchOptions& options, const BenchFigures& f) {
  boost::json::object out{
      {"backend", options.backend},
      {"dataset_name", options.dataset},
      {"request_rate", options.request_rate > 0 ? boost::json::value(options.request_rate) : boost::json::value("inf")},
      {"max_concurrency",
       options.max_concurrency > 0 ? boost::json::value(options.max_concurrency) : boost::json::value(nullptr)},
      {"random_input_len", options.input_len},
      {"random_output_len", options.output_len},
      {"random_range_ratio", options.range_ratio},
      {"duration", f.duration_s},
      {"completed", f.completed},
      {"failed", f.failed},
      {"total_input_tokens", f.input_tokens},
      {"total_output_tokens", f.output_tokens},
      {"request_throughput", f.request_throughput},
      {"input_throughput", f.input_throughput},
      {"output_throughput", f.output_throughput},
      {"total_throughput", f.total_throughput},
      {"concurrency", f.concurrency},
      {"mean_e2e_latency_ms", f.e2e_mean},
      {"median_e2e_latency_ms", f.e2e_median},
      {"mean_ttft_ms", f.ttft_mean},
      {"median_ttft_ms", f.ttft_median},
      {"p99_ttft_ms", f.ttft_p99},
      {"mean_tpot_ms", f.tpot_mean},
      {"median_tpot_ms", f.tpot_median},
      {"p99_tpot_ms", f.tpot_p99},
      {"mean_itl_ms", f.itl_mean},
      {"median_itl_ms", f.itl_median},
      {"p95_itl_ms", f.itl_p95},
      {"p99_itl_ms", f.itl_p99},
      {"max_itl_ms", f.itl_max}};
  boost::json::object parts;
  for (const auto& [name, ms] : f.ttft_parts_mean) parts[name] = ms;
  out["mean_ttft_parts_ms"] = std::move(parts);
  return boost::json::serialize(out);
}

}  // namespace baton::bench
