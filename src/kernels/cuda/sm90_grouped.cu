// Grouped products of many rows on Hopper's tensor cores: a block makes 128 slots by 256 columns.
#include "kernels/cuda/grouped.cuh"
#include "kernels/cuda/sm90_pipeline.cuh"
#include "kernels/cuda/sm90_wgmma.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kRows = 128, kColumns = 256, kDepth = 64, kStages = 4;
constexpr int kRowBytes = kDepth * 2, kABytes = kRows * kRowBytes, kStageBytes = kABytes + kColumns * kRowBytes;
constexpr int kSharedBytes = kStages * kStageBytes + 2 * kStages * 8 + 1024;
// Two warpgroups multiply, 64 rows each; one copies.
constexpr int kMultiplying = 256, kCopying = 128;

// The expert and the first slot of row tile `tile`: experts have ceil(slots / kRows) each. expert < 0: there is no such
// tile. Every lane of a warp calls it and gets the answer.
struct SlotTile {
  int expert, begin, end;
};
__device__ SlotTile find_tile(const int32_t* offset, int local, int tile) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int before = 0;
  for (int first = 0; first < local; first += 32) {
    const int e = first + lane;
    const int begin = e < local ? offset[e] : 0, end = e < local ? offset[e + 1] : 0;
    const int tiles = ceil_div(end - begin, kRows);
    int upto = tiles;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0U, upto, step);
      if (lane >= step) upto += other;
    }
    const int mine = tile - before - (upto - tiles);
    const unsigned found = __ballot_sync(~0U, mine >= 0 && mine < tiles);
    if (found != 0) {
      const int from = __ffs(static_cast<int>(found)) - 1;
      return {first + from, __shfl_sync(~0U, begin + mine * kRows, from), __shfl_sync(~0U, end, from)};
    }
    before += __shfl_sync(~0U, upto, 31);
  }
  return {-1, 0, 0};
}

__device__ inline void copy_async_or_zero(uint32_t to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

// kGateUp: w is (local, 2n, k) and the 256 columns are 128 of the gate and the same 128 of up, eight of each in turn,
// so that a thread has both of a pair; y (slots, n). Else w is (local, n, k). A block goes over the tiles that are its
// turn: while the one's answer is written, the next one's values come.
template <bool kGateUp>
__device__ void copy_tiles(const bf16* x, int choices, const bf16* w, int n, int k, int local, const ExpertSlots& slots,
                           uint32_t shared) {
  const int thread = static_cast<int>(threadIdx.x) - kMultiplying, chunk = thread % 8, row16 = thread / 8;
  const uint32_t full = shared + kStages * kStageBytes, empty = full + kStages * 8;
  const int across = ceil_div(n, kGateUp ? kColumns / 2 : kColumns), steps = ceil_div(k, kDepth);
  uint32_t now = 0;
  for (int turn = static_cast<int>(blockIdx.x);; turn += static_cast<int>(gridDim.x)) {
    const SlotTile tile = find_tile(slots.offset, local, turn / across);
    if (tile.expert < 0) return;
    const int n0 = turn % across * (kGateUp ? kColumns / 2 : kColumns);
    const int rows_left = tile.end - tile.begin - row16;  // what is beyond is zero, and not read
    const bf16* a[kRows / 16];
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
      const int slot = min(tile.begin + row16 + i * 16, tile.end - 1);
      const int64_t row = kGateUp ? slots.pair_of[slot] / choices : slot;
      a[i] = x + row * k + chunk * 8;
    }
    // Row r of the right side: eight columns of the gate, the same of up, the next eight. Columns beyond n are copies.
    constexpr int kAcross = kGateUp ? 8 : 16;
    const int first = n0 + row16 % kAcross, last = (n - 1 - first) / kAcross;  // steps of kAcross that stay below n
    const bf16* b = w +
                    (static_cast<int64_t>(tile.expert) * (kGateUp ? 2 : 1) * n + min(first, n - 1) +
                     (kGateUp ? row16 / 8 * n : 0)) *
                        k +
                    chunk * 8;
    for (int step = 0; step < steps; ++step, ++now) {
      const uint32_t stage = now % kStages, to = shared + stage * kStageBytes + swizzled(row16, chunk);
      const bool inside = step * kDepth + chunk * 8 < k;
      const int from = inside ? step * kDepth : 0;
      barrier_wait(empty + stage * 8, (now / kStages + 1) % 2);
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i)
        copy_async_or_zero(to + i * 16 * kRowBytes, a[i] + from, inside && i * 16 < rows_left);
#pragma unroll 4
      for (int i = 0; i < kColumns / 16; ++i)
        copy_async_or_zero(to + kABytes + i * 16 * kRowBytes,
                           b + static_cast<int64_t>(max(min(i, last), 0) * kAcross) * k + from, inside);
      barrier_arrive_after_copies(full + stage * 8);
    }
  }
}

