// How far the kernels are from the card: each one's time, in a graph of launches over rotating inputs, beside the rate
// of a copy and of a product of 8192 x 8192 x 8192 on the same card in the same run. An argument filters cases by a
// part of their name.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"

namespace baton::kernels::cuda {
namespace {

__global__ void fill_kernel(bf16* to, size_t count, float scale) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    const bf16 v = __float2bfloat16(scale * (static_cast<float>(z >> 40) * 0x1p-23F - 1));
    // No byte is a NaN of fp8, as which some cases read them.
    to[i] = __ushort_as_bfloat16(__bfloat16_as_ushort(v) & 0xffbf);
  }
}

__global__ void copy_kernel(const float4* from, size_t count, float4* to) {
  constexpr int kAhead = 4;
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += kAhead * step) {
    float4 v[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (i + j * step < count) v[j] = from[i + j * step];
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (i + j * step < count) to[i + j * step] = v[j];
  }
}

template <class T>
T* on_card(size_t count) {
  T* data = nullptr;
  check_cuda(cudaMalloc(&data, count * sizeof(T)));
  check_cuda(cudaMemset(data, 0, count * sizeof(T)));
  return data;
}
template <class T>
T* on_card(const std::vector<T>& values) {
  T* data = on_card<T>(values.size());
  check_cuda(cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return data;
}

cudaStream_t stream;
double copy_rate = 1, product_rate = 1;  // bytes and operations a second
std::string filter;

// Random values, far more than L2 holds: inputs are parts of it that rotate.
constexpr size_t kArena = size_t{5} << 29;
bf16* arena;
const bf16* slice(size_t size, int turn) {
  size = ceil_div<size_t>(size, 512) * 512;
  return arena + size * (static_cast<size_t>(turn) % std::max<size_t>(1, kArena / size));
}
bf16* output;  // as long as any output here
float* float_output;
float* fp8_scale;

// Median seconds of fn(turn): `launches` of them in a graph, replayed.
double seconds_of(const std::function<void(int)>& fn, int launches) {
  fn(0);
  check_cuda(cudaStreamSynchronize(stream));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int turn = 0; turn < launches; ++turn) fn(turn);
  check_cuda(cudaStreamEndCapture(stream, &graph));
  check_cuda(cudaGraphInstantiate(&replay, graph, 0));
  cudaEvent_t begin = nullptr, end = nullptr;
  check_cuda(cudaEventCreate(&begin));
  check_cuda(cudaEventCreate(&end));
  std::vector<float> ms;
  for (int i = 0; i < 7; ++i) {
    check_cuda(cudaEventRecord(begin, stream));
    check_cuda(cudaGraphLaunch(replay, stream));
    check_cuda(cudaEventRecord(end, stream));
    check_cuda(cudaEventSynchronize(end));
    float each = 0;
    check_cuda(cudaEventElapsedTime(&each, begin, end));
    if (i > 0) ms.push_back(each);
  }
  check_cuda(cudaEventDestroy(begin));
  check_cuda(cudaEventDestroy(end));
  check_cuda(cudaGraphExecDestroy(replay));
  check_cuda(cudaGraphDestroy(graph));
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2] * 1e-3 / launches;
}

void report(const std::string& name, double bytes, double operations, const std::function<void(int)>& fn,
            int launches = 10) {
  if (name.find(filter) == std::string::npos) return;
  const double s = seconds_of(fn, launches);
  const double floor = std::max(bytes / copy_rate, operations / product_rate);
  std::printf("%-44s %9.1f us %7.0f GB/s %5.2f of copy %7.1f TFLOP/s %5.2f of product   floor/time %.2f\n",
              name.c_str(), s * 1e6, bytes / s * 1e-9, bytes / s / copy_rate, operations / s * 1e-12,
              operations / s / product_rate, floor / s);
  std::fflush(stdout);
}

Products* products;

Fp8Weight fp8_weight(int64_t n, int64_t k, const bf16* values) {
  return {{n, k}, reinterpret_cast<const fp8*>(values), fp8_scale};
}

void linear_fp8_case(const std::string& name, int64_t m, int64_t n, int64_t k) {
  report(
      name + " m=" + std::to_string(m) + " fp8", 1.0 * n * k + 2.0 * m * k + 2.0 * m * n, 2.0 * m * n * k,
      [&](int turn) {
        linear_fp8<bf16>(stream, fp8_weight(n, k, slice(n * k / 2, turn)), slice(m * k, turn + 3), k, m, output, n);
      },
      20);
}

