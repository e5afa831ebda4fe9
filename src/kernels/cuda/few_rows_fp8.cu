// Decode with weights in fp8. A warp has 16 rows of a weight, or a part of their columns, and goes on to the next 16
// without waiting for anybody: values become float16, which has them all, by one instruction a pair. Rows of x are
// float16 in shared memory, with a power of two for each 128 columns, so that nothing of bfloat16 is lost but what is
// 2^28 times smaller than the largest of them.
#include <cuda_fp16.h>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/few_rows_fp8.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kWarps = 8, kStep = 64, kAhead = 4;

// y = x * W^T for the slots of `local` weights, or, with slots.offset null, for `rows` rows of one.
template <class Y>
struct FewRowsWork {
  Fp8Weight w;  // the first
  const bf16* x;
  int64_t x_stride;
  int rows, local, choices;
  ExpertSlots slots;
  Y* y;
  int64_t y_stride;
  int team;   // warps that share out the columns of 16 rows
  int held;   // rows of x that shared memory has room for
  int chunk;  // columns of them, a multiple of 128
};

__device__ inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four fp8 values as two pairs of float16.
__device__ inline void fp8_to_f16(uint32_t four, uint32_t& low, uint32_t& high) {
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.rn.f16x2.e4m3x2 %0, l;\ncvt.rn.f16x2.e4m3x2 %1, h;\n}\n"
      : "=r"(low), "=r"(high)
      : "r"(four));
}
__device__ inline uint4 load_once(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ inline void team_barrier(int team, int warps) {
  asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "r"(warps * 32) : "memory");
}

// Shared memory: rows of x, their powers, and what the warps of a team add up.
__host__ __device__ inline int padded_columns(int64_t k) { return static_cast<int>((k + kStep - 1) / kStep * kStep); }
__host__ __device__ inline int x_row_bytes(int64_t k) { return padded_columns(k) * 2 + 16; }
__host__ __device__ inline int x_scale_count(int64_t k) { return static_cast<int>(k + kScaleBlock - 1) / kScaleBlock; }
constexpr size_t sums_bytes(int tiles) { return static_cast<size_t>(kWarps) * tiles * 32 * sizeof(float4); }
inline size_t shared_bytes(int tiles, int held, int64_t chunk) {
  return sums_bytes(tiles) + static_cast<size_t>(held) * (x_row_bytes(chunk) + x_scale_count(chunk) * sizeof(float));
}

// `k` columns of rows [0, count) of x, which begin at row_of(i), for a chunk of `chunk`. All threads.
template <class RowOf>
__device__ void stage_rows(RowOf row_of, int count, int k, int chunk, uint8_t* rows, float* scales) {
  constexpr int kAtOnce = 8;  // loads of a warp under way, of 128 columns each
  const int lane = static_cast<int>(threadIdx.x % 32), blocks = x_scale_count(k), padded = padded_columns(k);
  for (int first = static_cast<int>(threadIdx.x / 32); first < count * blocks; first += kWarps * kAtOnce) {
    uint2 packed[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = first + i * kWarps, column = at % blocks * kScaleBlock + lane * 4;
      packed[i] = uint2{0, 0};
      if (at < count * blocks && column < k) packed[i] = *reinterpret_cast<const uint2*>(row_of(at / blocks) + column);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = first + i * kWarps, row = at / blocks, block = at % blocks,
                column = block * kScaleBlock + lane * 4;
      if (at >= count * blocks) break;
      float v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j] = to_float(reinterpret_cast<const bf16*>(&packed[i])[j]);
      const float top = warp_max(fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3]))));
      // top * 2^-power is in [2^14, 2^15).
      const int power = top == 0 ? 0 : static_cast<int>(__float_as_uint(top) >> 23) - 127 - 14;
      const float by = __uint_as_float(static_cast<uint32_t>(min(max(127 - power, 1), 254)) << 23);
      const __half2 pairs[2] = {__floats2half2_rn(v[0] * by, v[1] * by), __floats2half2_rn(v[2] * by, v[3] * by)};
      if (column < padded)
        *reinterpret_cast<uint2*>(rows + row * x_row_bytes(chunk) + column * 2) =
            *reinterpret_cast<const uint2*>(pairs);
      if (lane == 0) scales[row * x_scale_count(chunk) + block] = 1 / by;
    }
  }
}

// What a warp has under way of its weights: kAhead steps of 64 columns of two rows a thread.
struct WeightStep {
  uint4 low, high;  // of rows lane / 4 and lane / 4 + 8
  float scale_low, scale_high;
};

