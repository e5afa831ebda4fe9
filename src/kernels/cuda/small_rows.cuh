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

// Row `row` of matrix `matrix` of a stack of (n, k), or the last one if there is none.
__device__ inline const bf16* stored_row(const bf16* values, int64_t matrix, int n, int k, int row) {
  return values + (matrix * n + min(row, n - 1)) * k;
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

// A step of a warp is 64 columns of W's rows; the warps of a block take turns. Weights of kStepsAhead steps are in
// flight: what a step leaves is filled for the one that comes kStepsAhead later. More leave room for fewer blocks on a
// multiprocessor: with twice as many, experts' weights come at half the rate.
__device__ inline int first_column() { return static_cast<int>(threadIdx.x / 32) * 64; }
__device__ inline int step_columns() { return static_cast<int>(blockDim.x / 32) * 64; }

// Of the two rows of a thread. k is a multiple of 8.
struct WeightStep {
  uint4 a[2], b[2];

  __device__ void load(const bf16* w0, const bf16* w1, int begin, int k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = begin + half * 32 + static_cast<int>(threadIdx.x % 4) * 8;
      a[half] = b[half] = uint4{0, 0, 0, 0};
      if (at >= k) continue;
      a[half] = load_weight(w0 + at);
      b[half] = load_weight(w1 + at);
    }
  }
  template <int kTiles>
  __device__ void multiply(float (&sum)[kTiles][4], const bf16* const (&x)[kTiles], int begin, int k) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = begin + half * 32 + static_cast<int>(threadIdx.x % 4) * 8;
      accumulate_16<kTiles>(sum, a[half], b[half], x, at, at < k);
    }
  }
};
inline constexpr int kStepsAhead = 2;
using WeightSteps = WeightStep[kStepsAhead];
__device__ inline void load_first(WeightSteps& steps, const bf16* w0, const bf16* w1, int k) {
#pragma unroll
  for (int i = 0; i < kStepsAhead; ++i) steps[i].load(w0, w1, first_column() + i * step_columns(), k);
}

// Sums of this warp's part of k. w0, w1: rows lane / 4 and lane / 4 + 8 of the block's weights; x[i]: row lane / 4 of
// tile i. `steps`: as load_first() leaves them.
template <int kTiles>
__device__ inline void accumulate(float (&sum)[kTiles][4], const bf16* w0, const bf16* w1,
                                  const bf16* const (&x)[kTiles], int k, WeightSteps& steps) {
  for (int begin = first_column(); begin < k; begin += kStepsAhead * step_columns()) {
#pragma unroll
    for (int i = 0; i < kStepsAhead; ++i) {
      const int at = begin + i * step_columns();
      if (at >= k) break;
      steps[i].multiply<kTiles>(sum, x, at, k);
      steps[i].load(w0, w1, at + kStepsAhead * step_columns(), k);
    }
  }
}
// The same in rounds, which leave more room to blocks beside this one.
template <int kTiles>
__device__ inline void accumulate(float (&sum)[kTiles][4], const bf16* w0, const bf16* w1,
                                  const bf16* const (&x)[kTiles], int k) {
  WeightSteps steps;
  for (int begin = first_column(); begin < k; begin += kStepsAhead * step_columns()) {
#pragma unroll
    for (int i = 0; i < kStepsAhead; ++i) steps[i].load(w0, w1, begin + i * step_columns(), k);
#pragma unroll
    for (int i = 0; i < kStepsAhead; ++i) {
      if (begin + i * step_columns() >= k) break;
      steps[i].multiply<kTiles>(sum, x, begin + i * step_columns(), k);
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
