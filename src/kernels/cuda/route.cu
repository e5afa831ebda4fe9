// Tokens to experts.
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

// A row by a warp, expert e at lane e % 32, kPerLane experts a lane at most. in: (experts).
template <int kPerLane>
__device__ void route_row(const Routing& routing, const float* in, const float* bias, int32_t* expert, float* weight) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int n = routing.experts, k = routing.experts_per_token, width = n / routing.groups;
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
        expert[j / 32 * 32 + lane] = my_expert;
        weight[j / 32 * 32 + lane] = mine;
      }
    }
  }
  const bool normalize = routing.normalize && (routing.scale_normalized || k > 1);
  const double scale = normalize && !routing.scale_normalized ? 1 : routing.routed_scale;
  const float factor = static_cast<float>(scale) / (normalize ? total : 1);
  __syncwarp();
  for (int j = lane; j < k; j += 32) weight[j] *= factor;
}

template <int kPerLane>
__global__ void route_kernel(Routing routing, const float* logits, const float* bias, int64_t m, int32_t* expert,
                             float* weight) {
  begin_kernel();
  const int64_t row = blockIdx.x * static_cast<int64_t>(blockDim.x / 32) + threadIdx.x / 32;
  const int k = routing.experts_per_token;
  if (row < m) route_row<kPerLane>(routing, logits + row * routing.experts, bias, expert + row * k, weight + row * k);
}

// A row by a cluster, whose blocks norm it all alike and share out the gate's rows. The first one writes.
constexpr int kNormThreads = 256, kNormWarps = kNormThreads / 32, kNormBlocks = 8, kNormWidth = 8192;
template <int kPerLane>
__global__ void __cluster_dims__(kNormBlocks, 1, 1) __launch_bounds__(kNormThreads)
    norm_route_kernel(const bf16* delta, bf16* residual, const float* norm, float eps, int n, bf16* y, const bf16* gate,
                      Routing routing, const float* bias, float* logits, int32_t* expert, float* weight) {
  let_next_kernel_begin();
  __shared__ alignas(16) bf16 sums[kNormWidth], normed[kNormWidth];
  __shared__ float scores[kExpertsMax];
  const auto cluster = cooperative_groups::this_cluster();
  (void)cluster.barrier_arrive();
  const int block = static_cast<int>(cluster.block_rank()), lane = static_cast<int>(threadIdx.x % 32);
  const int64_t row = blockIdx.x / kNormBlocks;
  // The gate's first rows come while the last kernel ends.
  constexpr int kAhead = 8;
  const int first = block + kNormBlocks * static_cast<int>(threadIdx.x / 32);
  uint4 ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    const int at = (i * 32 + lane) * 8;
    ahead[i] = uint4{0, 0, 0, 0};
    if (first < routing.experts && at < n)
      ahead[i] = *reinterpret_cast<const uint4*>(gate + static_cast<int64_t>(first) * n + at);
  }
  wait_for_last_kernel();
  float square = 0;
  for (int i = static_cast<int>(threadIdx.x) * 8; i < n; i += kNormThreads * 8) {
    Pack<bf16> v = load_pack(delta + row * n + i);
    const Pack<bf16> r = load_pack(residual + row * n + i);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      v.v[j] = from_float<bf16>(to_float(v.v[j]) + to_float(r.v[j]));
      square += to_float(v.v[j]) * to_float(v.v[j]);
    }
    store_pack(sums + i, v);
  }
  const float scale = rsqrtf(block_sum(square) / static_cast<float>(n) + eps);
  for (int i = static_cast<int>(threadIdx.x) * 8; i < n; i += kNormThreads * 8) {
    Pack<bf16> v = load_pack(sums + i);
#pragma unroll
    for (int j = 0; j < 8; ++j) v.v[j] = from_float<bf16>(to_float(v.v[j]) * scale * norm[i + j]);
    store_pack(normed + i, v);
  }
  __syncthreads();
  cluster.barrier_wait();  // the first block is there to be written to
  for (int e = first; e < routing.experts; e += kNormBlocks * kNormWarps) {
    float sum = 0;
    const auto add = [&](const uint4& packed, int at) {
      const auto* w = reinterpret_cast<const bf16*>(&packed);
      const Pack<bf16> v = load_pack(normed + at);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += to_float(w[j]) * to_float(v.v[j]);
    };
    const bf16* from = gate + static_cast<int64_t>(e) * n;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = (i * 32 + lane) * 8;
      if (at < n) add(e == first ? ahead[i] : *reinterpret_cast<const uint4*>(from + at), at);
    }
    for (int at = (kAhead * 32 + lane) * 8; at < n; at += 256) add(*reinterpret_cast<const uint4*>(from + at), at);
    sum = warp_sum(sum);
    if (lane == 0) {
      *cluster.map_shared_rank(&scores[e], 0) = sum;
      logits[row * routing.experts + e] = sum;
    }
  }
  cluster.sync();  // everybody has read `residual`, too
  if (block != 0) return;
  const int k = routing.experts_per_token;
  if (threadIdx.x < 32) return route_row<kPerLane>(routing, scores, bias, expert + row * k, weight + row * k);
  for (int i = (static_cast<int>(threadIdx.x) - 32) * 8; i < n; i += (kNormThreads - 32) * 8) {
    store_pack(residual + row * n + i, load_pack(sums + i));
    store_pack(y + row * n + i, load_pack(normed + i));
  }
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

bool add_norm_route(cudaStream_t stream, const bf16* delta, bf16* residual, const float* norm, float eps, int64_t m,
                    int64_t n, bf16* y, const bf16* gate, const Routing& routing, const float* bias, float* logits,
                    int32_t* expert, float* weight) {
  constexpr int64_t kRowsMax = 16;
  BATON_CHECK(routing.experts <= kExpertsMax && routing.groups <= 32);
  if (m > kRowsMax || n > kNormWidth || n % 8 != 0) return false;
  if (m == 0) return true;
  const auto kernel = routing.experts <= 64    ? norm_route_kernel<2>
                      : routing.experts <= 256 ? norm_route_kernel<8>
                                               : norm_route_kernel<kExpertsMax / 32>;
  launch_kernel(stream, kernel, static_cast<unsigned>(m * kNormBlocks), kNormThreads, 0, delta, residual, norm, eps,
                static_cast<int>(n), y, gate, routing, bias, logits, expert, weight);
  return true;
}

void permute_experts(cudaStream_t stream, const int32_t* expert, int64_t rows, int choices, int first, int local,
                     ExpertSlots slots) {
  if (local == 0) return;
  launch_kernel(stream, permute_kernel, static_cast<unsigned>(local), kPermuteWarps * 32, 0, expert,
                static_cast<int>(rows * choices), first, local, slots);
}

}  // namespace baton::kernels::cuda
