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
  int retokenized_tokens = -1;  // of the answer's text by the tokenizer; -1: there is none
  double start_s = 0;           // after the start of the run
  double ttft_s = 0, latency_s = 0;
  std::vector<double> itl_s;                 // one entry a token after the first chunk
  std::map<std::string, double> ttft_parts;  // ms, as the server measured them
};

// Milliseconds.
struct BenchSpread {
  double mean = 0, median = 0, std = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
};

struct BenchFigures {
  int completed = 0, failed = 0;
  double duration_s = 0;
  int64_t input_tokens = 0, output_tokens = 0;
  int64_t retokenized_tokens = -1;  // -1: not known of every answer
  double request_throughput = 0, input_throughput = 0, output_throughput = 0, total_throughput = 0, concurrency = 0;
  // Of whole seconds after the first request was sent.
  double output_throughput_peak = 0;
  int concurrency_peak = 0;
  BenchSpread e2e, ttft, tpot, itl;
  // Milliseconds; behind a router with "router": what is left of TTFT.
  std::map<std::string, double> ttft_parts_mean;
};

BenchFigures summarize(const std::vector<BenchSample>& samples, double duration_s);
std::string report_text(const BenchOptions& options, const BenchFigures& figures);
// One line, the Python benchmark's keys.
std::string report_json(const BenchOptions& options, const BenchFigures& figures);

// As numpy computes it: linear between closest ranks; q in [0, 100]. 0 for no values.
double percentile(std::vector<double> values, double q);

}  // namespace baton::bench
