// Causal attention of many new tokens on Hopper's tensor cores. A block has 128 rows of one query head, 64 a warpgroup,
// and walks over the keys 128 at a time, which a third warpgroup copies. The scores of the next keys are multiplied
// while the last probabilities meet their values, and the softmax of the former overlaps the latter (FlashAttention-3,
// section 3.2). GQA reads pages, MLA the keys and values that were made of its latents; the last part of its keys, the
// rope part, is the latents' own.
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/sm90_pipeline.cuh"
#include "kernels/cuda/sm90_wgmma.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kMultiplying = 256, kCopying = 128, kRows = 128, kKeys = 128, kStages = 2;
// Keys and values lie in shared memory as tiles of 64 columns.
constexpr int kTileBytes = kKeys * 128;

// Where a token's key is in two parts, of which the first has kKeyFirst values, and its value.
template <class Kv>
struct TokenRow {
  const Kv *key, *rest, *value;
};
template <class Kv>
struct PagedTokens {
  PagedKv kv;
  const int* kv_head_of;

  __device__ TokenRow<Kv> row(const PagedRows& s, int, int head, int token) const {
    const std::byte* k = page_k_row(kv, kv.pages + s.first_page, token, kv_head_of[head], sizeof(Kv));
    // v_dim is k_dim, so V is as far beyond K for every token.
    return {reinterpret_cast<const Kv*>(k), nullptr, reinterpret_cast<const Kv*>(k + kv.v_offset)};
  }
};
struct ExpandedTokens {
  ExpandedKv<bf16> kv;

  __device__ TokenRow<bf16> row(const PagedRows&, int sequence, int head, int token) const {
    const int64_t at = int64_t{kv.context_first[sequence]} + token;
    return {kv.keys + (at * kv.heads + head) * kv.nope, kv.latents + at * (kv.lora + kv.rope) + kv.lora,
            kv.values + (at * kv.heads + head) * kv.v_dim};
  }
};

template <int kKeyDim, int kValueDim>
struct PrefillLayout {
  static constexpr int kKeyTiles = kKeyDim / 64, kValueTiles = kValueDim / 64;
  static constexpr int kQueryBytes = kKeyTiles * kTileBytes, kKeyBytes = kKeyTiles * kTileBytes;
  static constexpr int kValueBytes = kValueTiles * kTileBytes;
  static constexpr int kKeyStages = kQueryBytes, kValueStages = kKeyStages + kStages * kKeyBytes;
  // Of the stages of keys full, empty, of values full, empty.
  static constexpr int kBarriers = kValueStages + kStages * kValueBytes,
                       kSharedBytes = kBarriers + 4 * kStages * 8 + 1024;
};

// What a block works on: rows [first_row, first_row + kRows) of a sequence's new tokens, which see `context` keys.
struct PrefillTile {
  PagedRows s;
  int sequence, head, first_row, context, blocks;
};

// Eight values of a tile's row. fp8 becomes bf16.
template <class Kv>
__device__ void copy_chunk(uint32_t to, const Kv* from) {
  if constexpr (std::is_same_v<Kv, fp8>) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    store_converted(to, v.x, v.y);
  } else {
    copy_async(to, from);
  }
}
template <class Kv>
__device__ void arrive_full(uint32_t barrier) {
  if constexpr (std::is_same_v<Kv, fp8>) {
    fence_for_wgmma();
    barrier_arrive(barrier);
  } else {
    barrier_arrive_after_copies(barrier);
  }
}

// The copying warpgroup. Eight threads copy a row's tile of 64 columns, 16 bytes each; rows beyond the context are its
// last one again, and masked. kKeyFirst: values of a key in its first part; kKeyDim or less.
template <int kKeyDim, int kKeyFirst, int kValueDim, class Source>
__device__ void copy_context(const Source& source, const PrefillTile& tile, uint32_t shared) {
  using L = PrefillLayout<kKeyDim, kValueDim>;
  const int thread = static_cast<int>(threadIdx.x) - kMultiplying, chunk = thread % 8, row16 = thread / 8;
  const uint32_t barriers = shared + L::kBarriers;
  for (int block = 0; block < tile.blocks; ++block) {
    const int stage = block % kStages;
    const uint32_t parity = (block / kStages + 1) % 2;
    decltype(source.row(tile.s, 0, 0, 0)) from[kKeys / 16];
    using Kv = std::remove_const_t<std::remove_pointer_t<decltype(from[0].key)>>;
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i)
      from[i] = source.row(tile.s, tile.sequence, tile.head, min(block * kKeys + i * 16 + row16, tile.context - 1));
    barrier_wait(barriers + (kStages + stage) * 8, parity);
    uint32_t to = shared + L::kKeyStages + stage * L::kKeyBytes + swizzled(row16, chunk);
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) {
#pragma unroll
      for (int t = 0; t < L::kKeyTiles; ++t) {
        const Kv* part = t * 64 < kKeyFirst ? from[i].key + t * 64 : from[i].rest + t * 64 - kKeyFirst;
        copy_chunk(to + t * kTileBytes + i * 16 * 128, part + chunk * 8);
      }
    }
    arrive_full<Kv>(barriers + stage * 8);
    barrier_wait(barriers + (3 * kStages + stage) * 8, parity);
    to = shared + L::kValueStages + stage * L::kValueBytes + swizzled(row16, chunk);
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) {
#pragma unroll
      for (int t = 0; t < L::kValueTiles; ++t)
        copy_chunk(to + t * kTileBytes + i * 16 * 128, from[i].value + t * 64 + chunk * 8);
    }
    arrive_full<Kv>(barriers + (2 * kStages + stage) * 8);
  }
}

