// MLA in decode, absorbed, on Hopper's tensor cores: every query head reads the one latent, 576 values a token of which
// the first 512 are V too.
//
// Products are turned over, so that heads, of which there may be few, are the columns and nothing is padded: scores are
// tokens by heads, the answer is 512 by heads. A block streams its part of the KV through shared memory once, 64 tokens
// at a time, copied by warps of their own. Its two warpgroups have half of the heads each and never wait for each
// other: one's softmax overlaps the other's products.
//
// fp8 KV becomes bf16 on its way, in the registers of the copying warps. Half of the bytes leave shared memory as the
// limit, from which both warpgroups would read every tile; so with up to 16 heads each of them has all heads, and a
// part of the KV, one stage and four copying warps to itself.
#include <algorithm>

#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/decode_split.cuh"
#include "kernels/cuda/sm90_pipeline.cuh"
#include "kernels/cuda/sm90_wgmma.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kLatent = 512, kDim = 576, kTokens = kDecodeTile, kStages = 2;
// Tokens, queries and probabilities lie in shared memory as tiles of 64 columns, see swizzled().
constexpr int kTiles = kDim / 64, kValueTiles = kLatent / 64, kTileBytes = kTokens * 128;
constexpr int kStageBytes = kTiles * kTileBytes;

// kHeads: of a warpgroup.
template <int kHeads, class Kv>
struct MlaLayout {
  static constexpr bool kConverts = std::is_same_v<Kv, fp8>, kOwnParts = kConverts && kHeads == 16;
  static constexpr int kCopyWarps = 4;  // that fill a stage
  static constexpr int kThreads = 256 + (kOwnParts ? 2 : 1) * kCopyWarps * 32;
  static constexpr int kCopyRegisters = kOwnParts ? 88 : kConverts ? 72 : 56;
  static constexpr int kMultiplyRegisters = kOwnParts ? 168 : kConverts ? 216 : 224;
  static constexpr int kQueryTile = 2 * kHeads * 128;  // both warpgroups' heads
  static constexpr int kQueries = kStages * kStageBytes, kProbabilities = kQueries + kTiles * kQueryTile;
  static constexpr int kLargest = kProbabilities + kQueryTile;     // (2 warpgroups, 4 warps, kHeads) floats
  static constexpr int kBarriers = kLargest + 2 * 4 * kHeads * 4;  // full and empty of each stage
  static constexpr int kSharedBytes = kBarriers + 2 * kStages * 8 + 1024;
};

// The copying warps. A lane copies the chunk lane % 8 of every tile of the rows warp * 4 + lane / 8, and those 4 *
// kCopyWarps further on; which rows these are in the pool is looked up by the lanes together.
template <class L>
__device__ void copy_tokens(const PagedKv& kv, const Split& split, int part, uint32_t shared) {
  constexpr int kRowsEach = kTokens / 4 / L::kCopyWarps, kLookups = kRowsEach * 4 > 32 ? kRowsEach * 4 / 32 : 1;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = (static_cast<int>(threadIdx.x) - 256) / 32;
  const uint32_t full = shared + L::kBarriers, empty = full + kStages * 8;
  uint32_t step = 0;
  const int64_t end = split.begin(part + 1);
  for (int64_t at = split.begin(part); at < end;) {
    const Share share = share_at(split, at, end);
    at += share.tiles;
    const PagedRows rows = split.entries[share.entry];
    const uint32_t* pages = kv.pages + rows.first_page;
    const int context = static_cast<int>(rows.begin + rows.tokens);
    for (int tile = 0; tile < share.tiles; ++tile, ++step) {
      const std::byte* found[kLookups];
#pragma unroll
      for (int i = 0; i < kLookups; ++i) {
        const int row = warp * 4 + lane % 4 + 4 * L::kCopyWarps * (lane / 4 + i * 8);
        // Rows beyond the context are its last one again, and masked.
        const int token = min((share.tile_begin + tile) * kTokens + row % kTokens, context - 1);
        found[i] = page_k_row(kv, pages, token, 0, sizeof(bf16));
      }
      const uint32_t stage = step % kStages;
      barrier_wait(empty + stage * 8, (step / kStages + 1) % 2);
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i) {
        const int row = warp * 4 + lane / 8 + 4 * L::kCopyWarps * i;
        const auto base = __shfl_sync(~0U, reinterpret_cast<uint64_t>(found[i / 8]), i % 8 * 4 + lane / 8);
        const std::byte* from = reinterpret_cast<const std::byte*>(base) + lane % 8 * 16;
        const uint32_t to = shared + stage * kStageBytes + swizzled(row, lane % 8);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) copy_async(to + t * kTileBytes, from + t * 128);
      }
      barrier_arrive_after_copies(full + stage * 8);
    }
  }
}