// Rounding the rows, and the product, of the library's and of our own.
void many_fp8_case(const std::string& name, int64_t m, int64_t n, int64_t k) {
  static std::byte* memory = on_card<std::byte>(size_t{1} << 28);
  const std::string shape = name + " m=" + std::to_string(m) + " fp8";
  report(
      shape + " rounding", 3.0 * m * k, 0,
      [&](int turn) { (void)quantize_rows(stream, slice(m * k, turn + 3), k, m, k, memory); }, 5);
  const Fp8Rows rows = quantize_rows(stream, slice(m * k, 3), k, m, k, memory);
  for (const bool library : {true, false}) {
    products->set_fp8_library(library);
    report(
        shape + (library ? " cublas" : " own"), 1.0 * n * k + m * k + 2.0 * m * n, 2.0 * m * n * k,
        [&](int turn) { products->linear_fp8(stream, rows, fp8_weight(n, k, slice(n * k / 2, turn)), output, n); }, 5);
  }
}

template <class Y>
void linear_case(const std::string& name, int64_t m, int64_t n, int64_t k) {
  Y* y = std::is_same_v<Y, float> ? reinterpret_cast<Y*>(float_output) : reinterpret_cast<Y*>(output);
  const double bytes = 2.0 * (n * k + m * k) + sizeof(Y) * static_cast<double>(m * n), operations = 2.0 * m * n * k;
  const auto fn = [&](int turn) {
    products->linear<bf16, Y>(stream, slice(n * k, turn), n, k, slice(m * k, turn + 3), k, m, y, n);
  };
  const std::string shape = name + " m=" + std::to_string(m);
  if (m <= 16) {
    products->set_small_rows(64);
    report(shape + " own", bytes, operations, fn, 20);
  }
  products->set_small_rows(0);
  report(shape + " cublas", bytes, operations, fn, m > 256 ? 5 : 20);
}

void heads_case(const std::string& name, int64_t m, int heads, int64_t n, int64_t k) {
  const double bytes = 2.0 * heads * (n * k + m * k + m * n), operations = 2.0 * heads * m * n * k;
  for (const int64_t rows : {0, 64}) {
    if (m > rows && rows != 0) continue;
    products->set_small_rows(rows);
    report(name + " m=" + std::to_string(m) + (rows == 0 ? " cublas" : " own"), bytes, operations, [&](int turn) {
      products->linear_heads<bf16>(stream, slice(heads * n * k, turn), heads, n, k, slice(m * heads * k, turn + 3),
                                   heads * k, k, m, output, heads * n, n);
    });
  }
}

struct Bench {
  // A pool in the arena, its pages in random order, for as many contexts as fit.
  PagedKv kv;
  std::vector<uint32_t> pages;
  Bench(int heads, int k_dim, int v_dim, int page_tokens, tensor::DType dtype = tensor::DType::kBF16) {
    const size_t size = tensor::dtype_size(dtype);
    kv.dtype = dtype;
    kv.pool = reinterpret_cast<std::byte*>(arena);
    kv.v_offset = page_tokens * k_dim * size;
    kv.head_stride = page_tokens * (k_dim + v_dim) * size;
    kv.page_stride = kv.head_stride * heads;
    kv.page_tokens = page_tokens;
    kv.k_dim = k_dim;
    kv.v_dim = v_dim;
    pages.resize(kArena * 2 / kv.page_stride);
    std::iota(pages.begin(), pages.end(), 0U);
    Random random(7);
    for (size_t i = pages.size(); i > 1; --i) std::swap(pages[i - 1], pages[random.below(i)]);
    kv.pages = on_card(pages);
  }
  // Batches of `count` entries of this context, as many as the pages give.
  std::pair<PagedRows*, int> batches(int count, int64_t context, int64_t tokens) const {
    const int64_t each = ceil_div<int64_t>(context, kv.page_tokens);
    const int turns = std::max<int>(1, static_cast<int>(pages.size() / (each * count)));
    std::vector<PagedRows> rows;
    for (int i = 0; i < turns * count; ++i)
      rows.push_back({i % count * tokens, context - tokens, tokens, i * each % static_cast<int64_t>(pages.size())});
    return {on_card(rows), turns};
  }
};

