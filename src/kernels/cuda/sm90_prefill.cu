// Causal attention of many new tokens on Hopper's tensor cores. A block has 128 rows of one query head, 64 a warpgroup,
// and walks over the keys 128 at a time. The scores of the next keys are multiplied while the last probabilities meet
// their values, and the softmax of the former overlaps the latter (FlashAttention-3, section 3.2). GQA reads pages, MLA
// the keys and values that were made of its latents; the last part of its keys, the rope part, is the latents' own.
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/sm90_wgmma.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kThreads = 256, kRows = 128, kKeys = 128;
// Keys and values lie in shared memory as tiles of 64 columns.
constexpr int kTileBytes = kKeys * 128;

// Where a token's key is in two parts, of which the first has kKeyFirst values, and its value.
struct TokenRow {
  const bf16 *key, *rest, *value;
};
struct PagedTokens {
  PagedKv kv;
  const int* kv_head_of;

  __device__ TokenRow row(const PagedRows& s, int, int head, int token) const {
    const std::byte* k = page_k_row(kv, kv.pages + s.first_page, token, kv_head_of[head], sizeof(bf16));
    // v_dim is k_dim, so V is as far beyond K for every token.
    return {reinterpret_cast<const bf16*>(k), nullptr, reinterpret_cast<const bf16*>(k + kv.v_offset)};
  }
};
struct ExpandedTokens {
  ExpandedKv<bf16> kv;

  __device__ TokenRow row(const PagedRows&, int sequence, int head, int token) const {
    const int64_t at = int64_t{kv.context_first[sequence]} + token;
    return {kv.keys + (at * kv.heads + head) * kv.nope, kv.latents + at * (kv.lora + kv.rope) + kv.lora,
            kv.values + (at * kv.heads + head) * kv.v_dim};
  }
};

template <int kKeyDim, int kValueDim>
struct Layout {
  static constexpr int kKeyTiles = kKeyDim / 64, kValueTiles = kValueDim / 64;
  static constexpr int kQueryBytes = kKeyTiles * kTileBytes, kKeyBytes = kKeyTiles * kTileBytes;
  static constexpr int kValueBytes = kValueTiles * kTileBytes;
  static constexpr int kSharedBytes = kQueryBytes + 2 * kKeyBytes + 2 * kValueBytes + 1024;
};

