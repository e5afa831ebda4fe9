// The routed experts: for few rows each weight is read once at memory's rate, for many rows by the grouped products of
// sm90_grouped.cu, and for anything else (float32) plainly.
#include "kernels/cuda/few_rows_fp8.cuh"
#include "kernels/cuda/grouped.cuh"
#include "kernels/cuda/small_rows.cuh"

namespace baton::kernels::cuda {
namespace {

__device__ inline float silu(float v) { return v / (1 + __expf(-v)); }

// The nth expert that has slots, or -1. Every lane of a warp calls it and gets the answer.
__device__ inline int expert_with_slots(const int32_t* offset, int local, int nth) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int first = 0; first < local; first += 32) {
    const bool some = first + lane < local && offset[first + lane] < offset[first + lane + 1];
    const unsigned all = __ballot_sync(~0U, some);
    const unsigned found = __ballot_sync(~0U, some && __popc(all & ((1U << lane) - 1)) == nth);
    if (found != 0) return first + __ffs(static_cast<int>(found)) - 1;
    nth -= __popc(all);
  }
  return -1;
}

// Eight columns of the gate and the same eight of up are the 16 rows of W of a block. A block does all slots of its
// expert, 8 * kTiles at a time.
template <int kTiles>
__global__ void __launch_bounds__(kSmallRowsWarps * 32)
    small_gate_up_kernel(const bf16* x, int choices, ExpertSlots slots, ExpertBank<bf16> bank, bf16* activated) {
  begin_kernel();
  extern __shared__ float total[];
  // Fewer blocks than experts, where there are fewer slots: a block that has nothing to do takes its time too.
  const int e = static_cast<int>(gridDim.y) == bank.local
                    ? static_cast<int>(blockIdx.y)
                    : expert_with_slots(slots.offset, bank.local, static_cast<int>(blockIdx.y));
  if (e < 0) return;
  const int begin = slots.offset[e], end = slots.offset[e + 1];
  const int k = static_cast<int>(bank.hidden), width = static_cast<int>(bank.width);
  const int n0 = static_cast<int>(blockIdx.x) * 8, row = static_cast<int>(threadIdx.x % 32) / 4;
  const bf16* gate = stored_row(bank.gate_up, 2 * e, width, k, n0 + row);
  const bf16* up = stored_row(bank.gate_up, 2 * e + 1, width, k, n0 + row);
  for (int first = begin; first < end; first += 8 * kTiles) {
    float sum[kTiles][4] = {};
    const bf16* rows[kTiles];
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
      rows[i] = x + static_cast<int64_t>(slots.pair_of[min(first + i * 8 + row, end - 1)] / choices) * k;
    accumulate<kTiles>(sum, gate, up, rows, k);
    add_up_warps<kTiles>(sum, total);
    __syncthreads();
    for (int at = static_cast<int>(threadIdx.x); at < 8 * 8 * kTiles; at += static_cast<int>(blockDim.x)) {
      const int slot = first + at / 8, column = n0 + at % 8;
      const float* v = total + at / 8 * 16 + at % 8;
      if (slot < end && column < width)
        activated[static_cast<int64_t>(slot) * width + column] = from_float<bf16>(silu(v[0]) * v[8]);
    }
    __syncthreads();
  }
}

template <int kTiles>
__global__ void __launch_bounds__(kSmallRowsWarps * 32)
    small_down_kernel(const bf16* activated, ExpertSlots slots, ExpertBank<bf16> bank, bf16* out) {
  begin_kernel();
  extern __shared__ float total[];
  // Fewer blocks than experts, where there are fewer slots: a block that has nothing to do takes its time too.
  const int e = static_cast<int>(gridDim.y) == bank.local
                    ? static_cast<int>(blockIdx.y)
                    : expert_with_slots(slots.offset, bank.local, static_cast<int>(blockIdx.y));
  if (e < 0) return;
  const int begin = slots.offset[e], end = slots.offset[e + 1];
  const int k = static_cast<int>(bank.width), n = static_cast<int>(bank.hidden);
  const int n0 = static_cast<int>(blockIdx.x) * 16, row = static_cast<int>(threadIdx.x % 32) / 4;
  for (int first = begin; first < end; first += 8 * kTiles) {
    float sum[kTiles][4] = {};
    const bf16* rows[kTiles];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) rows[i] = activated + static_cast<int64_t>(min(first + i * 8 + row, end - 1)) * k;
    accumulate<kTiles>(sum, stored_row(bank.down, e, n, k, n0 + row), stored_row(bank.down, e, n, k, n0 + row + 8),
                       rows, k);
    add_up_warps<kTiles>(sum, total);
    for (int at = static_cast<int>(threadIdx.x); at < 16 * 8 * kTiles; at += static_cast<int>(blockDim.x)) {
      const int slot = first + at / 16, column = n0 + at % 16;
      if (slot < end && column < n) out[static_cast<int64_t>(slot) * n + column] = from_float<bf16>(total[at]);
    }
    __syncthreads();
  }
}

