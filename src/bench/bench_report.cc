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

namespace {

BenchSpread spread_of(const std::vector<double>& values) {
  BenchSpread s;
  s.mean = mean(values);
  s.median = percentile(values, 50);
  for (const double value : values) s.std += (value - s.mean) * (value - s.mean);
  if (!values.empty()) s.std = std::sqrt(s.std / static_cast<double>(values.size()));
  s.p90 = percentile(values, 90);
  s.p95 = percentile(values, 95);
  s.p99 = percentile(values, 99);
  s.max = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  return s;
}

// Tokens and requests under way in each second, counted from the first request.
void find_peaks(const std::vector<BenchSample>& samples, BenchFigures* f) {
  double first = HUGE_VAL;
  for (const BenchSample& s : samples) first = s.ok ? std::min(first, s.start_s) : first;
  std::map<int64_t, int> tokens, requests;
  for (const BenchSample& s : samples) {
    if (!s.ok) continue;
    const auto second = [&](double after_start_s) { return static_cast<int64_t>(s.start_s + after_start_s - first); };
    double at = s.ttft_s;
    ++tokens[second(at)];
    for (const double gap : s.itl_s) ++tokens[second(at += gap)];
    for (int64_t t = second(0); t <= second(s.latency_s); ++t) ++requests[t];
  }
  for (const auto& [second, count] : tokens)
    f->output_throughput_peak = std::max<double>(f->output_throughput_peak, count);
  for (const auto& [second, count] : requests) f->concurrency_peak = std::max(f->concurrency_peak, count);
}

// What the server measured of TTFT, and behind a router what is left: router, network and HTTP on both sides. A grant
// tells that there is one.
void add_parts(const BenchSample& s, std::map<std::string, std::vector<double>>* parts) {
  double known = 0;
  for (const auto& [name, ms] : s.ttft_parts) {
    (*parts)[name].push_back(ms);
    known += ms;
  }
  if (s.ttft_parts.contains("grant")) (*parts)["router"].push_back(std::max(0.0, s.ttft_s * 1e3 - known));
}

}  // namespace

BenchFigures summarize(const std::vector<BenchSample>& samples, double duration_s) {
  BenchFigures f;
  f.duration_s = duration_s;
  std::vector<double> e2e, ttft, tpot, itl;
  std::map<std::string, std::vector<double>> parts;
  bool retokenized = true;
  int64_t retokenized_tokens = 0;
  for (const BenchSample& s : samples) {
    if (!s.ok) {
      ++f.failed;
      continue;
    }
    ++f.completed;
    f.input_tokens += s.prompt_tokens;
    f.output_tokens += s.output_tokens;
    retokenized = retokenized && s.retokenized_tokens >= 0;
    retokenized_tokens += s.retokenized_tokens;
    e2e.push_back(s.latency_s * 1e3);
    ttft.push_back(s.ttft_s * 1e3);
    if (s.output_tokens > 1) tpot.push_back((s.latency_s - s.ttft_s) * 1e3 / (s.output_tokens - 1));
    for (const double gap : s.itl_s) itl.push_back(gap * 1e3);
    add_parts(s, &parts);
  }
  if (retokenized && f.completed > 0) f.retokenized_tokens = retokenized_tokens;
  f.request_throughput = f.completed / duration_s;
  f.input_throughput = static_cast<double>(f.input_tokens) / duration_s;
  f.output_throughput = static_cast<double>(f.output_tokens) / duration_s;
  f.total_throughput = f.input_throughput + f.output_throughput;
  f.concurrency = std::accumulate(e2e.begin(), e2e.end(), 0.0) / 1e3 / duration_s;
  find_peaks(samples, &f);
  f.e2e = spread_of(e2e);
  f.ttft = spread_of(ttft);
  f.tpot = spread_of(tpot);
  f.itl = spread_of(itl);
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
  count("Total input text tokens:", f.input_tokens);
  count("Total generated tokens:", f.output_tokens);
  if (f.retokenized_tokens >= 0) count("Total generated tokens (retokenized):", f.retokenized_tokens);
  real("Request throughput (req/s):", f.request_throughput);
  real("Input token throughput (tok/s):", f.input_throughput);
  real("Output token throughput (tok/s):", f.output_throughput);
  real("Peak output token throughput (tok/s):", f.output_throughput_peak);
  count("Peak concurrent requests:", f.concurrency_peak);
  real("Total token throughput (tok/s):", f.total_throughput);
  real("Concurrency:", f.concurrency);
  const auto spread = [&](const char* heading, const char* name, const BenchSpread& s) {
    title(heading, '-');
    const auto line = [&](const char* what, double ms) { real(fmt::format("{} {} (ms):", what, name).c_str(), ms); };
    line("Mean", s.mean);
    line("Median", s.median);
    line("P90", s.p90);
    line("P95", s.p95);
    line("P99", s.p99);
  };
  spread("End-to-End Latency", "E2E Latency", f.e2e);
  spread("Time to First Token", "TTFT", f.ttft);
  if (!f.ttft_parts_mean.empty()) {
    title("TTFT as a sum (means)", '-');
    for (const char* part : kParts) {
      const auto found = f.ttft_parts_mean.find(part);
      if (found != f.ttft_parts_mean.end()) real(fmt::format("TTFT part {} (ms):", part).c_str(), found->second);
    }
  }
  spread("Time per Output Token (excl. 1st token)", "TPOT", f.tpot);
  spread("Inter-Token Latency", "ITL", f.itl);
  real("Max ITL (ms):", f.itl.max);
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
      {"total_input_text_tokens", f.input_tokens},
      {"total_output_tokens", f.output_tokens},
      {"request_throughput", f.request_throughput},
      {"input_throughput", f.input_throughput},
      {"output_throughput", f.output_throughput},
      {"total_throughput", f.total_throughput},
      {"concurrency", f.concurrency},
      {"max_output_tokens_per_s", f.output_throughput_peak},
      {"max_concurrent_requests", f.concurrency_peak},
      {"max_itl_ms", f.itl.max}};
  if (f.retokenized_tokens >= 0) out["total_output_tokens_retokenized"] = f.retokenized_tokens;
  const auto spread = [&out](const std::string& name, const BenchSpread& s) {
    out["mean_" + name + "_ms"] = s.mean;
    out["median_" + name + "_ms"] = s.median;
    out["std_" + name + "_ms"] = s.std;
    out["p90_" + name + "_ms"] = s.p90;
    out["p95_" + name + "_ms"] = s.p95;
    out["p99_" + name + "_ms"] = s.p99;
  };
  spread("e2e_latency", f.e2e);
  spread("ttft", f.ttft);
  spread("tpot", f.tpot);
  spread("itl", f.itl);
  boost::json::object parts;
  for (const auto& [name, ms] : f.ttft_parts_mean) parts[name] = ms;
  out["mean_ttft_parts_ms"] = std::move(parts);
  return boost::json::serialize(out);
}

}  // namespace baton::bench