// Columns [begin, end) of the weights of groups first, first + by ..., of 16 rows each, as a line of steps, of which
// this warp has one in `parts`. kGateUp: a group is eight rows of the gate and the same eight of up.
template <bool kGateUp>
class StepLine {
 public:
  __device__ StepLine(const Fp8Weight& w, int begin, int end, int first, int by, int part, int parts)
      : w_(w), end_(end), group_(first), by_(by), part_(begin / kStep + part), parts_(parts), step_(part_) {
    turn();
  }
  __device__ void load(WeightStep& to) {
    const int at = step_ * kStep + static_cast<int>(threadIdx.x % 4) * 16;
    to.low = to.high = uint4{0, 0, 0, 0};
    if (at < end_) {
      to.low = load_once(low_ + at);
      to.high = load_once(high_ + at);
    }
    const int block = step_ * kStep / kScaleBlock;
    to.scale_low = __ldg(scale_low_ + block);
    to.scale_high = __ldg(scale_high_ + block);
    step_ += parts_;
    if (step_ * kStep >= end_) {
      step_ = part_;
      group_ += by_;
      turn();
    }
  }

 private:
  __device__ void turn() {
    const int row = static_cast<int>(threadIdx.x % 32) / 4, n = static_cast<int>(w_.n);
    const int a = kGateUp ? min(group_ * 8 + row, n / 2 - 1) : min(group_ * 16 + row, n - 1);
    const int b = kGateUp ? a + n / 2 : min(group_ * 16 + 8 + row, n - 1);
    low_ = w_.values + a * w_.stride();
    high_ = w_.values + b * w_.stride();
    scale_low_ = w_.scales + (a >> w_.row_shift) * w_.scale_stride();
    scale_high_ = w_.scales + (b >> w_.row_shift) * w_.scale_stride();
  }
  const Fp8Weight& w_;
  int end_, group_, by_, part_, parts_, step_;
  const fp8 *low_, *high_;
  const float *scale_low_, *scale_high_;
};

template <int kTiles>
__device__ inline void multiply_step(float (&sum)[kTiles][4], const WeightStep& w, const uint8_t* rows, int row_bytes,
                                     const float* scales, int blocks, int count, int step) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float part[kTiles][4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t low[4], high[4];
    fp8_to_f16(half == 0 ? w.low.x : w.low.z, low[0], low[2]);
    fp8_to_f16(half == 0 ? w.high.x : w.high.z, low[1], low[3]);
    fp8_to_f16(half == 0 ? w.low.y : w.low.w, high[0], high[2]);
    fp8_to_f16(half == 0 ? w.high.y : w.high.w, high[1], high[3]);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int row = min(i * 8 + lane / 4, count - 1);
      const uint4 x =
          *reinterpret_cast<const uint4*>(rows + row * row_bytes + (step * kStep + lane % 4 * 16 + half * 8) * 2);
      mma_f16(part[i], low, x.x, x.y);
      mma_f16(part[i], high, x.z, x.w);
    }
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int block = step * kStep / kScaleBlock, row = i * 8 + lane % 4 * 2;
    const float x0 = scales[min(row, count - 1) * blocks + block],
                x1 = scales[min(row + 1, count - 1) * blocks + block];
    sum[i][0] += w.scale_low * x0 * part[i][0];
    sum[i][1] += w.scale_low * x1 * part[i][1];
    sum[i][2] += w.scale_high * x0 * part[i][2];
    sum[i][3] += w.scale_high * x1 * part[i][3];
  }
}

// Rows of x that are staged, rows first, first + 1 ... of y: columns [k_begin, k_end) of them.
struct StagedRows {
  const uint8_t* rows;
  const float* scales;
  int count;
  int64_t first;
  int k_begin, k_end;
};