template <int kKeyDim, int kKeyFirst, int kValueDim, class Source>
__global__ void __launch_bounds__(kMultiplying + kCopying, 1)
    prefill_kernel(const bf16* q, int64_t q_row_stride, const PagedRows* sequences, Source source, float scale_log2,
                   bf16* out) {
  begin_kernel();
  using L = PrefillLayout<kKeyDim, kValueDim>;
  extern __shared__ uint8_t raw[];
  PrefillTile tile{};
  tile.sequence = static_cast<int>(blockIdx.z);
  tile.head = static_cast<int>(blockIdx.x);
  tile.s = sequences[tile.sequence];
  // The last rows see the most keys: they begin first.
  tile.first_row = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kRows;
  if (tile.first_row >= tile.s.tokens) return;
  const int rows = static_cast<int>(tile.s.tokens), begin = static_cast<int>(tile.s.begin), first_row = tile.first_row;
  tile.context = begin + min(first_row + kRows, rows);
  const int blocks = tile.blocks = ceil_div(tile.context, kKeys);
  const uint32_t shared = (shared_address(raw) + 1023) & ~1023U, barriers = shared + L::kBarriers;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      for (int part = 0; part < 2; ++part) {
        barrier_init(barriers + (2 * part * kStages + i) * 8, kCopying);
        barrier_init(barriers + ((2 * part + 1) * kStages + i) * 8, kMultiplying / 32);
      }
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  // Registers go from those who copy to those who multiply.
  if (threadIdx.x >= kMultiplying) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
    copy_context<kKeyDim, kKeyFirst, kValueDim>(source, tile, shared);
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
  const int group = static_cast<int>(threadIdx.x) / 128;
  const uint32_t query = shared + group * 64 * 128;
#pragma unroll
  for (int i = 0; i < 64 / 16; ++i) {
    const int row = i * 16 + thread / 8;
    const bf16* from = q + (tile.s.row + min(first_row + group * 64 + row, rows - 1)) * q_row_stride +
                       static_cast<int64_t>(tile.head) * kKeyDim + thread % 8 * 8;
#pragma unroll
    for (int t = 0; t < L::kKeyTiles; ++t)
      copy_async(query + t * kTileBytes + swizzled(row, thread % 8), from + t * 64);
  }
  commit_copies();
  wait_copies<0>();
  fence_for_wgmma();
  group_barrier(group);

  float score[kKeys / 2], answer[kValueDim / 2];
  uint32_t probability[kKeys / 16][4];
#pragma unroll
  for (float& v : answer) v = 0;
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, factor[2];
  const int my_row = first_row + group * 64 + thread / 32 * 16 + lane / 4;  // and + 8

  const auto multiply_scores = [&](int block) {
    barrier_wait(barriers + block % kStages * 8, block / kStages % 2);
    fence_for_wgmma();
    wgmma_fence();
#pragma unroll
    for (int t = 0; t < L::kKeyTiles; ++t) {
      const uint64_t left = tile_descriptor(query + t * kTileBytes);
      const uint64_t right = tile_descriptor(shared + L::kKeyStages + block % kStages * L::kKeyBytes + t * kTileBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) wgmma(score, left + i * 2, right + i * 2, t + i > 0);
    }
    wgmma_commit();
  };
  // Scores become probabilities, and factor what the answer so far has to be multiplied by.
  const auto softmax = [&](int block) {
    const int first_key = block * kKeys + lane % 4 * 2;
    if ((block + 1) * kKeys - 1 > begin + first_row + group * 64) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i)
        if (first_key + i / 4 * 8 + i % 2 > begin + my_row + i / 2 % 2 * 8) score[i] = -INFINITY;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = largest[half];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
        most = fmaxf(most, fmaxf(score[j * 4 + half * 2], score[j * 4 + half * 2 + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0U, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
      factor[half] = exp2_fast((largest[half] - most) * scale_log2);
      const float offset = most * scale_log2;
      largest[half] = most;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int i = j * 4 + half * 2; i < j * 4 + half * 2 + 2; ++i) {
          score[i] = exp2_fast(score[i] * scale_log2 - offset);
          sum += score[i];
        }
      }
      total[half] = total[half] * factor[half] + sum;
    }
  };
  const auto round_probabilities = [&] {
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) probability[i][j] = pack_bf16(score[i * 8 + j * 2], score[i * 8 + j * 2 + 1]);
    }
  };

  const auto multiply_values = [&](int block) {
    barrier_wait(barriers + (2 * kStages + block % kStages) * 8, block / kStages % 2);
    fence_for_wgmma();
    const uint64_t right = rows_descriptor(shared + L::kValueStages + block % kStages * L::kValueBytes, kTileBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) wgmma_rows(answer, probability[i], right + i * 128);
    wgmma_commit();
  };
  // The stages of keys and of values that are read no more.
  const auto give_back_keys = [&](int block) {
    if (lane == 0) barrier_arrive(barriers + (kStages + block % kStages) * 8);
  };
  const auto give_back_values = [&](int block) {
    if (lane == 0) barrier_arrive(barriers + (3 * kStages + block % kStages) * 8);
  };
  multiply_scores(0);
  wgmma_wait<0>();
  wgmma_done(score);
  give_back_keys(0);
  softmax(0);
  round_probabilities();
  for (int block = 0; block + 1 < blocks; ++block) {
    multiply_scores(block + 1);
    multiply_values(block);
    wgmma_wait<1>();
    wgmma_done(score);
    give_back_keys(block + 1);
    softmax(block + 1);
    wgmma_wait<0>();
    wgmma_done(answer);
    give_back_values(block);
    round_probabilities();
#pragma unroll
    for (int i = 0; i < kValueDim / 2; ++i) answer[i] *= factor[i / 2 % 2];
  }
  multiply_values(blocks - 1);
  wgmma_wait<0>();
  wgmma_done(answer);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = warp_sum<4>(total[half]);
    const int row = my_row + half * 8;
    if (row >= rows) continue;
    bf16* to = out + ((tile.s.row + row) * static_cast<int64_t>(gridDim.x) + tile.head) * kValueDim + lane % 4 * 2;
    const float scale = 1 / sum;
