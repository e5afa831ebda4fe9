// Grouped products of many rows on Hopper's tensor cores, in bfloat16 or in fp8: a block makes 128 slots by 256
// columns.
#include "kernels/cuda/grouped.cuh"
#include "kernels/cuda/sm90_pipeline.cuh"
#include "kernels/cuda/sm90_wgmma.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kRows = 128, kColumns = 256, kStages = 4;
// Of a step: 64 values of k in bfloat16, 128 in fp8.
constexpr int kRowBytes = 128, kABytes = kRows * kRowBytes, kStageBytes = kABytes + kColumns * kRowBytes;
// Of a step in fp8: the scales of the rows, and of each eight columns.
constexpr int kColumnScales = kColumns / 8, kScaleBytes = (kRows + kColumnScales) * 4;
constexpr int kBarriers = kStages * kStageBytes, kScales = kBarriers + 2 * kStages * 8;
constexpr int kSharedBytes = kScales + kStages * kScaleBytes + 1024;
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

__device__ inline void copy_scale_async(uint32_t to, const float* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}

// y = x * W^T for the slots of each of `local` weights; slots.offset null: `rows` slots of one weight. Rows of x and w
// are row_bytes long, zeros included.
struct GroupedWork {
  const uint8_t *x, *w;
  int row_bytes, n, local, choices;
  int64_t rows;
  ExpertSlots slots;
  bf16* y;
  int64_t y_stride;
  // Of fp8.
  const float *x_scales, *w_scales;
  int64_t x_scale_stride, w_scale_size;  // from a block of columns to the next, from a weight to the next
  int w_scale_stride, row_shift;
};
__device__ SlotTile find_tile(const GroupedWork& work, int tile) {
  if (work.slots.offset != nullptr) return find_tile(work.slots.offset, work.local, tile);
  return {tile * kRows < work.rows ? 0 : -1, tile * kRows, static_cast<int>(work.rows)};
}

// kGateUp: w is (local, 2n, k) and the 256 columns are 128 of the gate and the same 128 of up, eight of each in turn,
// so that a thread has both of a pair; y (slots, n). Else w is (local, n, k). A block goes over the tiles that are its
// turn: while the one's answer is written, the next one's values come.
template <bool kGateUp, bool kFp8>
__device__ void copy_tiles(const GroupedWork& work, uint32_t shared) {
  const int thread = static_cast<int>(threadIdx.x) - kMultiplying, chunk = thread % 8, row16 = thread / 8;
  const uint32_t full = shared + kBarriers, empty = full + kStages * 8;
  const int n = work.n, row_bytes = work.row_bytes;
  const int across = ceil_div(n, kGateUp ? kColumns / 2 : kColumns), steps = ceil_div(row_bytes, kRowBytes);
  uint32_t now = 0;
  for (int turn = static_cast<int>(blockIdx.x);; turn += static_cast<int>(gridDim.x)) {
    const SlotTile tile = find_tile(work, turn / across);
    if (tile.expert < 0) return;
    const int n0 = turn % across * (kGateUp ? kColumns / 2 : kColumns);
    const int rows_left = tile.end - tile.begin - row16;  // what is beyond is zero, and not read
    const auto row_of = [&](int i) {
      const int slot = min(tile.begin + i, tile.end - 1);
      return static_cast<int64_t>(kGateUp ? work.slots.pair_of[slot] / work.choices : slot);
    };
    const uint8_t* a[kRows / 16];
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) a[i] = work.x + row_of(row16 + i * 16) * row_bytes + chunk * 16;
    // Row r of the right side: eight columns of the gate, the same of up, the next eight. Columns beyond n are copies.
    constexpr int kAcross = kGateUp ? 8 : 16;
    const int first = n0 + row16 % kAcross, last = (n - 1 - first) / kAcross;  // steps of kAcross that stay below n
    const uint8_t* b = work.w +
                       (static_cast<int64_t>(tile.expert) * (kGateUp ? 2 : 1) * n + min(first, n - 1) +
                        (kGateUp ? row16 / 8 * n : 0)) *
                           row_bytes +
                       chunk * 16;
    const float *row_scale = nullptr, *column_scale = nullptr;
    if constexpr (kFp8) {
      row_scale = work.x_scales + row_of(thread);
      const int eight = kGateUp ? thread % 2 * n + min(n0 + thread / 2 * 8, n - 1) : min(n0 + thread * 8, n - 1);
      column_scale = work.w_scales + tile.expert * work.w_scale_size + (eight >> work.row_shift) * work.w_scale_stride;
    }
    for (int step = 0; step < steps; ++step, ++now) {
      const uint32_t stage = now % kStages, to = shared + stage * kStageBytes + swizzled(row16, chunk);
      const bool inside = step * kRowBytes + chunk * 16 < row_bytes;
      const int from = inside ? step * kRowBytes : 0;
      barrier_wait(empty + stage * 8, (now / kStages + 1) % 2);
      if constexpr (kFp8) {
        const uint32_t scales = shared + kScales + stage * kScaleBytes + thread * 4;
        copy_scale_async(scales, row_scale + step * work.x_scale_stride);
        if (thread < kColumnScales) copy_scale_async(scales + kRows * 4, column_scale + step);
      }
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i)
        copy_async_or_zero(to + i * 16 * kRowBytes, a[i] + from, inside && i * 16 < rows_left);
#pragma unroll 4
      for (int i = 0; i < kColumns / 16; ++i)
        copy_async_or_zero(to + kABytes + i * 16 * kRowBytes,
                           b + static_cast<int64_t>(max(min(i, last), 0) * kAcross) * row_bytes + from, inside);
      barrier_arrive_after_copies(full + stage * 8);
    }
  }
}

