// An all-reduce of bfloat16 over all cards of this machine, as a layer has it: a sum by rows, and the gathering of the
// rows, called one by one and recorded; and sums on every rank with the norm behind them, recorded.
#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/cuda/cuda_check.h"
#include "comm/card_comm.h"
#include "comm/rank_testing.h"

namespace baton::comm {
namespace {

constexpr int kRepeats = 20;  // of a record

enum Way : int64_t { kCalled, kRecorded, kEverywhere };

// Seconds of one, the longest of any rank.
double measure(int ranks, int64_t bytes, Way way) {
  RankGroup group(ranks);
  std::vector<double> seconds(static_cast<size_t>(ranks));
  on_ranks(ranks, [&](int r) {
    cudaStream_t stream = nullptr;
    void* values = nullptr;
    BATON_CUDA_CHECK(cudaSetDevice(r), "card {}", r);
    BATON_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "card {}", r);
    BATON_CUDA_CHECK(cudaMalloc(&values, static_cast<size_t>(bytes)), "{} bytes", bytes);
    BATON_CUDA_CHECK(cudaMemset(values, 0, static_cast<size_t>(bytes)), "{} bytes", bytes);
    const std::unique_ptr<Comm> comm = make_card_comm(group, r, r, stream);
    constexpr int64_t kWidth = 2048;
    const int64_t rows = bytes / (kWidth * 2);
    std::vector<int64_t> bounds;
    for (int i = 0; i <= ranks; ++i) bounds.push_back(rows * i / ranks);
    void *residual = nullptr, *weight = nullptr;
    BATON_CUDA_CHECK(cudaMalloc(&residual, static_cast<size_t>(bytes)), "{} bytes", bytes);
    BATON_CUDA_CHECK(cudaMalloc(&weight, kWidth * sizeof(float)), "a weight");
    const SumsTarget target{residual, static_cast<const float*>(weight), 1e-6F, residual};
    bool everywhere = false;
    const auto all_reduce = [&] {
      if (everywhere) {
        BATON_CHECK(comm->all_reduce(values, tensor::DType::kBF16, rows, kWidth, target).ok());
        return;
      }
      BATON_CHECK(comm->reduce_scatter(values, tensor::DType::kBF16, bounds, kWidth).ok());
      const RowBuffer buffer{values, kWidth * 2};
      BATON_CHECK(comm->all_gather({&buffer, 1}, bounds).ok());
    };
    const auto wait = [&] {
      BATON_CUDA_CHECK(cudaStreamSynchronize(stream), "{} bytes", bytes);
      BATON_CHECK(group.barrier().ok());
    };
    all_reduce();
    wait();
    everywhere = way == kEverywhere;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t record = nullptr;
    BATON_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "a record");
    for (int i = 0; i < kRepeats; ++i) all_reduce();
    BATON_CUDA_CHECK(cudaStreamEndCapture(stream, &graph), "a record");
    BATON_CUDA_CHECK(cudaGraphInstantiate(&record, graph, 0), "a record");
    const auto once = [&] {
      if (way != kCalled) {
        BATON_CUDA_CHECK(cudaGraphLaunch(record, stream), "a record");
      } else {
        for (int i = 0; i < kRepeats; ++i) all_reduce();
      }
    };
    once();
    wait();
    constexpr int kTimes = 10;
    const auto begun = std::chrono::steady_clock::now();
    for (int i = 0; i < kTimes; ++i) once();
    BATON_CUDA_CHECK(cudaStreamSynchronize(stream), "{} bytes", bytes);
    seconds[static_cast<size_t>(r)] =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count() / (kTimes * kRepeats);
    wait();
    BATON_CUDA_CHECK(cudaGraphExecDestroy(record), "a record");
    BATON_CUDA_CHECK(cudaGraphDestroy(graph), "a record");
    for (void* memory : {values, residual, weight}) BATON_CUDA_CHECK(cudaFree(memory), "{} bytes", bytes);
  });
  return *std::max_element(seconds.begin(), seconds.end());
}

void all_reduce_bench(benchmark::State& state) {
  int cards = 0;
  if (cudaGetDeviceCount(&cards) != cudaSuccess || cards < 2) return state.SkipWithError("less than two cards");
  const auto way = static_cast<Way>(state.range(1));
  if (way == kEverywhere && state.range(0) > (128 << 10)) return state.SkipWithError("too much for every rank");
  for (auto _ : state) state.SetIterationTime(measure(std::min(cards, 8), state.range(0), way));
}
BENCHMARK(all_reduce_bench)
    ->ArgNames({"bytes", "way"})
    ->ArgsProduct({{4 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 16 << 20, 64 << 20},
                   {kCalled, kRecorded, kEverywhere}})
    ->UseManualTime()
    ->Iterations(3)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace baton::comm