// Groups [begin, end) of one weight by the block's teams. If the columns are not all of x, a team has one group at
// most, and goes on with `sum`. stage() makes x what it says, while the first weights are on their way.
template <int kTiles, bool kGateUp, class Y, class Stage>
__device__ void multiply_groups(const FewRowsWork<Y>& work, const Fp8Weight& w, int begin, int end, const StagedRows& x,
                                float4* sums, float (&sum)[kTiles][4], Stage stage) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int team = warp / work.team, part = warp % work.team, teams = kWarps / work.team;
  const int n = static_cast<int>(w.n), count = x.count, blocks = x_scale_count(work.chunk);
  const int own = begin + team < end ? (end - begin - team + teams - 1) / teams : 0;   // groups of this team
  const int steps = ceil_div(ceil_div(x.k_end - x.k_begin, kStep) - part, work.team);  // of this warp in each, >= 1
  const int total = own * steps;
  StepLine<kGateUp> line(w, x.k_begin, x.k_end, begin + team, teams, part, work.team);
  WeightStep ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i)
    if (i < total) line.load(ahead[i]);
  __syncthreads();
  stage();
  __syncthreads();
  int done = 0, group = begin + team;
  for (int base = 0; base < total; base += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (base + i >= total) break;
      multiply_step<kTiles>(sum, ahead[i], x.rows, x_row_bytes(work.chunk), x.scales, blocks, count,
                            part + done * work.team);
      if (base + i + kAhead < total) line.load(ahead[i]);
      if (++done < steps || x.k_end < w.k) continue;
      done = 0;
      if (work.team > 1) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
          sums[(warp * kTiles + t) * 32 + lane] = float4{sum[t][0], sum[t][1], sum[t][2], sum[t][3]};
        team_barrier(team, work.team);
        if (part == 0) {
          for (int other = 1; other < work.team; ++other) {
#pragma unroll
            for (int t = 0; t < kTiles; ++t) {
              const float4 v = sums[((warp + other) * kTiles + t) * 32 + lane];
              sum[t][0] += v.x;
              sum[t][1] += v.y;
              sum[t][2] += v.z;
              sum[t][3] += v.w;
            }
          }
        }
        team_barrier(team, work.team);
      }
      if (part == 0) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int row = t * 8 + lane % 4 * 2 + j;
            if (row >= count) continue;
            Y* y = work.y + (x.first + row) * work.y_stride;
            if constexpr (kGateUp) {
              const int column = group * 8 + lane / 4;
              const float gate = sum[t][j];
              if (column < n / 2) y[column] = from_float<Y>(gate / (1 + __expf(-gate)) * sum[t][2 + j]);
            } else {
              const int column = group * 16 + lane / 4;
              if (column < n) y[column] = from_float<Y>(sum[t][j]);
              if (column + 8 < n) y[column + 8] = from_float<Y>(sum[t][2 + j]);
            }
          }
        }
      }
      group += teams;
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[t][j] = 0;
    }
  }
}

// The weights that have rows, in order, each of `groups` groups: a block has an even share of that line.
template <int kTiles, bool kGateUp, class Y>
__global__ void __launch_bounds__(kWarps * 32, kTiles == 4 ? 1 : 2) few_rows_kernel(FewRowsWork<Y> work) {
  begin_kernel();
  extern __shared__ float4 few_rows_shared[];
  __shared__ int16_t busy[512];  // the weights that have rows
  __shared__ int busy_count;
  auto* sums = few_rows_shared;
  const int k = static_cast<int>(work.w.k), n = static_cast<int>(work.w.n);
  auto* rows = reinterpret_cast<uint8_t*>(sums) + sums_bytes(kTiles);
  auto* scales = reinterpret_cast<float*>(rows + work.held * x_row_bytes(work.chunk));
  const int32_t* offset = work.slots.offset;
  if (threadIdx.x < 32) {
    const int lane = static_cast<int>(threadIdx.x);
    int found = 0;
    for (int e0 = 0; e0 < work.local; e0 += 32) {
      const int e = e0 + lane;
      const bool some = e < work.local && (offset == nullptr || offset[e] < offset[e + 1]);
      const unsigned all = __ballot_sync(~0U, some);
      if (some) busy[found + __popc(all & ((1U << lane) - 1))] = static_cast<int16_t>(e);
      found += __popc(all);
    }
    if (lane == 0) busy_count = found;
  }
  __syncthreads();
  const int groups = kGateUp ? ceil_div(n / 2, 8) : ceil_div(n, 16);
  const int64_t line = static_cast<int64_t>(busy_count) * groups;
  const auto begin = static_cast<int>(line * blockIdx.x / gridDim.x);
  const auto end = static_cast<int>(line * (blockIdx.x + 1) / gridDim.x);
  for (int at = begin; at < end;) {
    const int e = busy[at / groups], from = at % groups, to = min(groups, from + end - at);
    Fp8Weight w = work.w;
    w.values += e * w.n * w.stride();
    w.scales += e * w.scale_rows() * w.scale_stride();
    const int slot_begin = offset == nullptr ? 0 : offset[e], slot_end = offset == nullptr ? work.rows : offset[e + 1];
    const int together = work.chunk < k ? kWarps / work.team : to - from;  // groups that go over x at once
    for (int first = slot_begin; first < slot_end; first += 8 * kTiles) {
      StagedRows x{rows, scales, min(8 * kTiles, slot_end - first), first, 0, 0};
      for (int group = from; group < to; group += together) {
        float sum[kTiles][4] = {};
        for (x.k_begin = 0; x.k_begin < k; x.k_begin += work.chunk) {
          x.k_end = min(k, x.k_begin + work.chunk);
          const auto stage = [&] {
            stage_rows(
                [&](int i) {
                  const int64_t row = kGateUp ? work.slots.pair_of[first + i] / work.choices : first + i;
                  return work.x + row * work.x_stride + x.k_begin;
                },
                x.count, x.k_end - x.k_begin, work.chunk, rows, scales);
          };
          multiply_groups<kTiles, kGateUp>(work, w, group, min(to, group + together), x, sums, sum, stage);
        }
      }
    }
    at += to - from;
  }
}