void attention_cases() {
  void* scratch = on_card<std::byte>(size_t{512} << 20);
  int32_t* first_tile = on_card<int32_t>(1025);
  constexpr int64_t kContext = 4096;
  for (const tensor::DType dtype : {tensor::DType::kBF16, tensor::DType::kF8E4M3}) {
    const Bench bench(1, 576, 0, 64, dtype);
    const std::string name = dtype == tensor::DType::kBF16 ? "mla_decode" : "mla_decode fp8";
    const auto entry_bytes = 576.0 * static_cast<double>(tensor::dtype_size(dtype));
    for (const int heads : {16, 128}) {
      for (const int batch : {1, 32, 128}) {
        const auto [rows, turns] = bench.batches(batch, kContext, 1);
        plan_decode(stream, {rows, batch, 1}, first_tile);
        report(name + " heads=" + std::to_string(heads) + " b=" + std::to_string(batch),
               entry_bytes * batch * kContext + 2.0 * batch * heads * (576 + 512),
               2.0 * batch * heads * kContext * 1088, [&, rows = rows, turns = turns](int turn) {
                 mla_decode<bf16>(stream, slice(batch * heads * 576, turn), {rows + turn % turns * batch, batch, 1},
                                  {first_tile}, heads, 512, bench.kv, 0.07F, scratch, output);
               });
      }
    }
    if (dtype != tensor::DType::kBF16) continue;
    const auto [rows, turns] = bench.batches(1, kContext, kContext);
    int32_t* zero = on_card<int32_t>(1);
    report("mla_gather_latents 4096", 2.0 * 1152 * kContext, 0, [&, rows = rows](int) {
      mla_gather_latents<bf16>(stream, bench.kv, {rows, 1, kContext}, kContext, zero, output);
    });
    const ExpandedKv<bf16> expanded{
        slice(kContext * 576, 1), slice(kContext * 2048, 3), slice(kContext * 2048, 5), zero, 16, 512, 128, 64, 128};
    report("mla_prefill heads=16 4096", 0, 16.0 * kContext * kContext * (192 + 128), [&, rows = rows](int turn) {
      mla_prefill<bf16>(stream, slice(kContext * 3072, turn), 3072, {rows, 1, kContext}, expanded, 0.07F, output);
    });
  }
  std::vector<int> kv_head_of(32);
  for (int i = 0; i < 32; ++i) kv_head_of[i] = i / 4;
  const QueryHeads heads{32, 8, 4, on_card(kv_head_of)};
  for (const int page_tokens : {1, 16, 64}) {
    for (const tensor::DType dtype : {tensor::DType::kBF16, tensor::DType::kF8E4M3}) {
      const Bench bench(8, 128, 128, page_tokens, dtype);
      const std::string name = dtype == tensor::DType::kBF16 ? "gqa_decode" : "gqa_decode fp8";
      const auto token_bytes = 2048.0 * static_cast<double>(tensor::dtype_size(dtype));
      for (const int batch : {1, 32, 128}) {
        const auto [rows, turns] = bench.batches(batch, kContext, 1);
        plan_decode(stream, {rows, batch, 1}, first_tile);
        report(name + " 32/8 b=" + std::to_string(batch) + " page=" + std::to_string(page_tokens),
               token_bytes * batch * kContext, 4.0 * batch * 32 * kContext * 128,
               [&, rows = rows, turns = turns](int turn) {
                 gqa_decode<bf16>(stream, slice(batch * 6144, turn), 6144, {rows + turn % turns * batch, batch, 1},
                                  {first_tile}, heads, bench.kv, 0.09F, scratch, output);
               });
      }
    }
    if (page_tokens == 1) continue;
    const Bench bench(8, 128, 128, page_tokens);
    const auto [rows, turns] = bench.batches(1, kContext, kContext);
    report("gqa_prefill 32/8 4096 page=" + std::to_string(page_tokens), 0, 32.0 * kContext * kContext * 256,
           [&, rows = rows](int turn) {
             gqa_prefill<bf16>(stream, slice(kContext * 6144, turn), 6144, {rows, 1, kContext}, heads, bench.kv, 0.09F,
                               output);
           });
  }
  check_cuda(cudaFree(scratch));
}