template <bool kGateUp>
__device__ void write_tile(const float (&sum)[128], const SlotTile& tile, int n0, int n, bf16* y) {
  const int thread = static_cast<int>(threadIdx.x), group = thread / 128;
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
__global__ void __launch_bounds__(kMultiplying + kCopying, 1)
    grouped_kernel(const bf16* x, int choices, const bf16* w, int n, int k, int local, ExpertSlots slots, bf16* y) {
  begin_kernel();
  extern __shared__ uint8_t raw[];
  const uint32_t shared = (shared_address(raw) + 1023) & ~1023U;
  const uint32_t full = shared + kStages * kStageBytes, empty = full + kStages * 8;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + s * 8, kCopying);
      barrier_init(empty + s * 8, kMultiplying / 32);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  // Registers go from those who copy to those who multiply.
  if (threadIdx.x >= kMultiplying) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 88;");
    copy_tiles<kGateUp>(x, choices, w, n, k, local, slots, shared);
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
  const int group = static_cast<int>(threadIdx.x) / 128;
  const bool signals = threadIdx.x % 32 == 0;
  const int across = ceil_div(n, kGateUp ? kColumns / 2 : kColumns), steps = ceil_div(k, kDepth);
  uint32_t now = 0;
  for (int turn = static_cast<int>(blockIdx.x);; turn += static_cast<int>(gridDim.x)) {
    const SlotTile tile = find_tile(slots.offset, local, turn / across);
    if (tile.expert < 0) return;
    if (tile.begin + group * 64 >= tile.end) {
      // No rows for this warpgroup.
      for (int step = 0; step < steps; ++step, ++now) {
        barrier_wait(full + now % kStages * 8, now / kStages % 2);
        if (signals) barrier_arrive(empty + now % kStages * 8);
      }
      continue;
    }
    float sum[128];
    for (int step = 0; step < steps; ++step, ++now) {
      const uint32_t stage = now % kStages, from = shared + stage * kStageBytes;
      barrier_wait(full + stage * 8, now / kStages % 2);
      fence_for_wgmma();
      const uint64_t left = tile_descriptor(from + group * 64 * kRowBytes), right = tile_descriptor(from + kABytes);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kDepth / 16; ++i) wgmma(sum, left + i * 2, right + i * 2, step + i > 0);
      wgmma_commit();
      wgmma_wait<1>();
      if (step > 0 && signals) barrier_arrive(empty + (now - 1) % kStages * 8);
    }
    wgmma_wait<0>();
    wgmma_done(sum);
    if (signals) barrier_arrive(empty + (now - 1) % kStages * 8);
    write_tile<kGateUp>(sum, tile, turn % across * (kGateUp ? kColumns / 2 : kColumns), n, y);
  }
}

template <bool kGateUp>
void grouped(cudaStream_t stream, const bf16* x, int64_t slots_max, int choices, const bf16* w, int64_t n, int64_t k,
             int local, const ExpertSlots& slots, bf16* y) {
  const auto kernel = grouped_kernel<kGateUp>;
  // A thread has one card.
  thread_local const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  check_cuda(allowed);
  const int64_t tiles = ceil_div<int64_t>(n, kGateUp ? kColumns / 2 : kColumns) * (slots_max / kRows + local);
  const auto blocks = static_cast<unsigned>(tiles < multiprocessors() ? tiles : multiprocessors());
  launch_kernel(stream, kernel, blocks, kMultiplying + kCopying, kSharedBytes, x, choices, w, static_cast<int>(n),
                static_cast<int>(k), local, slots, y);
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