// The tiles of a part, one after another.
struct TileWalk {
  const Split& split;
  int64_t at, end;
  Share share{};
  PagedRows rows{};
  int tile = 0;

  __device__ TileWalk(const Split& s, int part) : split(s), at(s.begin(part)), end(s.begin(part + 1)) {}
  __device__ bool next() {
    if (++tile < share.tiles) return true;
    if (at >= end) return false;
    share = share_at(split, at, end);
    at += share.tiles;
    rows = split.entries[share.entry];
    tile = 0;
    return true;
  }
};

// The same of fp8, by four warps, into stages from `first_stage` on. A lane has 16 values of every tile of the rows
// warp * 16 + lane / 4 and 8 further on. It holds the next row, whose loads so are under way while this one is
// converted and while the stage is not empty.
template <class L>
__device__ void copy_converted(const PagedKv& kv, const Split& split, int part, uint32_t shared, int first_stage,
                               int stages, int warp) {
  const int lane = static_cast<int>(threadIdx.x % 32), chunk = lane % 4;
  const uint32_t full = shared + L::kBarriers, empty = full + kStages * 8;
  TileWalk walk(split, part);
  // Lanes look up the row lane % 16 of their warp's.
  const auto find = [&] {
    const int context = static_cast<int>(walk.rows.begin + walk.rows.tokens);
    const int token = min((walk.share.tile_begin + walk.tile) * kTokens + warp * 16 + lane % 16, context - 1);
    return reinterpret_cast<uint64_t>(page_k_row(kv, kv.pages + walk.rows.first_page, token, 0, 1));
  };
  const auto row_of = [&](uint64_t found, int i) {
    return reinterpret_cast<const uint4*>(__shfl_sync(~0U, found, lane / 4 + i * 8)) + chunk;
  };
  if (!walk.next()) return;
  uint64_t found = find();
  uint4 held[kTiles];
  {
    const uint4* from = row_of(found, 0);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) held[t] = __ldcs(from + t * 4);
  }
  bool more = true;
  for (uint32_t step = 0; more; ++step) {
    uint64_t next = found;
    more = walk.next();
    if (more) next = find();
    const uint32_t stage = first_stage + step % stages;
    const uint32_t tokens = shared + stage * kStageBytes;
    barrier_wait(empty + stage * 8, (step / stages + 1) % 2);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = warp * 16 + lane / 4 + i * 8;
      const uint4* from = i == 0 ? row_of(found, 1) : row_of(next, 0);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint4 v = held[t];
        if (i == 0 || more) held[t] = __ldcs(from + t * 4);
        const uint32_t to = tokens + t * kTileBytes;
        store_converted(to + swizzled(row, chunk * 2), v.x, v.y);
        store_converted(to + swizzled(row, chunk * 2 + 1), v.z, v.w);
      }
    }
    fence_for_wgmma();
    barrier_arrive(full + stage * 8);
    found = next;
  }
}

template <int kHeads, class Kv>
__global__ void __launch_bounds__(MlaLayout<kHeads, Kv>::kThreads, 1)
    mla_decode_kernel(const bf16* q, PagedKv kv, Split split, int heads, int head_blocks, float scale_log2) {
  begin_kernel();
  using L = MlaLayout<kHeads, Kv>;
  extern __shared__ uint8_t raw[];
  const uint32_t shared = (shared_address(raw) + 1023) & ~1023U;
  const uint32_t full = shared + L::kBarriers, empty = full + kStages * 8;
  const int head_block = static_cast<int>(blockIdx.x) % head_blocks;
  const int group = L::kOwnParts && threadIdx.x >= 256 ? static_cast<int>(threadIdx.x) / 128 - 2
                                                       : static_cast<int>(threadIdx.x) / 128;
  int part = static_cast<int>(blockIdx.x) / head_blocks;
  if (L::kOwnParts) part += group * static_cast<int>(gridDim.x) / head_blocks;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + s * 8, L::kCopyWarps * 32);
      barrier_init(empty + s * 8, L::kOwnParts ? 4 : 8);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  // Registers go from those who copy to those who multiply.
  if (threadIdx.x >= 256) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(L::kCopyRegisters));
    if constexpr (L::kConverts) {
      const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
      copy_converted<L>(kv, split, part, shared, L::kOwnParts ? group : 0, L::kOwnParts ? 1 : kStages, warp);
    } else {
      copy_tokens<L>(kv, split, part, shared);
    }
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(L::kMultiplyRegisters));
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int lane = thread % 32, warp = thread / 32;
  const int first_head = L::kOwnParts ? head_block * kHeads : head_block * 2 * kHeads + group * kHeads;
  const uint32_t queries = shared + L::kQueries + group * kHeads * 128;
  const uint32_t probabilities = shared + L::kProbabilities + group * kHeads * 128;
  auto* exchange = reinterpret_cast<float*>(raw + (shared - shared_address(raw)) + L::kLargest) + group * 4 * kHeads;
  constexpr int kColumns = kHeads / 4;  // heads that a thread has: 8j + lane % 4 * 2 + {0, 1}
  uint32_t step = 0;
  const int64_t end = split.begin(part + 1);
  for (int64_t at = split.begin(part); at < end;) {
    const Share share = share_at(split, at, end);
    at += share.tiles;
    const PagedRows rows = split.entries[share.entry];
    const int context = static_cast<int>(rows.begin + rows.tokens);
    group_barrier(group);  // no warp still multiplies the last unit's queries
    for (int i = thread; i < kHeads * (kDim / 8); i += 128) {
      const int row = i / (kDim / 8), chunk = i % (kDim / 8);
      uint4 v{0, 0, 0, 0};
      if (first_head + row < heads)
        v = *reinterpret_cast<const uint4*>(q + (rows.row * heads + first_head + row) * kDim + chunk * 8);
      const uint32_t to = queries + chunk / 8 * L::kQueryTile + swizzled(row, chunk % 8);
      asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                   : "memory");
    }
    fence_for_wgmma();
    group_barrier(group);

    float answer[kValueTiles][kHeads / 2];