void expert_cases() {
  constexpr int kExperts = 64, kChoices = 6;
  constexpr int64_t kHidden = 2048, kWidth = 1408;
  const ExpertBank<bf16> bank{arena, arena + kExperts * kHidden * kWidth * 2, kExperts, 0, kExperts, kHidden, kWidth};
  std::byte* fp8_memory = on_card<std::byte>(fp8_rows_bytes(4096 * kChoices, kWidth));
  Random random(3);
  for (const int64_t rows : {1, 4, 8, 16, 32, 64, 128, 256, 512, 4096}) {
    constexpr int kTurns = 10;
    std::vector<int32_t> expert;
    std::vector<bool> chosen(kExperts * kTurns);
    for (int64_t r = 0; r < rows * kTurns; ++r) {
      std::vector<int32_t> numbers(kExperts);
      std::iota(numbers.begin(), numbers.end(), 0);
      for (int i = 0; i < kChoices; ++i) {
        std::swap(numbers[i], numbers[i + random.below(kExperts - i)]);
        expert.push_back(numbers[i]);
        chosen[r / rows * kExperts + numbers[i]] = true;
      }
    }
    const double distinct = static_cast<double>(std::count(chosen.begin(), chosen.end(), true)) / kTurns;
    const int32_t* expert_card = on_card(expert);
    const float* weight = on_card(std::vector<float>(rows * kChoices, 0.2F));
    const ExpertSlots slots{on_card<int32_t>(kExperts + 1), on_card<int32_t>(rows * kChoices),
                            on_card<int32_t>(rows * kChoices)};
    bf16* activated = on_card<bf16>(rows * kChoices * kWidth);
    bf16* out = on_card<bf16>(rows * kChoices * kHidden);
    const SharedFfn shared{arena, arena + 4 * kHidden * kWidth, 2 * kWidth};
    if (rows * kChoices <= 32)
      report("whole moe rows=" + std::to_string(rows), (distinct + 2) * kHidden * kWidth * 6, 0, [&](int turn) {
        few_rows_moe(stream, slice(rows * kHidden, turn), rows, expert_card + turn % kTurns * rows * kChoices, weight,
                     kChoices, shared, bank, activated, out, output);
      });
    report("experts rows=" + std::to_string(rows) + " distinct=" + std::to_string(distinct).substr(0, 4),
           distinct * kHidden * kWidth * 6 + 4.0 * rows * kHidden, 6.0 * rows * kChoices * kHidden * kWidth,
           [&](int turn) {
             experts<bf16, bf16>(stream, slice(rows * kHidden, turn), rows,
                                 expert_card + turn % kTurns * rows * kChoices, weight, kChoices, slots, bank,
                                 activated, out, false, output);
           });
    {
      const ExpertBank<bf16, fp8> bank8{fp8_weight(2 * kWidth, kHidden, arena),
                                        fp8_weight(kHidden, kWidth, arena + kExperts * kHidden * kWidth),
                                        kExperts,
                                        0,
                                        kExperts,
                                        kHidden,
                                        kWidth};
      report("experts fp8 rows=" + std::to_string(rows), distinct * kHidden * kWidth * 3 + 4.0 * rows * kHidden,
             6.0 * rows * kChoices * kHidden * kWidth, [&](int turn) {
               experts<bf16, fp8>(stream, slice(rows * kHidden, turn), rows,
                                  expert_card + turn % kTurns * rows * kChoices, weight, kChoices, slots, bank8,
                                  activated, out, false, output, rows > 128 ? fp8_memory : nullptr);
             });
    }
    report("permute rows=" + std::to_string(rows), 4.0 * rows * kChoices, 0, [&](int turn) {
      permute_experts(stream, expert_card + turn % kTurns * rows * kChoices, rows, kChoices, 0, kExperts, slots);
    });
  }
}

void small_cases() {
  Routing routing;
  routing.experts = 64;
  routing.experts_per_token = 6;
  const float* logits = on_card(std::vector<float>(4096 * 64, 0.5F));
  const float* weight = on_card(std::vector<float>(8192, 1.0F));
  const float* table = on_card(std::vector<float>(8192 * 64, 0.5F));
  std::vector<int32_t> positions(4096);
  std::iota(positions.begin(), positions.end(), 0);
  const int32_t* at = on_card(positions);
  int32_t* expert = on_card<int32_t>(4096 * 6);
  bf16* residual = on_card<bf16>(4096 * 4096);
  for (const int64_t m : {1, 128, 4096}) {
    const std::string rows = " m=" + std::to_string(m);
    report("route 64/6" + rows, 256.0 * m, 0,
           [&](int) { route(stream, routing, logits, nullptr, m, expert, float_output); });
    report("add_rms_norm 2048" + rows, 4.0 * 2048 * m * 2, 0, [&](int turn) {
      add_rms_norm<bf16>(stream, slice(m * 2048, turn), residual, weight, 1e-6F, m, 2048, output);
    });
    report("rope 16 x 64 of 192" + rows, 4.0 * 16 * 64 * m, 0,
           [&](int) { rope<bf16>(stream, RopePairs::kInterleaved, output, m, 3072, 16, 192, 64, at, table, table); });
    report("silu_mul 2816" + rows, 6.0 * 2816 * m, 0,
           [&](int turn) { silu_mul<bf16>(stream, slice(m * 5632, turn), m, 2816, output); });
    if (m > 128) continue;
    for (const float top_p : {0.0F, 1.0F, 0.95F}) {
      sampling::RowDraw how;
      how.greedy = top_p == 0;
      how.inverse_temperature = 1.25F;
      how.cuts = top_p < 1;
      how.count_max = UINT64_MAX;
      how.top_p = top_p;
      how.uniform = 0.7;
      const auto* draws = on_card(std::vector<sampling::RowDraw>(m, how));
      auto* drawn = on_card<sampling::RowDrawn>(m);
      report("draw 102400, " +
                 std::string(how.greedy != 0 ? "greedy"
                             : how.cuts != 0 ? "top p"
                                             : "all") +
                 rows,
             4.0 * 102400 * m, 0, [&](int turn) {
               draw(stream, reinterpret_cast<const float*>(slice(m * 204800, turn)), 102400, m, 102400, draws, nullptr,
                    drawn, expert);
             });
    }
  }
}