// Of a multiprocessor, and what a block takes beside what is asked for.
constexpr size_t kSharedOfAll = 227 << 10, kSharedBeside = 3072;

// rows: that a weight has at most, or about that many. weights_max: that have rows.
template <int kTiles, bool kGateUp, class Y>
void launch(cudaStream_t stream, FewRowsWork<Y> work, int64_t rows, int64_t weights_max) {
  constexpr int kBlocks = kTiles == 4 ? 1 : 2;  // of a multiprocessor
  constexpr size_t kShared = kSharedOfAll / kBlocks - kSharedBeside;
  const auto kernel = few_rows_kernel<kTiles, kGateUp, Y>;
  // A thread has one card.
  thread_local const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kShared));
  check_cuda(allowed);
  work.held = static_cast<int>(work.slots.offset == nullptr && rows < 8 * kTiles ? rows : 8 * kTiles);
  int64_t chunks = 1;
  const auto columns = [&] { return ceil_div(ceil_div(work.w.k, chunks), int64_t{kScaleBlock}) * kScaleBlock; };
  while (shared_bytes(kTiles, work.held, columns()) > kShared) ++chunks;
  work.chunk = static_cast<int>(columns());
  const int64_t each = kGateUp ? ceil_div<int64_t>(work.w.n / 2, 8) : ceil_div<int64_t>(work.w.n, 16);
  const int64_t groups = each * weights_max;
  const int64_t steps = ceil_div<int64_t>(work.w.k - (ceil_div<int64_t>(work.w.k, work.chunk) - 1) * work.chunk, kStep);
  // So many warps as keep memory busy, and no more than have something to do. Larger teams cost more in adding up than
  // their evener shares save.
  const int64_t places = int64_t{kBlocks} * multiprocessors();
  work.team = 1;
  while (work.team < kWarps && groups * work.team < 2 * multiprocessors() * kWarps && 2 * work.team <= steps)
    work.team *= 2;
  const int64_t blocks = ceil_div<int64_t>(groups * work.team, kWarps);
  launch_kernel(stream, kernel, static_cast<unsigned>(blocks < places ? blocks : places), kWarps * 32,
                shared_bytes(kTiles, work.held, work.chunk), work);
}

template <bool kGateUp, class Y>
void few_rows(cudaStream_t stream, const FewRowsWork<Y>& work, int64_t rows, int64_t weights_max) {
  BATON_CHECK(work.local <= 512);
  if (rows > 24) return launch<4, kGateUp>(stream, work, rows, weights_max);
  if (rows > 8) return launch<2, kGateUp>(stream, work, rows, weights_max);
  launch<1, kGateUp>(stream, work, rows, weights_max);
}

}  // namespace

void few_rows_gate_up(cudaStream_t stream, const bf16* x, int64_t pairs, int64_t each, int choices,
                      const ExpertSlots& slots, const ExpertBank<bf16, fp8>& bank, bf16* activated) {
  const FewRowsWork<bf16> work{bank.gate_up, x,       bank.hidden, static_cast<int>(pairs),
                               bank.local,   choices, slots,       activated,
                               bank.width,   1,       0,           0};
  few_rows<true>(stream, work, each, pairs < bank.local ? pairs : bank.local);
}
void few_rows_down(cudaStream_t stream, const bf16* activated, int64_t pairs, int64_t each, const ExpertSlots& slots,
                   const ExpertBank<bf16, fp8>& bank, bf16* out) {
  const FewRowsWork<bf16> work{
      bank.down, activated, bank.width, static_cast<int>(pairs), bank.local, 1, slots, out, bank.hidden, 1, 0, 0};
  few_rows<false>(stream, work, each, pairs < bank.local ? pairs : bank.local);
}

template <class Y>
void linear_fp8(cudaStream_t stream, const Fp8Weight& w, const bf16* x, int64_t x_stride, int64_t m, Y* y,
                int64_t y_stride) {
  if (m == 0) return;
  BATON_CHECK(w.k % 8 == 0 && packable<bf16>(x, x_stride, 8));  // x is read by four values
  const FewRowsWork<Y> work{w, x, x_stride, static_cast<int>(m), 1, 1, {}, y, y_stride, 1, 0, 0};
  few_rows<false>(stream, work, m, 1);
}
template void linear_fp8<bf16>(cudaStream_t, const Fp8Weight&, const bf16*, int64_t, int64_t, bf16*, int64_t);
template void linear_fp8<float>(cudaStream_t, const Fp8Weight&, const bf16*, int64_t, int64_t, float*, int64_t);

}  // namespace baton::kernels::cuda