// kKeyFirst: values of a key in its first part; kKeyDim or less.
template <int kKeyDim, int kKeyFirst, int kValueDim, class Source>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_kernel(const bf16* q, int64_t q_row_stride, const PagedRows* sequences, Source source, float scale_log2,
                   bf16* out) {
  using L = Layout<kKeyDim, kValueDim>;
  extern __shared__ uint8_t raw[];
  const int sequence = static_cast<int>(blockIdx.z), head = static_cast<int>(blockIdx.y);
  const PagedRows s = sequences[sequence];
  // The last rows see the most keys: they begin first.
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  if (first_row >= s.tokens) return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, group = thread / 128;
  const uint32_t query = (shared_address(raw) + 1023) & ~1023U;
  const uint32_t keys = query + L::kQueryBytes, values = keys + 2 * L::kKeyBytes;
  const int rows = static_cast<int>(s.tokens), begin = static_cast<int>(s.begin);
  const int context = begin + min(first_row + kRows, rows);  // keys that some row of the block sees
  const int blocks = ceil_div(context, kKeys);

  // Eight threads copy a row's tile of 64 columns, 16 bytes each; rows beyond the context are its last one again, and
  // masked.
  const int chunk = thread % 8, row8 = thread / 8;
  const auto copy_keys = [&](int block) {
    if (block >= blocks) return;
    const uint32_t to = keys + block % 2 * L::kKeyBytes + swizzled(row8, chunk);
#pragma unroll
    for (int i = 0; i < kKeys / 32; ++i) {
      const TokenRow from = source.row(s, sequence, head, min(block * kKeys + i * 32 + row8, context - 1));
#pragma unroll
      for (int tile = 0; tile < L::kKeyTiles; ++tile) {
        const bf16* part = tile * 64 < kKeyFirst ? from.key + tile * 64 : from.rest + tile * 64 - kKeyFirst;
        copy_async(to + tile * kTileBytes + i * 32 * 128, part + chunk * 8);
      }
    }
  };
  const auto copy_values = [&](int block) {
    if (block >= blocks) return;
    const uint32_t to = values + block % 2 * L::kValueBytes + swizzled(row8, chunk);
#pragma unroll
    for (int i = 0; i < kKeys / 32; ++i) {
      const TokenRow from = source.row(s, sequence, head, min(block * kKeys + i * 32 + row8, context - 1));
#pragma unroll
      for (int tile = 0; tile < L::kValueTiles; ++tile)
        copy_async(to + tile * kTileBytes + i * 32 * 128, from.value + tile * 64 + chunk * 8);
    }
  };
#pragma unroll
  for (int i = 0; i < kRows / 32; ++i) {
    const bf16* from = q + (s.row + min(first_row + i * 32 + row8, rows - 1)) * q_row_stride +
                       static_cast<int64_t>(head) * kKeyDim + chunk * 8;
#pragma unroll
    for (int tile = 0; tile < L::kKeyTiles; ++tile)
      copy_async(query + tile * kTileBytes + swizzled(row8, chunk) + i * 32 * 128, from + tile * 64);
  }
  copy_keys(0);
  commit_copies();
  copy_keys(1);
  copy_values(0);
  commit_copies();

  float score[kKeys / 2], answer[kValueDim / 2];
  uint32_t probability[kKeys / 16][4];
#pragma unroll
  for (float& v : answer) v = 0;
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, factor[2];
  const int my_row = first_row + group * 64 + thread % 128 / 32 * 16 + lane / 4;  // and + 8

  const auto multiply_scores = [&](int block) {
    wgmma_fence();
#pragma unroll
    for (int tile = 0; tile < L::kKeyTiles; ++tile) {
      const uint64_t left = tile_descriptor(query + tile * kTileBytes + group * 64 * 128);
      const uint64_t right = tile_descriptor(keys + block % 2 * L::kKeyBytes + tile * kTileBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) wgmma(score, left + i * 2, right + i * 2, tile + i > 0);
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
      factor[half] = exp2f((largest[half] - most) * scale_log2);
      const float offset = most * scale_log2;
      largest[half] = most;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int i = j * 4 + half * 2; i < j * 4 + half * 2 + 2; ++i) {
          score[i] = exp2f(score[i] * scale_log2 - offset);
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

  wait_copies<1>();
  fence_for_wgmma();
  __syncthreads();
  multiply_scores(0);
  wgmma_wait<0>();
  wgmma_done(score);
  softmax(0);
  round_probabilities();
  // The values of `block` and the keys of the next have come, and all are done with those before them.
  const auto next = [&](int block) {
    wait_copies<0>();
    fence_for_wgmma();
    __syncthreads();
    copy_keys(block + 2);
    copy_values(block + 1);
    commit_copies();
  };
  const auto multiply_values = [&](int block) {
    const uint64_t right = rows_descriptor(values + block % 2 * L::kValueBytes, kTileBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) wgmma_rows(answer, probability[i], right + i * 128);
    wgmma_commit();
  };
  for (int block = 0; block + 1 < blocks; ++block) {
    next(block);
    multiply_scores(block + 1);
    multiply_values(block);
    wgmma_wait<1>();
    wgmma_done(score);
    softmax(block + 1);
    wgmma_wait<0>();
    wgmma_done(answer);
    round_probabilities();
#pragma unroll
    for (int i = 0; i < kValueDim / 2; ++i) answer[i] *= factor[i / 2 % 2];
  }
  next(blocks - 1);
  multiply_values(blocks - 1);
  wgmma_wait<0>();
  wgmma_done(answer);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = warp_sum<4>(total[half]);
    const int row = my_row + half * 8;
    if (row >= rows) continue;
    bf16* to = out + ((s.row + row) * static_cast<int64_t>(gridDim.y) + head) * kValueDim + lane % 4 * 2;
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
  constexpr int kSharedBytes = Layout<kKeyDim, kValueDim>::kSharedBytes;
  static const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  check_cuda(allowed);
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(sequences.tokens_max, kRows)), static_cast<unsigned>(q_heads),
                  static_cast<unsigned>(sequences.count));
  kernel<<<grid, kThreads, kSharedBytes, stream>>>(q, q_row_stride, sequences.rows, source, scale * 1.44269504F, out);
  check_launch();
}

}  // namespace

template <class T>
void gqa_prefill(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences,
                 const QueryHeads& heads, const PagedKv& kv, float scale, T* out) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (kv.dtype == tensor::DType::kBF16 && kv.k_dim == kv.v_dim) {
      const PagedTokens source{kv, heads.kv_head_of};
      if (kv.k_dim == 128)
        return launch<128, 128, 128>(stream, q, q_row_stride, sequences, heads.count, source, scale, out);
      if (kv.k_dim == 64)
        return launch<64, 64, 64>(stream, q, q_row_stride, sequences, heads.count, source, scale, out);
    }
  }
  plain_attention<T>(stream, q, q_row_stride, sequences, heads.count, heads.kv_head_of, kv, kv.v_dim, scale, out);
}

template <class T>
void mla_prefill(cudaStream_t stream, const T* q, CardSequences sequences, const ExpandedKv<T>& kv, float scale,
                 T* out) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (kv.nope == 128 && kv.rope == 64 && kv.v_dim == 128)
      return launch<192, 128, 128>(stream, q, int64_t{kv.heads} * 192, sequences, kv.heads, ExpandedTokens{kv}, scale,
                                   out);
  }
  plain_expanded_attention<T>(stream, q, sequences, kv, scale, out);
}

#define BATON_INSTANTIATE(T)                                                                                      \
  template void gqa_prefill<T>(cudaStream_t, const T*, int64_t, CardSequences, const QueryHeads&, const PagedKv&, \
                               float, T*);                                                                        \
  template void mla_prefill<T>(cudaStream_t, const T*, CardSequences, const ExpandedKv<T>&, float, T*);
BATON_INSTANTIATE(float)
BATON_INSTANTIATE(bf16)
#undef BATON_INSTANTIATE

}  // namespace baton::kernels::cuda