// A warp an output column, a block row a slot.
template <class T>
__device__ float dot(const T* a, const T* b, int64_t k) {
  float sum = 0;
  for (int64_t i = threadIdx.x % 32; i < k; i += 32) sum += to_float(a[i]) * to_float(b[i]);
  return warp_sum(sum);
}
__device__ inline int expert_of(const ExpertSlots& slots, int local, int slot) {
  int e = 0;
  while (e < local && slots.offset[e + 1] <= slot) ++e;
  return e;  // local: no such slot
}
template <class T>
__global__ void plain_gate_up_kernel(const T* x, int choices, ExpertSlots slots, ExpertBank<T> bank, T* activated) {
  begin_kernel();
  const int slot = static_cast<int>(blockIdx.y), e = expert_of(slots, bank.local, slot);
  const int64_t column = blockIdx.x * static_cast<int64_t>(blockDim.x / 32) + threadIdx.x / 32;
  if (e == bank.local || column >= bank.width) return;
  const T* row = x + slots.pair_of[slot] / choices * bank.hidden;
  const T* w = bank.gate_up + (static_cast<int64_t>(e) * 2 * bank.width + column) * bank.hidden;
  const float gate = dot(row, w, bank.hidden), up = dot(row, w + bank.width * bank.hidden, bank.hidden);
  if (threadIdx.x % 32 == 0) activated[slot * bank.width + column] = from_float<T>(gate / (1 + expf(-gate)) * up);
}
template <class T>
__global__ void plain_down_kernel(const T* activated, ExpertSlots slots, ExpertBank<T> bank, T* out) {
  begin_kernel();
  const int slot = static_cast<int>(blockIdx.y), e = expert_of(slots, bank.local, slot);
  const int64_t column = blockIdx.x * static_cast<int64_t>(blockDim.x / 32) + threadIdx.x / 32;
  if (e == bank.local || column >= bank.hidden) return;
  const float v = dot(activated + slot * bank.width, bank.down + (e * bank.hidden + column) * bank.width, bank.width);
  if (threadIdx.x % 32 == 0) out[slot * bank.hidden + column] = from_float<T>(v);
}

// A block a row.
constexpr int kChoicesMax = 32;
template <class T>
__global__ void weigh_kernel(const float* weight, int choices, const int32_t* slot_of, const T* out, int64_t hidden,
                             bool add, T* y) {
  begin_kernel();
  __shared__ int32_t slot[kChoicesMax];
  __shared__ float factor[kChoicesMax];
  __shared__ int count;
  const int64_t row = blockIdx.x;
  if (threadIdx.x < 32) {
    const int j = static_cast<int>(threadIdx.x);
    const int32_t mine = j < choices ? slot_of[row * choices + j] : -1;
    int before = 0;
    for (int other = 0; other < choices; ++other) {
      const int32_t s = __shfl_sync(~0U, mine, other);
      before += static_cast<int>(s >= 0 && s < mine);
    }
    if (mine >= 0) {
      slot[before] = mine;
      factor[before] = weight[row * choices + j];
    }
    const unsigned here = __ballot_sync(~0U, mine >= 0);
    if (j == 0) count = __popc(here);
  }
  __syncthreads();
  constexpr int kPack = Pack<T>::kSize;
  if (hidden % kPack == 0) {
    for (int64_t i = threadIdx.x * kPack; i < hidden; i += blockDim.x * kPack) {
      float sum[kPack] = {};
      if (add) {
        const Pack<T> v = load_pack(y + row * hidden + i);
#pragma unroll
        for (int e = 0; e < kPack; ++e) sum[e] = to_float(v.v[e]);
      }
      for (int j = 0; j < count; ++j) {
        const Pack<T> v = load_pack(out + slot[j] * hidden + i);
#pragma unroll
        for (int e = 0; e < kPack; ++e) sum[e] += factor[j] * to_float(v.v[e]);
      }
      Pack<T> v;
#pragma unroll
      for (int e = 0; e < kPack; ++e) v.v[e] = from_float<T>(sum[e]);
      store_pack(y + row * hidden + i, v);
    }
    return;
  }
  for (int64_t i = threadIdx.x; i < hidden; i += blockDim.x) {
    float sum = add ? to_float(y[row * hidden + i]) : 0;
    for (int j = 0; j < count; ++j) sum += factor[j] * to_float(out[slot[j] * hidden + i]);
    y[row * hidden + i] = from_float<T>(sum);
  }
}