template <bool kGateUp>
__device__ void write_tile(const float (&sum)[128], const SlotTile& tile, int n0, int n, bf16* y, int64_t y_stride) {
  const int thread = static_cast<int>(threadIdx.x), group = thread / 128;
  const int lane = thread % 32, row = tile.begin + group * 64 + thread % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int slot = row + half * 8;
    if (slot >= tile.end) continue;
    bf16* to = y + slot * y_stride;
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

// sum += of each element part * the scales of its row and of its eight columns, of a half of the columns.
template <int kHalf>
__device__ inline void add_scaled(float (&sum)[128], const float (&part)[64], float row0, float row8,
                                  const float4 (&scales)[4]) {
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float4& four = scales[j / 4];
    const float scale = j % 4 == 0 ? four.x : j % 4 == 1 ? four.y : j % 4 == 2 ? four.z : four.w;
    float* to = sum + kHalf * 64 + j * 4;
    to[0] += row0 * scale * part[j * 4];
    to[1] += row0 * scale * part[j * 4 + 1];
    to[2] += row8 * scale * part[j * 4 + 2];
    to[3] += row8 * scale * part[j * 4 + 3];
  }
}

// A half of the columns of a step in fp8. Its sums are those of one block of scales, and are added up in float32
// outside the tensor cores, which keep fewer bits of them.
template <int kHalf>
__device__ inline void multiply_half(float (&sum)[128], uint64_t left, uint32_t right, const float* scales, int row) {
  float part[64];
  const uint64_t columns = tile_descriptor(right + kHalf * 128 * kRowBytes);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) wgmma_fp8(part, left + i * 2, columns + i * 2, i > 0);
  wgmma_commit();
  const float row0 = scales[row], row8 = scales[row + 8];
  float4 fours[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) fours[i] = reinterpret_cast<const float4*>(scales + kRows + kHalf * 16)[i];
  wgmma_wait<0>();
  wgmma_done(part);
  add_scaled<kHalf>(sum, part, row0, row8, fours);
}

template <bool kGateUp, bool kFp8>
__global__ void __launch_bounds__(kMultiplying + kCopying, 1) grouped_kernel(GroupedWork work) {
  begin_kernel();
  extern __shared__ uint8_t raw[];
  const uint32_t shared = (shared_address(raw) + 1023) & ~1023U;
  const uint32_t full = shared + kBarriers, empty = full + kStages * 8;
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
    copy_tiles<kGateUp, kFp8>(work, shared);
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
  const int group = static_cast<int>(threadIdx.x) / 128;
  const bool signals = threadIdx.x % 32 == 0;
  const int across = ceil_div(work.n, kGateUp ? kColumns / 2 : kColumns), steps = ceil_div(work.row_bytes, kRowBytes);
  uint32_t now = 0;
  for (int turn = static_cast<int>(blockIdx.x);; turn += static_cast<int>(gridDim.x)) {
    const SlotTile tile = find_tile(work, turn / across);
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
    const int n0 = turn % across * (kGateUp ? kColumns / 2 : kColumns);
    if constexpr (kFp8) {
#pragma unroll
      for (int i = 0; i < 128; ++i) sum[i] = 0;
      const int row =
          group * 64 + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
      const auto* scales = reinterpret_cast<const float*>(raw + (shared - shared_address(raw)) + kScales);
      for (int step = 0; step < steps; ++step, ++now) {
        const uint32_t stage = now % kStages, from = shared + stage * kStageBytes;
        barrier_wait(full + stage * 8, now / kStages % 2);
        fence_for_wgmma();
        const uint64_t left = tile_descriptor(from + group * 64 * kRowBytes);
        multiply_half<0>(sum, left, from + kABytes, scales + stage * kScaleBytes / 4, row);
        multiply_half<1>(sum, left, from + kABytes, scales + stage * kScaleBytes / 4, row);
        if (signals) barrier_arrive(empty + stage * 8);
      }
    } else {
      for (int step = 0; step < steps; ++step, ++now) {
        const uint32_t stage = now % kStages, from = shared + stage * kStageBytes;
        barrier_wait(full + stage * 8, now / kStages % 2);
        fence_for_wgmma();
        const uint64_t left = tile_descriptor(from + group * 64 * kRowBytes), right = tile_descriptor(from + kABytes);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) wgmma(sum, left + i * 2, right + i * 2, step + i > 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (step > 0 && signals) barrier_arrive(empty + (now - 1) % kStages * 8);
      }
      wgmma_wait<0>();
      wgmma_done(sum);
      if (signals) barrier_arrive(empty + (now - 1) % kStages * 8);
    }
    write_tile<kGateUp>(sum, tile, n0, work.n, work.y, work.y_stride);
  }
}

