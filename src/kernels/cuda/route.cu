// Tokens to experts, logits to tokens: small decisions a row.
#include <cooperative_groups.h>

#include <cfloat>

#include "kernels/cuda/common.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kExpertsMax = 512;

// Of two candidates the larger, the first of equal ones.
struct Best {
  float value;
  int at;
};
__device__ inline Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
}
__device__ inline Best warp_best(Best v) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) {
    const Best other{__shfl_xor_sync(~0U, v.value, lane), __shfl_xor_sync(~0U, v.at, lane)};
    v = better(v, other);
  }
  return v;
}

// A warp a row, expert e at lane e % 32, kPerLane experts a lane at most.
template <int kPerLane>
__global__ void route_kernel(Routing routing, const float* logits, const float* bias, int64_t m, int32_t* expert,
                             float* weight) {
  begin_kernel();
  const int64_t row = blockIdx.x * static_cast<int64_t>(blockDim.x / 32) + threadIdx.x / 32;
  if (row >= m) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int n = routing.experts, k = routing.experts_per_token, width = n / routing.groups;
  const float* in = logits + row * n;
  float score[kPerLane], choice[kPerLane];
  if (routing.score == Routing::Score::kSigmoid) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) score[i] = i * 32 + lane < n ? 1 / (1 + expf(-in[i * 32 + lane])) : 0;
  } else {
    float largest = -FLT_MAX, sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      score[i] = i * 32 + lane < n ? in[i * 32 + lane] : -FLT_MAX;
      largest = fmaxf(largest, score[i]);
    }
    largest = warp_max(largest);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      score[i] = i * 32 + lane < n ? expf(score[i] - largest) : 0;
      sum += score[i];
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) score[i] /= sum;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = i * 32 + lane;
    choice[i] = e < n ? score[i] + (bias != nullptr ? bias[e] : 0) : -FLT_MAX;
  }
  if (routing.topk != Routing::TopK::kGreedy) {
    // Lane g rates group g (at most 32 groups).
    float rating = -FLT_MAX;
    for (int g = 0; g < routing.groups; ++g) {
      float first = -FLT_MAX, second = -FLT_MAX;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int e = i * 32 + lane;
        if (e >= g * width && e < (g + 1) * width) {
          second = fmaxf(second, fminf(first, choice[i]));
          first = fmaxf(first, choice[i]);
        }
      }
      for (int other = 16; other > 0; other /= 2) {
        const float f = __shfl_xor_sync(~0U, first, other), s = __shfl_xor_sync(~0U, second, other);
        second = fmaxf(fmaxf(second, s), fminf(first, f));
        first = fmaxf(first, f);
      }
      const bool two = routing.topk == Routing::TopK::kNoauxTc && width > 1;
      if (lane == g) rating = first + (two ? second : 0);
    }
    uint32_t kept = 0;
    for (int i = 0; i < routing.groups_kept; ++i) {
      const bool open = lane < routing.groups && (kept >> lane & 1) == 0;
      const Best best = warp_best({open ? rating : -FLT_MAX, open ? lane : 32 + lane});
      kept |= 1U << best.at % 32;
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int e = i * 32 + lane;
      if (e < n && (kept >> e / width & 1) == 0) choice[i] = -FLT_MAX;
    }
  }
  float total = 0, mine = 0;
  int my_expert = 0;
  for (int j = 0; j < k; ++j) {
    Best best{-FLT_MAX, kExpertsMax};
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int e = i * 32 + lane;
      if (e < n) best = better(best, {choice[i], e});
    }
    best = warp_best(best);
    float chosen = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (i * 32 + lane == best.at) {
        chosen = score[i];
        choice[i] = -INFINITY;
      }
    }
    chosen = warp_sum(chosen);
    total += chosen;
    if (lane == j % 32) {
      mine = chosen;
      my_expert = best.at;
    }
    if (j % 32 == 31 || j == k - 1) {
      if (lane <= j % 32) {
        expert[row * k + j / 32 * 32 + lane] = my_expert;
        weight[row * k + j / 32 * 32 + lane] = mine;
      }
    }
  }
  const bool normalize = routing.normalize && (routing.scale_normalized || k > 1);
  const double scale = normalize && !routing.scale_normalized ? 1 : routing.routed_scale;
  const float factor = static_cast<float>(scale) / (normalize ? total : 1);
  __syncwarp();
  for (int j = lane; j < k; j += 32) weight[row * k + j] *= factor;
}

// Block e finds the slots of expert first + e: those of the experts below come before, and its own pairs keep their
// order. Every block reads all choices, from L2: that costs less than a second kernel. Warps have a run of pairs each,
// which they count first.
constexpr int kPermuteWarps = 16;
__global__ void permute_kernel(const int32_t* expert, int pairs, int first, int local, ExpertSlots slots) {
  begin_kernel();
  __shared__ int own_of[kPermuteWarps], below_of[kPermuteWarps];
  const int e = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x % 32),
            warp = static_cast<int>(threadIdx.x / 32);
  const int run = ceil_div(ceil_div(pairs, kPermuteWarps), 32) * 32;
  const int begin = min(warp * run, pairs), end = min(begin + run, pairs);
  int own = 0, below = 0;
#pragma unroll 4
  for (int p = begin + lane; p < end; p += 32) {
    const int other = expert[p] - first;
    own += static_cast<int>(other == e);
    below += static_cast<int>(other >= 0 && other < e);
    if (e == 0 && (other < 0 || other >= local)) slots.slot_of[p] = -1;
  }
  own = __reduce_add_sync(~0U, own);
  below = __reduce_add_sync(~0U, below);
  if (lane == 0) {
    own_of[warp] = own;
    below_of[warp] = below;
  }
  __syncthreads();
  int offset = 0, at = 0;
#pragma unroll
  for (int w = 0; w < kPermuteWarps; ++w) {
    offset += below_of[w];
    if (w < warp) at += own_of[w];
  }
  at += offset;
  if (threadIdx.x == 0) slots.offset[e] = offset;
  if (e == local - 1 && warp == kPermuteWarps - 1 && lane == 0) slots.offset[local] = at + own;
  if (own == 0) return;
#pragma unroll 4
  for (int p = begin + lane; p - lane < end; p += 32) {
    const bool mine = p < end && expert[p] - first == e;
    const unsigned votes = __ballot_sync(~0U, mine);
    if (mine) {
      const int slot = at + __popc(votes & ((1U << lane) - 1));
      slots.pair_of[slot] = p;
      slots.slot_of[p] = slot;
    }
    at += __popc(votes);
  }
}

}  // namespace

void route(cudaStream_t stream, const Routing& routing, const float* logits, const float* bias, int64_t m,
           int32_t* expert, float* weight) {
  if (m == 0) return;
  BATON_CHECK(routing.experts <= kExpertsMax && routing.groups <= 32);
  constexpr int kRows = 4;
  const auto kernel = routing.experts <= 64    ? route_kernel<2>
                      : routing.experts <= 256 ? route_kernel<8>
                                               : route_kernel<kExpertsMax / 32>;
  launch_kernel(stream, kernel, static_cast<unsigned>(ceil_div<int64_t>(m, kRows)), kRows * 32, 0, routing, logits,
                bias, m, expert, weight);
}

void permute_experts(cudaStream_t stream, const int32_t* expert, int64_t rows, int choices, int first, int local,
                     ExpertSlots slots) {
  if (local == 0) return;
  launch_kernel(stream, permute_kernel, static_cast<unsigned>(local), kPermuteWarps * 32, 0, expert,
                static_cast<int>(rows * choices), first, local, slots);
}

}  // namespace baton::kernels::cuda
