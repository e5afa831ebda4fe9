#include "kernels/cuda/decode_split.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kPlanThreads = 1024;

__global__ void plan_kernel(const PagedRows* entries, int count, int32_t* first_tile) {
  begin_kernel();
  __shared__ int upto_warp[32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int before = 0;
  for (int first = 0; first < count; first += kPlanThreads) {
    const int e = first + static_cast<int>(threadIdx.x);
    int upto = 0;
    if (e < count && entries[e].tokens > 0)
      upto = static_cast<int>(ceil_div<int64_t>(entries[e].begin + entries[e].tokens, kDecodeTile));
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0U, upto, step);
      if (lane >= step) upto += other;
    }
    if (lane == 31) upto_warp[warp] = upto;
    __syncthreads();
    int all = 0;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) upto += upto_warp[w];
      all += upto_warp[w];
    }
    if (e < count) first_tile[e + 1] = before + upto;
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) first_tile[0] = 0;
}

// A block a query head of an entry. Its threads are `teams` of v_dim / 4, which take the parts in turn.
constexpr int kPartsMax = 512, kTeamsMax = 8;
__global__ void merge_kernel(Split split, int q_heads, const int* kv_head_of, int v_dim, int teams, bf16* out) {
  begin_kernel();
  __shared__ float factors[kPartsMax];
  __shared__ float4 team_sums[kTeamsMax * 128];
  const int entry = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x), columns = v_dim / 4, team = thread / columns;
  const int kv_head = kv_head_of == nullptr ? 0 : kv_head_of[head];
  const int tiles = split.first_tile[entry + 1] - split.first_tile[entry];
  if (tiles == 0) return;
  const int64_t begin = static_cast<int64_t>(split.first_tile[entry]) * split.kv_heads + int64_t{kv_head} * tiles;
  const int unit = entry * split.kv_heads + kv_head;
  const int first = split.part_of(begin), parts = split.part_of(begin + tiles - 1) - first + 1;
  // Of the kv head's query heads.
  const int within = kv_head_of == nullptr ? head : head - heads_of(kv_head_of, q_heads, kv_head, 0).first;
  const int group = within / kGroupHeads, row = within % kGroupHeads;

  // Every warp finds the largest score and the sum for itself.
  float largest = -INFINITY;
  for (int i = thread % 32; i < parts; i += 32)
    largest = fmaxf(largest, split.state[split.slot(first + i, unit, group) * 2 * kGroupHeads + row]);
  largest = warp_max(largest);
  float total = 0;
  for (int i = thread % 32; i < parts; i += 32) {
    const float* state = split.state + split.slot(first + i, unit, group) * 2 * kGroupHeads + row;
    const float factor = exp2f(state[0] - largest);
    total += factor * state[kGroupHeads];
    if (thread < 32) factors[i] = factor;
  }
  total = warp_sum(total);
  __syncthreads();
  float4 sum{0, 0, 0, 0};
  const float* from = split.sums + (split.slot(first, unit, group) * kGroupHeads + row) * v_dim + thread % columns * 4;
  const int64_t step = static_cast<int64_t>(split.groups) * kGroupHeads * v_dim;
#pragma unroll 4
  for (int i = team; i < parts; i += teams) {
    const float4 v = *reinterpret_cast<const float4*>(from + i * step);
    sum.x += factors[i] * v.x;
    sum.y += factors[i] * v.y;
    sum.z += factors[i] * v.z;
    sum.w += factors[i] * v.w;
  }
  if (teams > 1) {
    team_sums[thread] = sum;
    __syncthreads();
    if (team != 0) return;
    for (int i = 1; i < teams; ++i) {
      const float4 v = team_sums[i * columns + thread];
      sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
    }
  }
  const float scale = 1 / total;
  uint2 packed{pack_bf16(sum.x * scale, sum.y * scale), pack_bf16(sum.z * scale, sum.w * scale)};
  *reinterpret_cast<uint2*>(out + (split.entries[entry].row * q_heads + head) * v_dim + thread % columns * 4) = packed;
}

int groups_of(int group_max) { return ceil_div(group_max, kGroupHeads); }

}  // namespace

void plan_decode(cudaStream_t stream, CardSequences sequences, int32_t* first_tile) {
  launch_kernel(stream, plan_kernel, 1, kPlanThreads, 0, sequences.rows, sequences.count, first_tile);
}

// Two parts a multiprocessor at most, see the kernels.
size_t decode_scratch_bytes(int entries, int kv_heads, int group_max, int v_dim) {
  const size_t slots = (size_t{2} * multiprocessors() + static_cast<size_t>(entries) * kv_heads) * groups_of(group_max);
  return slots * kGroupHeads * (v_dim + 2) * sizeof(float);
}

Split make_split(const CardSequences& sequences, const DecodePlan& plan, int kv_heads, int group_max, int v_dim,
                 int parts, void* scratch) {
  const int groups = groups_of(group_max);
  const size_t slots = (static_cast<size_t>(parts) + static_cast<size_t>(sequences.count) * kv_heads) * groups;
  auto* sums = static_cast<float*>(scratch);
  return {sequences.rows,
          plan.first_tile,
          sequences.count,
          kv_heads,
          parts,
          groups,
          sums,
          sums + slots * kGroupHeads * v_dim};
}

void merge_parts(cudaStream_t stream, const Split& split, int q_heads, const int* kv_head_of, int v_dim, bf16* out) {
  BATON_CHECK(split.parts <= kPartsMax && v_dim % 4 == 0 && v_dim <= 512);
  // About as many as a unit has parts, and whole warps.
  int teams = 1;
  while (teams < kTeamsMax && teams * v_dim / 4 < 512 &&
         (teams * v_dim / 4 % 32 != 0 || teams * 4 * split.count * split.kv_heads < split.parts))
    teams *= 2;
  launch_kernel(stream, merge_kernel, dim3(static_cast<unsigned>(split.count), static_cast<unsigned>(q_heads)),
                static_cast<unsigned>(v_dim / 4 * teams), 0, split, q_heads, kv_head_of, v_dim, teams, out);
}

}  // namespace baton::kernels::cuda
