// Rates of the kernels beside what the machine gives at the same moment.
#include <benchmark/benchmark.h>

#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/kernels.h"

namespace baton {
namespace {

std::vector<float> normal_floats(int64_t count) {
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = uniform(random);
  return values;
}

void set_gflops(benchmark::State& state, double flop) {
  state.counters["GFLOP/s"] = benchmark::Counter(flop * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void set_gbytes(benchmark::State& state, double bytes) {
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

// Reading and writing: the copied bytes count once, as for a weight that is only read.
void copy_memory(benchmark::State& state) {
  const auto bytes = static_cast<size_t>(state.range(0));
  std::vector<char> from(bytes, 1), to(bytes);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), bytes);
    benchmark::ClobberMemory();
  }
  set_gbytes(state, static_cast<double>(bytes));
}
BENCHMARK(copy_memory)->Arg(128 << 20)->Unit(benchmark::kMicrosecond);

void read_memory(benchmark::State& state) {
  const std::vector<uint64_t> data(static_cast<size_t>(state.range(0)) / 8, 1);
  for (auto _ : state) benchmark::DoNotOptimize(std::accumulate(data.begin(), data.end(), uint64_t{0}));
  set_gbytes(state, static_cast<double>(state.range(0)));
}
BENCHMARK(read_memory)->Arg(128 << 20)->Unit(benchmark::kMicrosecond);

// (m, n, k, bf16, threads)
void linear(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  set_gemm_threads(static_cast<int>(state.range(4)));
  const Compute compute = state.range(3) != 0 ? Compute::kBF16 : Compute::kF32;
  const Linear weight(normal_floats(n * k), n, k, compute);
  const auto x = normal_floats(m * k);
  std::vector<float> y(static_cast<size_t>(m * n));
  for (auto _ : state) {
    weight.apply(x.data(), m, y.data());
    benchmark::DoNotOptimize(y.data());
  }
  set_gflops(state, 2.0 * static_cast<double>(m * n * k));
  set_gbytes(state, static_cast<double>(n * k) * (compute == Compute::kBF16 ? 2 : 4));
  set_gemm_threads(1);
}
BENCHMARK(linear)
    ->ArgNames({"m", "n", "k", "bf16", "threads"})
    ->ArgsProduct({{1, 4, 8, 16, 64, 512}, {2048}, {2048}, {0, 1}, {1}})
    ->Args({512, 2048, 2048, 1, 2})
    ->Args({1, 8192, 8192, 1, 1})
    ->Args({1, 8192, 8192, 1, 2})
    ->Args({4, 8192, 8192, 1, 1})
    ->Args({1, 8192, 8192, 0, 1})
    ->Args({300, 256, 256, 0, 1})
    ->Args({300, 256, 256, 1, 1})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace baton