#pragma unroll
    for (int i = 0; i < kValueTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kHeads / 2; ++j) answer[i][j] = 0;
    }
    float largest[kColumns], total[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      largest[i] = -INFINITY;
      total[i] = 0;
    }
    for (int tile = 0; tile < share.tiles; ++tile, ++step) {
      const uint32_t stage = L::kOwnParts ? group : step % kStages, tokens = shared + stage * kStageBytes;
      barrier_wait(full + stage * 8, (L::kOwnParts ? step : step / kStages) % 2);
      fence_for_wgmma();
      float score[kHeads / 2];
      wgmma_fence();
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint64_t left = tile_descriptor(tokens + t * kTileBytes);
        const uint64_t right = tile_descriptor(queries + t * L::kQueryTile);
#pragma unroll
        for (int i = 0; i < 4; ++i) wgmma_few<false>(score, left + i * 2, right + i * 2, t + i > 0);
      }
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_done(score);

      // score[4j + 2h + c] is of token 16 * warp + lane / 4 + 8h and head 8j + lane % 4 * 2 + c.
      const int left = context - (share.tile_begin + tile) * kTokens - warp * 16 - lane / 4;
      float most[kColumns];
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        float& low = score[i / 2 * 4 + i % 2];
        float& high = score[i / 2 * 4 + 2 + i % 2];
        low = left > 0 ? low * scale_log2 : -INFINITY;
        high = left > 8 ? high * scale_log2 : -INFINITY;
        most[i] = fmaxf(low, high);
#pragma unroll
        for (int other = 4; other < 32; other *= 2) most[i] = fmaxf(most[i], __shfl_xor_sync(~0U, most[i], other));
        if (lane < 4) exchange[warp * kHeads + i / 2 * 8 + lane * 2 + i % 2] = most[i];
      }
      group_barrier(group);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        most[i] = largest[i];
#pragma unroll
        for (int w = 0; w < 4; ++w) most[i] = fmaxf(most[i], exchange[w * kHeads + i / 2 * 8 + lane % 4 * 2 + i % 2]);
        const float factor = exp2_fast(largest[i] - most[i]);
        largest[i] = most[i];
        float& low = score[i / 2 * 4 + i % 2];
        float& high = score[i / 2 * 4 + 2 + i % 2];
        low = exp2_fast(low - most[i]);
        high = exp2_fast(high - most[i]);
        total[i] = total[i] * factor + low + high;
#pragma unroll
        for (int t = 0; t < kValueTiles; ++t) {
          answer[t][i / 2 * 4 + i % 2] *= factor;
          answer[t][i / 2 * 4 + 2 + i % 2] *= factor;
        }
      }
      // Transposed: a row of 64 tokens for each head.
#pragma unroll
      for (int j = 0; j < kHeads / 8; ++j) {
        const uint32_t to = probabilities + swizzled(j * 8 + lane % 8, warp * 2 + lane / 8 % 2);
        asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(to),
                     "r"(pack_bf16(score[j * 4], score[j * 4 + 1])), "r"(pack_bf16(score[j * 4 + 2], score[j * 4 + 3]))
                     : "memory");
      }
      fence_for_wgmma();
      group_barrier(group);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kTokens / 16; ++i) {
        const uint64_t right = tile_descriptor(probabilities) + i * 2;
#pragma unroll
        for (int t = 0; t < kValueTiles; ++t)
          wgmma_few<true>(answer[t], rows_descriptor(tokens + t * kTileBytes, kTileBytes) + i * 128, right, true);
      }
      wgmma_commit();
      wgmma_wait<0>();
