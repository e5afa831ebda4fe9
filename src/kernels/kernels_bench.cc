// Rates of the kernels beside what the machine gives at the same moment.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu/context_blocks.h"
#include "kernels/kernels.h"

namespace baton::kernels {
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
  const std::vector<float> values = normal_floats(n * k);
  const Linear weight(tensor::slice_of(values, n, k), compute);
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
    ->Args({1, 8192, 8192, 1, 1})
    ->Args({4, 8192, 8192, 1, 1})
    ->Args({1, 8192, 8192, 0, 1})
    ->Args({300, 256, 256, 0, 1})
    ->Args({300, 256, 256, 1, 1})
    ->Unit(benchmark::kMicrosecond);
// With helpers only the wall clock counts: the calling thread's own time leaves out what it waits for.
BENCHMARK(linear)
    ->ArgNames({"m", "n", "k", "bf16", "threads"})
    ->Args({512, 2048, 2048, 1, 2})
    ->Args({1, 8192, 8192, 1, 2})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

// A sequence of `tokens` in pages of 64 of a pool that holds it alone.
struct PoolOfOne {
  PoolOfOne(int heads, int k_dim, int v_dim, int64_t tokens) : pages(static_cast<size_t>((tokens + 63) / 64)) {
    kv.page_tokens = 64;
    kv.k_dim = k_dim;
    kv.v_dim = v_dim;
    kv.dtype = tensor::DType::kBF16;
    kv.v_offset = static_cast<size_t>(64 * k_dim) * 2;
    kv.head_stride = static_cast<size_t>(64 * (k_dim + v_dim)) * 2;
    kv.page_stride = static_cast<size_t>(heads) * kv.head_stride;
    bytes.resize(pages.size() * kv.page_stride);
    kv.pool = bytes.data();
    std::iota(pages.begin(), pages.end(), 0U);
    kv.pages = pages.data();
    const auto k = normal_floats(tokens * heads * k_dim), v = normal_floats(tokens * heads * v_dim);
    write_kv(kv, std::array{PagedRows{.tokens = tokens}}, heads, k.data(), int64_t{heads} * k_dim, v.data(),
             int64_t{heads} * v_dim);
  }
  std::vector<uint32_t> pages;
  std::vector<std::byte> bytes;
  PagedKv kv;
};

// Query-key pairs of m tokens that end a context.
double causal_pairs(int64_t context, int64_t m) {
  return static_cast<double>(m) * (static_cast<double>(context) - static_cast<double>(m - 1) / 2);
}

// (m, context, q_heads, kv_heads, dim, bf16). GB/s counts the pages once.
void gqa(benchmark::State& state) {
  const int64_t m = state.range(0), context = state.range(1);
  const int q_heads = static_cast<int>(state.range(2)), kv_heads = static_cast<int>(state.range(3)),
            dim = static_cast<int>(state.range(4));
  const Compute compute = state.range(5) != 0 ? Compute::kBF16 : Compute::kF32;
  const PoolOfOne pool(kv_heads, dim, dim, context);
  std::vector<int> kv_head_of(static_cast<size_t>(q_heads));
  for (int h = 0; h < q_heads; ++h) kv_head_of[static_cast<size_t>(h)] = h * kv_heads / q_heads;
  const auto q = normal_floats(m * q_heads * dim);
  std::vector<float> out(q.size());
  for (auto _ : state) {
    gqa_attention(q.data(), int64_t{q_heads} * dim, std::array{PagedRows{.begin = context - m, .tokens = m}}, q_heads,
                  kv_head_of.data(), pool.kv, 0.1f, compute, out.data());
    benchmark::DoNotOptimize(out.data());
  }
  set_gflops(state, 4.0 * dim * q_heads * causal_pairs(context, m));
  set_gbytes(state, static_cast<double>(context * kv_heads * dim) * 4);
}
BENCHMARK(gqa)
    ->ArgNames({"m", "context", "q_heads", "kv_heads", "dim", "bf16"})
    ->ArgsProduct({{512, 1}, {4096}, {8}, {8, 2}, {32, 128}, {0, 1}})
    ->Unit(benchmark::kMicrosecond);

// (m, context, heads, bf16): 512 + 64 wide
void mla(benchmark::State& state) {
  const int64_t m = state.range(0), context = state.range(1);
  const int heads = static_cast<int>(state.range(2));
  const Compute compute = state.range(3) != 0 ? Compute::kBF16 : Compute::kF32;
  const PoolOfOne pool(1, 576, 0, context);
  const auto q = normal_floats(m * heads * 576);
  std::vector<float> out(static_cast<size_t>(m * heads * 512));
  for (auto _ : state) {
    mla_attention(q.data(), std::array{PagedRows{.begin = context - m, .tokens = m}}, heads, 512, pool.kv, 0.1f,
                  compute, out.data());
    benchmark::DoNotOptimize(out.data());
  }
  set_gflops(state, 2.0 * (576 + 512) * heads * causal_pairs(context, m));
  set_gbytes(state, static_cast<double>(context * 576) * 2);
}
BENCHMARK(mla)
    ->ArgNames({"m", "context", "heads", "bf16"})
    ->ArgsProduct({{1}, {4096}, {2, 16, 128}, {0, 1}})
    ->Unit(benchmark::kMicrosecond);

// (m, context, heads, bf16): expanded MLA, 192 wide keys and 128 wide values
void expanded(benchmark::State& state) {
  const int64_t m = state.range(0), context = state.range(1);
  const int heads = static_cast<int>(state.range(2));
  const Compute compute = state.range(3) != 0 ? Compute::kBF16 : Compute::kF32;
  const auto q = normal_floats(m * heads * 192), k = normal_floats(context * heads * 192),
             v = normal_floats(context * heads * 128);
  std::vector<float> acc(static_cast<size_t>(m * heads * 128)), top(static_cast<size_t>(m * heads)), sum(top.size());
  for (auto _ : state) {
    std::fill(acc.begin(), acc.end(), 0.0f);
    std::fill(top.begin(), top.end(), -INFINITY);
    std::fill(sum.begin(), sum.end(), 0.0f);
    attention_block(q.data(), context - m, m, heads, 192, 128, k.data(), v.data(), 0, context, 0.1f, compute,
                    acc.data(), top.data(), sum.data());
    benchmark::DoNotOptimize(acc.data());
  }
  set_gflops(state, 2.0 * (192 + 128) * heads * causal_pairs(context, m));
}
BENCHMARK(expanded)
    ->ArgNames({"m", "context", "heads", "bf16"})
    ->ArgsProduct({{256}, {1024}, {4}, {0, 1}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace baton::kernels