template <bool kGateUp, bool kFp8>
void grouped(cudaStream_t stream, const GroupedWork& work) {
  const auto kernel = grouped_kernel<kGateUp, kFp8>;
  // A thread has one card.
  thread_local const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  check_cuda(allowed);
  const int64_t tiles = ceil_div<int64_t>(work.n, kGateUp ? kColumns / 2 : kColumns) * (work.rows / kRows + work.local);
  const auto blocks = static_cast<unsigned>(tiles < multiprocessors() ? tiles : multiprocessors());
  launch_kernel(stream, kernel, blocks, kMultiplying + kCopying, kSharedBytes, work);
}

const uint8_t* bytes(const void* p) { return static_cast<const uint8_t*>(p); }

GroupedWork fp8_work(const Fp8Rows& x, const Fp8Weight& w) {
  GroupedWork work{};
  work.x = bytes(x.values);
  work.w = bytes(w.values);
  work.row_bytes = static_cast<int>(w.stride());
  work.n = static_cast<int>(w.n);
  work.local = work.choices = 1;
  work.rows = x.m;
  work.x_scales = x.scales;
  work.w_scales = w.scales;
  work.x_scale_stride = x.scale_stride();
  work.w_scale_size = w.scale_rows() * w.scale_stride();
  work.w_scale_stride = static_cast<int>(w.scale_stride());
  work.row_shift = w.row_shift;
  work.y_stride = work.n;
  return work;
}

}  // namespace

void grouped_gate_up(cudaStream_t stream, const bf16* x, int64_t slots_max, int choices, const ExpertSlots& slots,
                     const ExpertBank<bf16>& bank, bf16* activated) {
  const int width = static_cast<int>(bank.width), row_bytes = static_cast<int>(bank.hidden) * 2;
  grouped<true, false>(stream, {bytes(x), bytes(bank.gate_up), row_bytes, width, bank.local, choices, slots_max, slots,
                                activated, width, nullptr, nullptr, 0, 0, 0, 0});
}
void grouped_down(cudaStream_t stream, const bf16* activated, int64_t slots_max, const ExpertSlots& slots,
                  const ExpertBank<bf16>& bank, bf16* out) {
  const int hidden = static_cast<int>(bank.hidden), row_bytes = static_cast<int>(bank.width) * 2;
  grouped<false, false>(stream, {bytes(activated), bytes(bank.down), row_bytes, hidden, bank.local, 1, slots_max, slots,
                                 out, hidden, nullptr, nullptr, 0, 0, 0, 0});
}

void grouped_gate_up(cudaStream_t stream, const Fp8Rows& x, int64_t slots_max, int choices, const ExpertSlots& slots,
                     const ExpertBank<bf16, fp8>& bank, bf16* activated) {
  GroupedWork work = fp8_work(x, bank.gate_up);
  work.n = static_cast<int>(bank.width);
  work.y_stride = bank.width;
  work.local = bank.local;
  work.choices = choices;
  work.rows = slots_max;
  work.slots = slots;
  work.y = activated;
  grouped<true, true>(stream, work);
}
void grouped_down(cudaStream_t stream, const Fp8Rows& activated, int64_t slots_max, const ExpertSlots& slots,
                  const ExpertBank<bf16, fp8>& bank, bf16* out) {
  GroupedWork work = fp8_work(activated, bank.down);
  work.local = bank.local;
  work.rows = slots_max;
  work.slots = slots;
  work.y = out;
  grouped<false, true>(stream, work);
}
void dense_fp8(cudaStream_t stream, const Fp8Rows& x, const Fp8Weight& w, bf16* y, int64_t y_stride) {
  GroupedWork work = fp8_work(x, w);
  work.y = y;
  work.y_stride = y_stride;
  grouped<false, true>(stream, work);
}

}  // namespace baton::kernels::cuda