#pragma unroll
    for (int j = 0; j < kValueDim / 8; ++j)
      *reinterpret_cast<uint32_t*>(to + j * 8) =
          pack_bf16(answer[j * 4 + half * 2] * scale, answer[j * 4 + half * 2 + 1] * scale);
  }
}

template <int kKeyDim, int kKeyFirst, int kValueDim, class Source>
void launch(cudaStream_t stream, const bf16* q, int64_t q_row_stride, const CardSequences& sequences, int q_heads,
            const Source& source, float scale, bf16* out) {
  if (sequences.count == 0 || sequences.tokens_max == 0) return;
  const auto kernel = prefill_kernel<kKeyDim, kKeyFirst, kValueDim, Source>;
  constexpr int kSharedBytes = PrefillLayout<kKeyDim, kValueDim>::kSharedBytes;
  // A thread has one card.
  thread_local const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  check_cuda(allowed);
  const dim3 grid(static_cast<unsigned>(q_heads), static_cast<unsigned>(ceil_div<int64_t>(sequences.tokens_max, kRows)),
                  static_cast<unsigned>(sequences.count));
  launch_kernel(stream, kernel, grid, kMultiplying + kCopying, kSharedBytes, q, q_row_stride, sequences.rows, source,
                scale * 1.44269504F, out);
}

}  // namespace

template <class T>
void gqa_prefill(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences,
                 const QueryHeads& heads, const PagedKv& kv, float scale, T* out) {
  if constexpr (std::is_same_v<T, bf16>) {
    const bool wide = kv.k_dim == 128 && kv.v_dim == 128, narrow = kv.k_dim == 64 && kv.v_dim == 64;
    const auto by_tensor_cores = [&]<class Kv>() {
      const auto run = wide ? launch<128, 128, 128, PagedTokens<Kv>> : launch<64, 64, 64, PagedTokens<Kv>>;
      run(stream, q, q_row_stride, sequences, heads.count, {kv, heads.kv_head_of}, scale, out);
    };
    if ((wide || narrow) && kv.dtype == tensor::DType::kBF16) return by_tensor_cores.template operator()<bf16>();
    if ((wide || narrow) && kv.dtype == tensor::DType::kF8E4M3) return by_tensor_cores.template operator()<fp8>();
  }
  plain_attention<T>(stream, q, q_row_stride, sequences, heads.count, heads.kv_head_of, kv, kv.v_dim, scale, out);
}

template <class T>
void mla_prefill(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences,
                 const ExpandedKv<T>& kv, float scale, T* out) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (kv.nope == 128 && kv.rope == 64 && kv.v_dim == 128 && packable<T>(q, q_row_stride))
      return launch<192, 128, 128>(stream, q, q_row_stride, sequences, kv.heads, ExpandedTokens{kv}, scale, out);
  }
  plain_expanded_attention<T>(stream, q, q_row_stride, sequences, kv, scale, out);
}

#define BATON_INSTANTIATE(T)                                                                                      \
  template void gqa_prefill<T>(cudaStream_t, const T*, int64_t, CardSequences, const QueryHeads&, const PagedKv&, \
                               float, T*);                                                                        \
  template void mla_prefill<T>(cudaStream_t, const T*, int64_t, CardSequences, const ExpandedKv<T>&, float, T*);
BATON_INSTANTIATE(float)
BATON_INSTANTIATE(bf16)
#undef BATON_INSTANTIATE

}  // namespace baton::kernels::cuda
