// How decode attention shares out the KV of a batch over the card, and the merge of what its parts found
// (Flash-Decoding; the order of work is that of FlashMLA's scheduler).
//
// All tiles of a batch stand in one line: entry by entry, of an entry kv head by kv head. Part i of `parts` takes the
// tiles [i, i + 1) * total / parts, which are of one or more units, a unit being an entry's kv head. It leaves for each
// a partial answer in slot part + unit: no two pairs of a part and a unit that meet have one sum. Query heads beyond 16
// of a kv head make further groups, which do the same beside each other.
#pragma once

#include "kernels/cuda/common.cuh"

namespace baton::kernels::cuda {

inline constexpr int kGroupHeads = 16;

struct Split {
  const PagedRows* entries;
  const int32_t* first_tile;  // (count + 1)
  int count, kv_heads, parts, groups;
  float* sums;   // (slots, groups, 16, v_dim): probabilities times V, not divided by their sum
  float* state;  // (slots, groups, 2, 16): the largest score, in units of log 2, and the sum of probabilities

  __device__ int64_t total() const { return static_cast<int64_t>(first_tile[count]) * kv_heads; }
  // With fewer tiles than parts the last parts have none. No part between two that have some has none: a merge may read
  // all of them.
  __device__ int64_t working() const { return total() < parts ? total() : parts; }
  __device__ int64_t begin(int part) const { return part < working() ? total() * part / working() : total(); }
  // The part that has `tile`.
  __device__ int part_of(int64_t tile) const { return static_cast<int>(((tile + 1) * working() - 1) / total()); }
  __device__ int64_t slot(int part, int unit, int group) const {
    return (static_cast<int64_t>(part) + unit) * groups + group;
  }
};

// What a part does next, from `tile` on: tiles [tile_begin, tile_begin + tiles) of one unit.
struct Share {
  int entry, head, tile_begin, tiles;
};
__device__ inline Share share_at(const Split& split, int64_t tile, int64_t end) {
  const auto line = static_cast<int32_t>(tile / split.kv_heads);
  int low = 0, high = split.count;  // first_tile[low] <= line < first_tile[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (split.first_tile[middle] <= line ? low : high) = middle;
  }
  const int tiles = split.first_tile[low + 1] - split.first_tile[low];
  const auto within = static_cast<int>(tile - static_cast<int64_t>(split.first_tile[low]) * split.kv_heads);
  const int begin = within % tiles;
  const int64_t left = end - tile;
  return {low, within / tiles, begin, static_cast<int>(left < tiles - begin ? left : tiles - begin)};
}

// The query heads of a kv head's group: [first, first + count).
struct HeadRange {
  int first, count;
};
// Every lane of a warp calls it and gets the answer.
__device__ inline HeadRange heads_of(const int* kv_head_of, int q_heads, int kv_head, int group) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int before = 0, equal = 0;
  for (int at = 0; at < q_heads; at += 32) {
    const int own = at + lane < q_heads ? kv_head_of[at + lane] : INT32_MAX;
    before += __popc(__ballot_sync(~0U, own < kv_head));
    equal += __popc(__ballot_sync(~0U, own == kv_head));
  }
  const int left = equal - group * kGroupHeads;
  return {before + group * kGroupHeads, left < 0 ? 0 : left < kGroupHeads ? left : kGroupHeads};
}

// Fills in parts, groups and where the scratch has what.
Split make_split(const CardSequences& sequences, const DecodePlan& plan, int kv_heads, int group_max, int v_dim,
                 int parts, void* scratch);
// out (rows, q_heads, v_dim) of the parts' answers. kv_head_of is null when every head reads kv head 0.
void merge_parts(cudaStream_t stream, const Split& split, int q_heads, const int* kv_head_of, int v_dim, bf16* out);

}  // namespace baton::kernels::cuda
