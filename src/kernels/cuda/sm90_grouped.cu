// Grouped products of many rows on Hopper's tensor cores: a block makes 128 slots by 256 columns.
#include "kernels/cuda/grouped.cuh"
#include "kernels/cuda/sm90_wgmma.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kRows = 128, kColumns = 256, kDepth = 64, kStages = 4, kThreads = 256;
constexpr int kRowBytes = kDepth * 2, kABytes = kRows * kRowBytes, kStageBytes = kABytes + kColumns * kRowBytes;
constexpr int kSharedBytes = kStages * kStageBytes + 1024;

// The expert and the first slot of row tile `tile`: experts have ceil(slots / kRows) each. expert < 0: there is no such
// tile. Every thread gets the answer.
struct SlotTile {
  int expert, begin, end;
};
__device__ SlotTile find_tile(const int32_t* offset, int local, int tile) {
  __shared__ SlotTile found;
  if (threadIdx.x < 32) {
    const int lane = static_cast<int>(threadIdx.x);
    int before = 0;
    if (lane == 0) found.expert = -1;
    __syncwarp();
    for (int first = 0; first < local && before <= tile; first += 32) {
      const int e = first + lane;
      const int begin = e < local ? offset[e] : 0, end = e < local ? offset[e + 1] : 0;
      const int tiles = ceil_div(end - begin, kRows);
      int upto = tiles;
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(~0U, upto, step);
        if (lane >= step) upto += other;
      }
      const int mine = tile - before - (upto - tiles);
      if (mine >= 0 && mine < tiles) found = {e, begin + mine * kRows, end};
      before += __shfl_sync(~0U, upto, 31);
    }
  }
  __syncthreads();
  return found;
}

__device__ inline void copy_async_or_zero(uint32_t to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

// kGateUp: w is (local, 2n, k) and the 256 columns are 128 of the gate and the same 128 of up, eight of each in turn,
// so that a thread has both of a pair; y (slots, n). Else w is (local, n, k).
template <bool kGateUp>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_kernel(const bf16* x, int choices, const bf16* w, int n, int k, int local, ExpertSlots slots, bf16* y) {
  extern __shared__ uint8_t raw[];
  const SlotTile tile = find_tile(slots.offset, local, static_cast<int>(blockIdx.y));
  if (tile.expert < 0) return;
  const uint32_t shared = (shared_address(raw) + 1023) & ~1023U;
  const int thread = static_cast<int>(threadIdx.x), chunk = thread % 8, row8 = thread / 8;
  const int n0 = static_cast<int>(blockIdx.x) * (kGateUp ? kColumns / 2 : kColumns);
  w += static_cast<int64_t>(tile.expert) * (kGateUp ? 2 : 1) * n * k;

  const bf16* a[kRows / 32];
#pragma unroll
  for (int i = 0; i < kRows / 32; ++i) {
    const int slot = min(tile.begin + row8 + i * 32, tile.end - 1);
    const int64_t row = kGateUp ? slots.pair_of[slot] / choices : slot;
    a[i] = x + row * k + chunk * 8;
  }
  const bf16* b[kColumns / 32];
#pragma unroll
  for (int i = 0; i < kColumns / 32; ++i) {
    const int r = row8 + i * 32;
    const int column = min(kGateUp ? n0 + r / 16 * 8 + r % 8 : n0 + r, n - 1);
    b[i] = w + static_cast<int64_t>(column + (kGateUp && r / 8 % 2 == 1 ? n : 0)) * k + chunk * 8;
  }
  const int steps = ceil_div(k, kDepth);
  const auto load = [&](int step) {
    if (step < steps) {
      const uint32_t to = shared + step % kStages * kStageBytes + swizzled(row8, chunk);
      const bool inside = step * kDepth + chunk * 8 < k;
      const int from = inside ? step * kDepth : 0;
#pragma unroll
      for (int i = 0; i < kRows / 32; ++i) copy_async_or_zero(to + i * 32 * kRowBytes, a[i] + from, inside);
#pragma unroll
      for (int i = 0; i < kColumns / 32; ++i)
        copy_async_or_zero(to + kABytes + i * 32 * kRowBytes, b[i] + from, inside);
    }
    commit_copies();
  };
  const int group = thread / 128;
  const bool works = tile.begin + group * 64 < tile.end;
  float sum[128];
  for (int step = 0; step < kStages - 2; ++step) load(step);
  // All of this step has come, and nobody still multiplies what the next copies overwrite: step - 2.
  const auto next = [&](int step) {
    wait_copies<kStages - 3>();
    fence_for_wgmma();
    asm volatile("bar.sync 0, 256;" ::: "memory");
    load(step + kStages - 2);
  };
  if (!works) {
    for (int step = 0; step < steps; ++step) next(step);
    wait_copies<0>();
    return;
  }
  for (int step = 0; step < steps; ++step) {
    next(step);
    const uint32_t from = shared + step % kStages * kStageBytes;
    const uint64_t left = tile_descriptor(from + group * 64 * kRowBytes), right = tile_descriptor(from + kABytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kDepth / 16; ++i) wgmma(sum, left + i * 2, right + i * 2, step + i > 0);
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  wgmma_done(sum);
  wait_copies<0>();
  const int lane = thread % 32, row = tile.begin + group * 64 + thread % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int slot = row + half * 8;
    if (slot >= tile.end) continue;
    bf16* to = y + static_cast<int64_t>(slot) * n;
    if constexpr (kGateUp) {
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const int column = n0 + j * 8 + lane % 4 * 2;
        float v[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float gate = sum[j * 8 + half * 2 + i], up = sum[j * 8 + 4 + half * 2 + i];
          v[i] = gate / (1 + __expf(-gate)) * up;
        }
        if (column < n) *reinterpret_cast<uint32_t*>(to + column) = pack_bf16(v[0], v[1]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        const int column = n0 + j * 8 + lane % 4 * 2;
        if (column < n)
          *reinterpret_cast<uint32_t*>(to + column) = pack_bf16(sum[j * 4 + half * 2], sum[j * 4 + half * 2 + 1]);
      }
    }
  }
}

template <bool kGateUp>
void grouped(cudaStream_t stream, const bf16* x, int64_t slots_max, int choices, const bf16* w, int64_t n, int64_t k,
             int local, const ExpertSlots& slots, bf16* y) {
  const auto kernel = grouped_kernel<kGateUp>;
  static const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  check_cuda(allowed);
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(n, kGateUp ? kColumns / 2 : kColumns)),
                  static_cast<unsigned>(slots_max / kRows + local));
  kernel<<<grid, kThreads, kSharedBytes, stream>>>(x, choices, w, static_cast<int>(n), static_cast<int>(k), local,
                                                   slots, y);
  check_launch();
}

}  // namespace

void grouped_gate_up(cudaStream_t stream, const bf16* x, int64_t slots_max, int choices, const ExpertSlots& slots,
                     const ExpertBank<bf16>& bank, bf16* activated) {
  grouped<true>(stream, x, slots_max, choices, bank.gate_up, bank.width, bank.hidden, bank.local, slots, activated);
}
void grouped_down(cudaStream_t stream, const bf16* activated, int64_t slots_max, const ExpertSlots& slots,
                  const ExpertBank<bf16>& bank, bf16* out) {
  grouped<false>(stream, activated, slots_max, 1, bank.down, bank.hidden, bank.width, bank.local, slots, out);
}

}  // namespace baton::kernels::cuda