int run(const char* only) {
  cudaDeviceProp card{};
  check_cuda(cudaGetDeviceProperties(&card, 0));
  check_cuda(cudaStreamCreate(&stream));
  arena = on_card<bf16>(kArena);
  output = on_card<bf16>(size_t{1} << 29);
  fp8_scale = on_card(std::vector<float>(64 * 4096, 1e-3F));
  float_output = on_card<float>(size_t{128} * 128256);
  fill_kernel<<<4096, 256, 0, stream>>>(arena, kArena, 0.05F);
  check_launch();
  Products all;
  products = &all;
  const size_t half = size_t{1} << 30;
  const double copied = seconds_of(
      [&](int turn) {
        copy_kernel<<<multiprocessors() * 8, 512, 0, stream>>>(
            reinterpret_cast<const float4*>(arena + half / 2 * (turn % 4)), half / 16,
            reinterpret_cast<float4*>(output));
        check_launch();
      },
      5);
  copy_rate = 2.0 * half / copied;
  products->set_small_rows(0);
  product_rate = 2.0 * 8192 * 8192 * 8192 /
                 seconds_of(
                     [&](int turn) {
                       products->linear<bf16, bf16>(stream, slice(8192 * 8192, turn), 8192, 8192,
                                                    slice(8192 * 8192, turn + 2), 8192, 8192, output, 8192);
                     },
                     10);
  filter = only;
  std::printf("%s: copy %.0f GB/s, bf16 product of 8192 %.0f TFLOP/s\n", card.name, copy_rate * 1e-9,
              product_rate * 1e-12);
  attention_cases();
  expert_cases();
  for (const int64_t m : {1, 8, 16, 32, 64, 128, 4096}) {
    linear_case<bf16>("lite q 3072x2048", m, 3072, 2048);
    linear_case<bf16>("lite kv_a 576x2048", m, 576, 2048);
    linear_case<bf16>("lite o 2048x2048", m, 2048, 2048);
    linear_case<bf16>("lite shared up 5632x2048", m, 5632, 2048);
    linear_case<bf16>("lite shared down 2048x2816", m, 2048, 2816);
    if (m <= 32) {
      linear_fp8_case("lite q 3072x2048", m, 3072, 2048);
      linear_fp8_case("lite shared up 5632x2048", m, 5632, 2048);
      linear_fp8_case("llama up 28672x4096", m, 28672, 4096);
      linear_fp8_case("v3 o 7168x16384", m, 7168, 16384);
    } else if (m > 128) {
      many_fp8_case("lite q 3072x2048", m, 3072, 2048);
      many_fp8_case("lite shared up 5632x2048", m, 5632, 2048);
      many_fp8_case("v3 o 7168x16384", m, 7168, 16384);
    }
    linear_case<float>("lite gate 64x2048", m, 64, 2048);
    if (m <= 128) {
      linear_case<float>("lite head 102400x2048", m, 102400, 2048);
      heads_case("lite absorb key 16x512x128", m, 16, 512, 128);
      heads_case("lite absorb value 16x128x512", m, 16, 128, 512);
    } else {
      linear_case<bf16>("lite expand 2048x512", m, 2048, 512);
    }
    linear_case<bf16>("llama qkv 6144x4096", m, 6144, 4096);
    linear_case<bf16>("llama o 4096x4096", m, 4096, 4096);
    linear_case<bf16>("llama up 28672x4096", m, 28672, 4096);
    linear_case<bf16>("llama down 4096x14336", m, 4096, 14336);
  }
  small_cases();
  return 0;
}

}  // namespace
}  // namespace baton::kernels::cuda

int main(int argc, char** argv) { return baton::kernels::cuda::run(argc > 1 ? argv[1] : ""); }