template <int kTiles>
void small_experts(cudaStream_t stream, const bf16* x, int64_t rows, int choices, const ExpertSlots& slots,
                   const ExpertBank<bf16>& bank, bf16* activated, bf16* out) {
  const auto local = static_cast<unsigned>(rows * choices < bank.local ? rows * choices : bank.local);
  const int up_warps = small_rows_warps(bank.hidden), down_warps = small_rows_warps(bank.width);
  launch_kernel(
      stream, small_gate_up_kernel<kTiles>, dim3(static_cast<unsigned>(ceil_div<int64_t>(bank.width, 8)), local),
      static_cast<unsigned>(up_warps * 32), small_rows_shared<kTiles>(up_warps), x, choices, slots, bank, activated);
  launch_kernel(
      stream, small_down_kernel<kTiles>, dim3(static_cast<unsigned>(ceil_div<int64_t>(bank.hidden, 16)), local),
      static_cast<unsigned>(down_warps * 32), small_rows_shared<kTiles>(down_warps), activated, slots, bank, out);
}

// Slots an expert, on average, up to which its weights are read in the small way.
constexpr int64_t kSmallSlots = 2;

}  // namespace

size_t expert_fp8_bytes(int64_t rows, int choices, const ExpertBank<bf16, fp8>& bank) {
  const size_t x = fp8_rows_bytes(rows, bank.hidden), activated = fp8_rows_bytes(rows * choices, bank.width);
  return x > activated ? x : activated;
}

template <class T, class W>
void experts(cudaStream_t stream, const T* x, int64_t rows, const int32_t* expert, const float* weight, int choices,
             const ExpertSlots& slots, const ExpertBank<T, W>& bank, T* activated, T* out, bool add, T* y,
             void* fp8_memory) {
  if (rows == 0) return;
  BATON_CHECK(choices <= kChoicesMax);
  permute_experts(stream, expert, rows, choices, bank.first, bank.local, slots);
  // As if the rows were shared out evenly over all experts of the layer.
  const int64_t each = rows * choices / bank.experts;
  constexpr bool kBf16 = std::is_same_v<W, bf16>, kFp8 = std::is_same_v<W, fp8>;
  const bool whole = bank.hidden % 8 == 0 && bank.width % 8 == 0;
  BATON_CHECK(whole || !kFp8);
  const int64_t pairs = rows * choices;
  bool done = false;
  if constexpr (kFp8) {
    if (fp8_memory != nullptr) {
      grouped_gate_up(stream, quantize_rows(stream, x, bank.hidden, rows, bank.hidden, fp8_memory), pairs, choices,
                      slots, bank, activated);
      grouped_down(stream, quantize_rows(stream, activated, bank.width, pairs, bank.width, fp8_memory), pairs, slots,
                   bank, out);
    } else {
      // Half as many again as the average seldom wants a second reading.
      few_rows_gate_up(stream, x, pairs, each * 3 / 2, choices, slots, bank, activated);
      few_rows_down(stream, activated, pairs, each * 3 / 2, slots, bank, out);
    }
  }
  if constexpr (kBf16) {
    if (whole && each > kSmallSlots) {
      grouped_gate_up(stream, x, pairs, choices, slots, bank, activated);
      grouped_down(stream, activated, pairs, slots, bank, out);
      done = true;
    } else if (whole) {
      if (each >= 2) {
        small_experts<2>(stream, x, rows, choices, slots, bank, activated, out);
      } else {
        small_experts<1>(stream, x, rows, choices, slots, bank, activated, out);
      }
      done = true;
    }
  }
  if constexpr (!kFp8) {
    if (!done) {
      constexpr unsigned kWarps = 8;
      const auto blocks = [&](int64_t n) {
        return dim3(static_cast<unsigned>(ceil_div<int64_t>(n, kWarps)), static_cast<unsigned>(pairs));
      };
      launch_kernel(stream, plain_gate_up_kernel<T>, blocks(bank.width), kWarps * 32, 0, x, choices, slots, bank,
                    activated);
      launch_kernel(stream, plain_down_kernel<T>, blocks(bank.hidden), kWarps * 32, 0, activated, slots, bank, out);
    }
  }
  launch_kernel(stream, weigh_kernel<T>, static_cast<unsigned>(rows), 128, 0, weight, choices, slots.slot_of, out,
                bank.hidden, add, y);
}

#define BATON_INSTANTIATE(T, W)                                                                                       \
  template void experts<T, W>(cudaStream_t, const T*, int64_t, const int32_t*, const float*, int, const ExpertSlots&, \
                              const ExpertBank<T, W>&, T*, T*, bool, T*, void*);
BATON_INSTANTIATE(float, float)
BATON_INSTANTIATE(bf16, bf16)
BATON_INSTANTIATE(bf16, fp8)
#undef BATON_INSTANTIATE

}  // namespace baton::kernels::cuda
