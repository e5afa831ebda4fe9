// Tokens to experts, logits to tokens: small decisions a row.
#include <cfloat>

#include "kernels/cuda/common.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kExpertsMax = 512;
constexpr int kPerLane = kExpertsMax / 32;

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

// A warp a row, expert e at lane e % 32.
__global__ void route_kernel(Routing routing, const float* logits, const float* bias, int64_t m, int32_t* expert,
                             float* weight) {
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
// order. Every block reads all choices, from L2: that costs less than a second kernel.
constexpr int kPermuteThreads = 256;
__global__ void permute_kernel(const int32_t* expert, int64_t pairs, int first, int local, ExpertSlots slots) {
  __shared__ int per_warp[kPermuteThreads / 32];
  const int e = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x % 32),
            warp = static_cast<int>(threadIdx.x / 32);
  float below = 0;
  for (int64_t p = threadIdx.x; p < pairs; p += kPermuteThreads) {
    const int other = expert[p] - first;
    if (other >= 0 && other < e) ++below;
    if (e == 0 && (other < 0 || other >= local)) slots.slot_of[p] = -1;
  }
  int at = static_cast<int>(block_sum(below));
  if (threadIdx.x == 0) slots.offset[e] = at;
  for (int64_t begin = 0; begin < pairs; begin += kPermuteThreads) {
    const int64_t p = begin + threadIdx.x;
    const bool own = p < pairs && expert[p] - first == e;
    const unsigned votes = __ballot_sync(~0U, own);
    __syncthreads();
    if (lane == 0) per_warp[warp] = __popc(votes);
    __syncthreads();
    int before = 0, all = 0;
#pragma unroll
    for (int w = 0; w < kPermuteThreads / 32; ++w) {
      if (w < warp) before += per_warp[w];
      all += per_warp[w];
    }
    if (own) {
      const int slot = at + before + __popc(votes & ((1U << lane) - 1));
      slots.pair_of[slot] = static_cast<int32_t>(p);
      slots.slot_of[p] = slot;
    }
    at += all;
  }
  if (e == local - 1 && threadIdx.x == 0) slots.offset[local] = at;
}

__global__ void greedy_kernel(const float* logits, int64_t stride, int64_t n, int32_t* token, float* logprob) {
  __shared__ Best part[32];
  __shared__ float sums[32];
  const float* row = logits + blockIdx.x * stride;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  Best best{-INFINITY, INT32_MAX};
  float sum = 0;  // of exp(logit - best.value), over what this thread has seen
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const float v = row[i];
    if (v > best.value) {
      sum = sum * __expf(best.value - v) + 1;
      best = {v, static_cast<int>(i)};
    } else {
      sum += __expf(v - best.value);
    }
  }
  const Best of_warp = warp_best(best);
  if (best.at != INT32_MAX) sum *= __expf(best.value - of_warp.value);
  sum = warp_sum(sum);
  if (lane == 0) {
    part[warp] = of_warp;
    sums[warp] = sum;
  }
  __syncthreads();
  if (warp != 0) return;
  const int warps = static_cast<int>(blockDim.x / 32);
  const Best mine = lane < warps ? part[lane] : Best{-INFINITY, INT32_MAX};
  const Best all = warp_best(mine);
  const float total = warp_sum(mine.at != INT32_MAX ? sums[lane] * __expf(mine.value - all.value) : 0);
  if (lane == 0) {
    token[blockIdx.x] = all.at;
    if (logprob != nullptr) logprob[blockIdx.x] = -logf(total);
  }
}

}  // namespace

void route(cudaStream_t stream, const Routing& routing, const float* logits, const float* bias, int64_t m,
           int32_t* expert, float* weight) {
  if (m == 0) return;
  BATON_CHECK(routing.experts <= kExpertsMax && routing.groups <= 32);
  constexpr int kRows = 4;
  route_kernel<<<static_cast<unsigned>(ceil_div<int64_t>(m, kRows)), kRows * 32, 0, stream>>>(routing, logits, bias, m,
                                                                                              expert, weight);
  check_launch();
}

void permute_experts(cudaStream_t stream, const int32_t* expert, int64_t rows, int choices, int first, int local,
                     ExpertSlots slots) {
  if (local == 0) return;
  permute_kernel<<<static_cast<unsigned>(local), kPermuteThreads, 0, stream>>>(expert, rows * choices, first, local,
                                                                               slots);
  check_launch();
}

void greedy(cudaStream_t stream, const float* logits, int64_t stride, int64_t m, int64_t n, int32_t* token,
            float* logprob) {
  if (m == 0) return;
  greedy_kernel<<<static_cast<unsigned>(m), 1024, 0, stream>>>(logits, stride, n, token, logprob);
  check_launch();
}

}  // namespace baton::kernels::cuda
