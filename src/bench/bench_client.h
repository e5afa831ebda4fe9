// Runs a workload against a server and reports.
#pragma once

#include <string>

#include "bench/bench_report.h"
#include "bench/workload.h"

namespace baton::bench {

struct BenchResult {
  BenchFigures figures;
  std::vector<std::string> failures;  // the first few, in words
  std::string profile;                // what /stop_profile said
};

// Asks the server for its vocabulary unless options.tokenizer names one, warms up, sends, waits. Errors: no server,
// unknown backend.
Result<BenchResult> run_bench(const BenchOptions& options);

}  // namespace baton::bench
