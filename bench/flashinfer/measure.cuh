// How FlashInfer's kernels are measured: on the shapes and in the way of kernels_cuda_bench, ten calls in a graph, the
// median of six replays. Each result is looked at: one row of it is computed again on the processor.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace baton::bench {

using bf16 = nv_bfloat16;
constexpr int kContext = 4096;

inline void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(code));
  std::exit(1);
}

static __global__ void fill_kernel(bf16* to, size_t count, unsigned seed) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    unsigned long long z = (i + 1 + (static_cast<unsigned long long>(seed) << 40)) * 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    to[i] = __float2bfloat16(static_cast<float>(z >> 40) * 0x1p-23F - 1);
  }
}

template <class T>
T* on_card(size_t count) {
  T* data = nullptr;
  check(cudaMalloc(&data, count * sizeof(T)), "memory");
  check(cudaMemset(data, 0, count * sizeof(T)), "memory");
  return data;
}
template <class T>
T* on_card(const std::vector<T>& values) {
  T* data = on_card<T>(values.size());
  check(cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
  return data;
}
inline bf16* random_on_card(size_t count) {
  static unsigned seed = 0;
  bf16* data = on_card<bf16>(count);
  fill_kernel<<<1024, 256>>>(data, count, ++seed);
  check(cudaDeviceSynchronize(), "fill");
  return data;
}
inline std::vector<float> from_card(const bf16* data, size_t count) {
  std::vector<bf16> raw(count);
  check(cudaMemcpy(raw.data(), data, count * sizeof(bf16), cudaMemcpyDeviceToHost), "copy");
  std::vector<float> values(count);
  std::transform(raw.begin(), raw.end(), values.begin(), [](bf16 v) { return __bfloat162float(v); });
  return values;
}

inline cudaStream_t stream;

inline void report(const std::string& name, const std::function<cudaError_t()>& call) {
  constexpr int kLaunches = 10;
  check(call(), name.c_str());
  check(cudaStreamSynchronize(stream), name.c_str());
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), name.c_str());
  for (int i = 0; i < kLaunches; ++i) check(call(), name.c_str());
  check(cudaStreamEndCapture(stream, &graph), name.c_str());
  check(cudaGraphInstantiate(&replay, graph, 0), name.c_str());
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> ms;
  for (int i = 0; i < 7; ++i) {
    check(cudaEventRecord(begin, stream), "event");
    check(cudaGraphLaunch(replay, stream), name.c_str());
    check(cudaEventRecord(end, stream), "event");
    check(cudaEventSynchronize(end), name.c_str());
    float each = 0;
    check(cudaEventElapsedTime(&each, begin, end), "event");
    if (i > 0) ms.push_back(each);
  }
  std::sort(ms.begin(), ms.end());
  std::printf("%-44s %9.1f us \n", name.c_str(), ms[ms.size() / 2] * 1e3 / kLaunches);
  std::fflush(stdout);
}

// One query's attention over keys and values given by token.
inline void expect_row(const std::string& name, const std::vector<float>& got, const std::vector<float>& q, int tokens,
                       float scale, const std::function<std::pair<const float*, const float*>(int)>& token) {
  std::vector<double> score(static_cast<size_t>(tokens)), sum(got.size());
  for (int t = 0; t < tokens; ++t) {
    const float* k = token(t).first;
    score[static_cast<size_t>(t)] = scale * std::inner_product(q.begin(), q.end(), k, 0.0);
  }
  const double most = *std::max_element(score.begin(), score.end());
  double weights = 0;
  for (int t = 0; t < tokens; ++t) {
    const double w = std::exp(score[static_cast<size_t>(t)] - most);
    weights += w;
    for (size_t d = 0; d < sum.size(); ++d) sum[d] += w * token(t).second[d];
  }
  double worst = 0, largest = 0;
  for (size_t d = 0; d < sum.size(); ++d) {
    worst = std::max(worst, std::abs(sum[d] / weights - got[d]));
    largest = std::max(largest, std::abs(sum[d] / weights));
  }
  if (worst <= 0.02 * largest) return;
  std::fprintf(stderr, "%s: wrong by %g of %g\n", name.c_str(), worst, largest);
  std::exit(1);
}

}  // namespace baton::bench
