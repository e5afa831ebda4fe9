// The figures of a benchmark run, by the definitions of SGLang's bench_serving, and their report, line for line.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "bench/workload.h"

namespace baton::bench {

// Of one request. Seconds of the client's clock, from the moment its POST was sent.
struct BenchSample {
  bool ok = false;
  std::string failure;
  int prompt_tokens = 0, output_tokens = 0;
  double ttft_s = 0, latency_s = 0;
  std::vector<double> itl_s;                 // one entry a token after the first chunk
  std::map<std::string, double> ttft_parts;  // ms, as the server measured them
};

struct BenchFigures {
  int completed = 0, failed = 0;
  double duration_s = 0;
  int64_t input_tokens = 0, output_tokens = 0;
  double request_throughput = 0, input_throughput = 0, output_throughput = 0, total_throughput = 0, concurrency = 0;
  // All in milliseconds.
  double e2e_mean = 0, e2e_median = 0;
  double ttft_mean = 0, ttft_median = 0, ttft_p99 = 0;
  double tpot_mean = 0, tpot_median = 0, tpot_p99 = 0;
  double itl_mean = 0, itl_median = 0, itl_p95 = 0, itl_p99 = 0, itl_max = 0;
  std::map<std::string, double> ttft_parts_mean;  // with "router": what is left of TTFT
};

BenchFigures summarize(const std::vector<BenchSample>& samples, double duration_s);
std::string report_text(const BenchOptions& options, const BenchFigures& figures);
// One line, the Python benchmark's keys.
std::string report_json(const BenchOptions& options, const BenchFigures& figures);

// As numpy computes it: linear between closest ranks; q in [0, 100]. 0 for no values.
double percentile(std::vector<double> values, double q);

}  // namespace baton::bench