#pragma unroll
      for (int t = 0; t < kValueTiles; ++t) wgmma_done(answer[t]);
      if (lane == 0) barrier_arrive(empty + stage * 8);
    }

#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int other = 4; other < 32; other *= 2) total[i] += __shfl_xor_sync(~0U, total[i], other);
      if (lane < 4) exchange[warp * kHeads + i / 2 * 8 + lane * 2 + i % 2] = total[i];
    }
    group_barrier(group);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int within = i / 2 * 8 + lane % 4 * 2 + i % 2, head = first_head + within;
      if (head >= heads) continue;
      const int64_t slot = split.slot(part, share.entry, head / kGroupHeads);
      if (warp == 0 && lane < 4) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < 4; ++w) sum += exchange[w * kHeads + within];
        split.state[slot * 2 * kGroupHeads + head % kGroupHeads] = largest[i];
        split.state[(slot * 2 + 1) * kGroupHeads + head % kGroupHeads] = sum;
      }
      float* to = split.sums + (slot * kGroupHeads + head % kGroupHeads) * kLatent + warp * 16 + lane / 4;
#pragma unroll
      for (int t = 0; t < kValueTiles; ++t) {
        to[t * 64] = answer[t][i / 2 * 4 + i % 2];
        to[t * 64 + 8] = answer[t][i / 2 * 4 + 2 + i % 2];
      }
    }
  }
}

template <int kHeads, class Kv>
void launch(cudaStream_t stream, const bf16* q, const CardSequences& sequences, const DecodePlan& plan, int heads,
            const PagedKv& kv, float scale, void* scratch, bf16* out) {
  using L = MlaLayout<kHeads, Kv>;
  // A thread has one card.
  thread_local const cudaError_t allowed =
      cudaFuncSetAttribute(mla_decode_kernel<kHeads, Kv>, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kSharedBytes);
  check_cuda(allowed);
  const int head_blocks = L::kOwnParts ? 1 : ceil_div(heads, 2 * kHeads);
  const int most = std::max(1, multiprocessors() / head_blocks);
  // A lone sequence is cut into fewer parts: merging them is serial.
  const int wanted = sequences.count * 64, at_once = L::kOwnParts ? 2 * most : most;
  const int parts = std::min(at_once, wanted), blocks = std::min(parts, most);
  const Split split = make_split(sequences, plan, 1, heads, kLatent, parts, scratch);
  launch_kernel(stream, mla_decode_kernel<kHeads, Kv>, static_cast<unsigned>(blocks * head_blocks), L::kThreads,
                L::kSharedBytes, q, kv, split, heads, head_blocks, scale * 1.44269504F);
  merge_parts(stream, split, heads, nullptr, kLatent, out);
}

}  // namespace

template <class T>
void mla_decode(cudaStream_t stream, const T* q, CardSequences sequences, DecodePlan plan, int heads, int lora,
                const PagedKv& kv, float scale, void* scratch, T* out) {
  if (sequences.count == 0) return;
  if constexpr (std::is_same_v<T, bf16>) {
    if (lora == kLatent && kv.k_dim == kDim && kv.dtype == tensor::DType::kBF16) {
      if (heads <= 16) return launch<8, bf16>(stream, q, sequences, plan, heads, kv, scale, scratch, out);
      return launch<32, bf16>(stream, q, sequences, plan, heads, kv, scale, scratch, out);
    }
    if (lora == kLatent && kv.k_dim == kDim && kv.dtype == tensor::DType::kF8E4M3) {
      if (heads <= 16) return launch<16, fp8>(stream, q, sequences, plan, heads, kv, scale, scratch, out);
      return launch<32, fp8>(stream, q, sequences, plan, heads, kv, scale, scratch, out);
    }
  }
  plain_attention<T>(stream, q, int64_t{heads} * kv.k_dim, sequences, heads, nullptr, kv, lora, scale, out);
}

template void mla_decode<float>(cudaStream_t, const float*, CardSequences, DecodePlan, int, int, const PagedKv&, float,
                                void*, float*);
template void mla_decode<bf16>(cudaStream_t, const bf16*, CardSequences, DecodePlan, int, int, const PagedKv&, float,
                               void*, bf16*);

}  // namespace baton::kernels::cuda
