// Products of few rows, as decode has them: y (rows, n) = x (rows, k) * W^T where reading W is the work. Each weight is
// read once, 16 bytes a thread, straight into the registers of tensor core products that have W for their left side:
// no shared memory, no barrier until the warps of a block, which share out k, add up their sums.
#pragma once

#include "kernels/cuda/common.cuh"

namespace baton::kernels::cuda {

// Of a block: 16 rows of W by 8 * kTiles rows of x.
inline constexpr int kSmallRowsWarps = 8;

__device__ inline uint4 load_weight(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// A row of a weight as it is stored.
template <class W>
struct StoredRow {
  const W* values;
  const float* scales;  // of its blocks of columns, of fp8
};
// Row `row` of matrix `matrix` of a stack of (n, k), or the last one if there is none.
template <class W>
__device__ inline StoredRow<W> stored_row(const W* values, const float* scales, int64_t matrix, int n, int k, int row) {
  const int r = min(row, n - 1);
  return {values + (matrix * n + r) * k,
          scales == nullptr
              ? nullptr
              : scales + (matrix * ceil_div(n, kScaleBlock) + r / kScaleBlock) * ceil_div(k, kScaleBlock)};
}

// The 16 values of a quad's four threads are columns of a step in another order than the instruction's; W and x agree
// on it, and the order of a sum's terms is free.
template <int kTiles>
__device__ inline void accumulate_16(float (&sum)[kTiles][4], const uint4& w0, const uint4& w1,
                                     const bf16* const (&x)[kTiles], int at, bool inside) {
  const uint32_t low[4] = {w0.x, w1.x, w0.y, w1.y}, high[4] = {w0.z, w1.z, w0.w, w1.w};
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    uint4 v{0, 0, 0, 0};
    if (inside) v = *reinterpret_cast<const uint4*>(x[i] + at);
    mma_16816(sum[i], low, v.x, v.y);
    mma_16816(sum[i], high, v.z, v.w);
  }
}

// Sums of this warp's part of k. w0, w1: rows lane / 4 and lane / 4 + 8 of the block's weights; x[i]: row lane / 4 of
// tile i. k is a multiple of 8.
template <int kTiles>
__device__ inline void accumulate(float (&sum)[kTiles][4], const StoredRow<bf16>& w0, const StoredRow<bf16>& w1,
                                  const bf16* const (&x)[kTiles], int k) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int step = static_cast<int>(blockDim.x / 32) * 64;
  constexpr int kAhead = 2;  // loads in flight: 4 a round
  for (int begin = warp * 64; begin < k; begin += kAhead * step) {
    uint4 a[kAhead][2], b[kAhead][2];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = begin + i * step + half * 32 + lane % 4 * 8;
        a[i][half] = b[i][half] = uint4{0, 0, 0, 0};
        if (at < k) {
          a[i][half] = load_weight(w0.values + at);
          b[i][half] = load_weight(w1.values + at);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (begin + i * step >= k) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = begin + i * step + half * 32 + lane % 4 * 8;
        accumulate_16<kTiles>(sum, a[i][half], b[i][half], x, at, at < k);
      }
    }
  }
}

// The same of fp8: a thread has 16 values of every 64, for four steps of the instruction. k is a multiple of 16.
template <int kTiles>
__device__ inline void accumulate(float (&sum)[kTiles][4], const StoredRow<fp8>& w0, const StoredRow<fp8>& w1,
                                  const bf16* const (&x)[kTiles], int k) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int step = static_cast<int>(blockDim.x / 32) * 64;
  constexpr int kAhead = 4;
  for (int begin = warp * 64; begin < k; begin += kAhead * step) {
    uint4 a[kAhead], b[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = begin + i * step + lane % 4 * 16;
      a[i] = b[i] = uint4{0, 0, 0, 0};
      if (at < k) {
        a[i] = load_weight(w0.values + at);
        b[i] = load_weight(w1.values + at);
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int first = begin + i * step, at = first + lane % 4 * 16;
      if (first >= k) break;
      float part[kTiles][4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t a0 = half == 0 ? a[i].x : a[i].z, a1 = half == 0 ? a[i].y : a[i].w;
        const uint32_t b0 = half == 0 ? b[i].x : b[i].z, b1 = half == 0 ? b[i].y : b[i].w;
        const uint4 left{fp8_to_bf16(a0 & 0xffff), fp8_to_bf16(a0 >> 16), fp8_to_bf16(a1 & 0xffff),
                         fp8_to_bf16(a1 >> 16)};
        const uint4 low{fp8_to_bf16(b0 & 0xffff), fp8_to_bf16(b0 >> 16), fp8_to_bf16(b1 & 0xffff),
                        fp8_to_bf16(b1 >> 16)};
        accumulate_16<kTiles>(part, left, low, x, at + half * 8, at < k);
      }
      const float s0 = w0.scales[first / kScaleBlock], s1 = w1.scales[first / kScaleBlock];
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        sum[j][0] += s0 * part[j][0];
        sum[j][1] += s0 * part[j][1];
        sum[j][2] += s1 * part[j][2];
        sum[j][3] += s1 * part[j][3];
      }
    }
  }
}

// total[row of x][row of W] = the sums of all warps. `total` is dynamic shared memory: warps * 16 * 8 * kTiles floats;
// what counts is in the first 16 * 8 * kTiles, each thread's own elements (index threadIdx.x, + blockDim.x ...) ready
// for it alone; a barrier is needed before any other's is read or the next call.
template <int kTiles>
__device__ inline void add_up_warps(const float (&sum)[kTiles][4], float* total) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  constexpr int kSize = 16 * 8 * kTiles;
  float* mine = total + warp * kSize;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) mine[(i * 8 + lane % 4 * 2 + j % 2) * 16 + lane / 4 + j / 2 * 8] = sum[i][j];
  }
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x); at < kSize; at += static_cast<int>(blockDim.x)) {
    float v = total[at];
    for (int w = 1; w < static_cast<int>(blockDim.x / 32); ++w) v += total[w * kSize + at];
    total[at] = v;
  }
}

template <int kTiles>
constexpr size_t small_rows_shared(int warps) {
  return static_cast<size_t>(warps) * 16 * 8 * kTiles * sizeof(float);
}
// Warps that have something to read.
inline int small_rows_warps(int64_t k) {
  const int64_t warps = ceil_div<int64_t>(k, 64);
  return static_cast<int>(warps < kSmallRowsWarps ? warps : kSmallRowsWarps);
}

}  // namespace baton::kernels::cuda
