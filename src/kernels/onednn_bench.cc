// The peer of the matrix products in kernels_bench.cc: oneDNN on the same shapes, in the same program, so that a ratio
// is taken in one run. Only built with BATON_BENCH_ONEDNN; nothing else of this tree uses oneDNN.
#ifdef BATON_BENCH_ONEDNN

#include <benchmark/benchmark.h>
#include <omp.h>

#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <unordered_map>

namespace baton::kernels {
namespace {

using Memory = dnnl::memory;

// Random values, made as `plain` float32 and laid out as `wanted`.
Memory filled(const Memory::desc& plain, const Memory::desc& wanted, const dnnl::engine& engine, dnnl::stream& stream) {
  Memory from(plain, engine), to(wanted, engine);
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  auto* values = static_cast<float*>(from.get_data_handle());
  for (size_t i = 0; i < plain.get_size() / sizeof(float); ++i) values[i] = uniform(random);
  dnnl::reorder(from, to).execute(stream, from, to);
  stream.wait();
  return to;
}

// (m, n, k, bf16, threads), as `linear`. The comparison leans towards the peer: its weight lies in the layout it asks
// for, and with bf16 its rows come rounded already, where ours are rounded inside the measured call. dnnl::matmul,
// because on these shapes dnnl::inner_product was never clearly faster.
void onednn(benchmark::State& state) {
  using Tag = Memory::format_tag;
  const Memory::dim m = state.range(0), n = state.range(1), k = state.range(2);
  const auto f32 = Memory::data_type::f32, type = state.range(3) != 0 ? Memory::data_type::bf16 : f32;
  omp_set_num_threads(static_cast<int>(state.range(4)));
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);

  const dnnl::matmul::desc shapes({{m, k}, type, Tag::ab}, {{k, n}, type, Tag::any}, {{m, n}, f32, Tag::ab});
  const dnnl::matmul::primitive_desc kind(shapes, engine);
  const dnnl::matmul product(kind);
  const std::unordered_map<int, Memory> operands = {
      {DNNL_ARG_SRC, filled({{m, k}, f32, Tag::ab}, kind.src_desc(), engine, stream)},
      {DNNL_ARG_WEIGHTS, filled({{k, n}, f32, Tag::ba}, kind.weights_desc(), engine, stream)},
      {DNNL_ARG_DST, Memory(kind.dst_desc(), engine)}};
  for (auto _ : state) {
    product.execute(stream, operands);
    stream.wait();
    benchmark::ClobberMemory();
  }
  state.SetLabel(kind.impl_info_str());
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * static_cast<double>(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(onednn)
    ->ArgNames({"m", "n", "k", "bf16", "threads"})
    ->ArgsProduct({{1, 4, 16, 512}, {2048}, {2048}, {0, 1}, {1}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace baton::kernels

#endif  // BATON_BENCH_ONEDNN
