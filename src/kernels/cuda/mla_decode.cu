// MLA in decode, absorbed: every query head reads the one latent, 576 values a token of which the first 512 are V too.
// A block has 16 heads and streams its part of the KV through shared memory once, by bulk copies of a token's row,
// which are the work of a warp of its own. Eight warps share out the scores (four tiles of eight tokens by two halves
// of the 576), and then the 512 columns of the answer; in between each has all scores of the step through shared memory
// and makes the probabilities for itself.
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/decode_split.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kLatent = 512, kDim = 576, kTokens = 32, kStages = 5, kWarps = 8, kThreads = (kWarps + 1) * 32;
constexpr int kRowBytes = kDim * 2;
// Rows of a stage are 16 bytes further apart, so that eight rows' chunks of a column lie in different banks.
constexpr int kRowStride = kRowBytes + 16, kStageBytes = kTokens * kRowStride;
constexpr int kScoreStride = kTokens + 4;
constexpr int kSharedBytes = kStages * kStageBytes + 2 * 2 * kGroupHeads * kScoreStride * 4 + kStages * 2 * 8;
constexpr int kStepsOfHalf = kDim / 2 / 16;

__device__ inline void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ inline void copy_bulk(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

__global__ void __launch_bounds__(kThreads, 1)
    mla_decode_kernel(const bf16* q, PagedKv kv, Split split, int heads, float scale_log2) {
  extern __shared__ __align__(16) uint8_t raw[];
  const uint32_t shared = shared_address(raw);
  float* scores = reinterpret_cast<float*>(raw + kStages * kStageBytes);  // (2, 2, 16, kScoreStride)
  const uint32_t full = shared + kStages * kStageBytes + 2 * 2 * kGroupHeads * kScoreStride * 4;
  const uint32_t empty = full + kStages * 8;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int g = lane / 4, t = lane % 4;
  const int group = static_cast<int>(blockIdx.x) % split.groups, part = static_cast<int>(blockIdx.x) / split.groups;
  const int head = group * kGroupHeads, head_count = min(kGroupHeads, heads - head);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + s * 8, 1);
      barrier_init(empty + s * 8, kWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  uint32_t step = 0;  // of this block, over all units: says stage and parity
  const int64_t end = split.begin(part + 1);
  if (warp == kWarps) {
    // Lane i copies the row of token i. Rows beyond the context are its last one again, and masked.
    for (int64_t at = split.begin(part); at < end;) {
      const Share share = share_at(split, at, end);
      at += share.tiles;
      const PagedRows rows = split.entries[share.entry];
      const uint32_t* pages = kv.pages + rows.first_page;
      const int context = static_cast<int>(rows.begin + rows.tokens);
      const int first = share.tile_begin * kDecodeTile;
      const int steps = ceil_div(min(share.tiles * kDecodeTile, context - first), kTokens);
      for (int s = 0; s < steps; ++s, ++step) {
        const std::byte* row = page_k_row(kv, pages, min(first + s * kTokens + lane, context - 1), 0, sizeof(bf16));
        const uint32_t stage = step % kStages;
        barrier_wait(empty + stage * 8, (step / kStages + 1) % 2);
        if (lane == 0) barrier_expect(full + stage * 8, kTokens * kRowBytes);
        __syncwarp();
        copy_bulk(shared + stage * kStageBytes + lane * kRowStride, row, kRowBytes, full + stage * 8);
      }
    }
    return;
  }
  for (int64_t at = split.begin(part); at < end;) {
    const Share share = share_at(split, at, end);
    const PagedRows rows = split.entries[share.entry];
    const int context = static_cast<int>(rows.begin + rows.tokens);
    const int first = share.tile_begin * kDecodeTile;
    const int steps = ceil_div(min(share.tiles * kDecodeTile, context - first), kTokens);

    // This warp's half of the queries, as left sides of the products.
    uint32_t query[kStepsOfHalf][4];
    const bf16* q_rows = q + (rows.row * heads + head) * kDim + warp / 4 * (kDim / 2) + t * 2;
#pragma unroll
    for (int i = 0; i < kStepsOfHalf; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = g + j % 2 * 8;
        query[i][j] =
            row < head_count ? *reinterpret_cast<const uint32_t*>(q_rows + row * kDim + i * 16 + j / 2 * 8) : 0;
      }
    }
    float answer[8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};

    for (int s = 0; s < steps; ++s) {
      const uint32_t now = step + s, stage = now % kStages;
      const uint32_t tile = shared + stage * kStageBytes;
      barrier_wait(full + stage * 8, now / kStages % 2);
      // Scores of tokens 8 * (warp % 4) .. + 7 over this warp's half of the columns.
      float score[2][4] = {};
      const uint32_t keys = tile + (warp % 4 * 8 + lane % 8) * kRowStride + warp / 4 * kDim + lane / 8 * 16;
#pragma unroll
      for (int i = 0; i < kStepsOfHalf; i += 2) {
        uint32_t b[4];
        ldmatrix_x4(b, keys + i * 32);
        mma_16816(score[0], query[i], b[0], b[1]);
        mma_16816(score[1], query[i + 1], b[2], b[3]);
      }
      float* all = scores + now % 2 * (2 * kGroupHeads * kScoreStride);
      float* mine = all + (warp / 4 * kGroupHeads + g) * kScoreStride + warp % 4 * 8 + t * 2;
      *reinterpret_cast<float2*>(mine) = {score[0][0] + score[1][0], score[0][1] + score[1][1]};
      *reinterpret_cast<float2*>(mine + 8 * kScoreStride) = {score[0][2] + score[1][2], score[0][3] + score[1][3]};
      asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory");

      const int left = context - first - s * kTokens;
      uint32_t probability[kTokens / 16][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* row = all + (g + half * 8) * kScoreStride + t * 2;
        float v[kTokens / 8][2], most = largest[half];
#pragma unroll
        for (int i = 0; i < kTokens / 8; ++i) {
          const float2 a = *reinterpret_cast<const float2*>(row + i * 8);
          const float2 b = *reinterpret_cast<const float2*>(row + kGroupHeads * kScoreStride + i * 8);
          v[i][0] = i * 8 + t * 2 < left ? (a.x + b.x) * scale_log2 : -INFINITY;
          v[i][1] = i * 8 + t * 2 + 1 < left ? (a.y + b.y) * scale_log2 : -INFINITY;
          most = fmaxf(most, fmaxf(v[i][0], v[i][1]));
        }
        most = fmaxf(most, __shfl_xor_sync(~0U, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
        const float factor = exp2f(largest[half] - most);
        largest[half] = most;
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kTokens / 8; ++i) {
          v[i][0] = exp2f(v[i][0] - most);
          v[i][1] = exp2f(v[i][1] - most);
          sum += v[i][0] + v[i][1];
          probability[i / 2][i % 2 * 2 + half] = pack_bf16(v[i][0], v[i][1]);
        }
        total[half] = total[half] * factor + sum;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          answer[i][half * 2] *= factor;
          answer[i][half * 2 + 1] *= factor;
        }
      }
      const uint32_t values = tile + (lane % 16) * kRowStride + warp * 128 + lane / 16 * 16;
#pragma unroll
      for (int k = 0; k < kTokens / 16; ++k) {
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
          uint32_t b[4];
          ldmatrix_x4_trans(b, values + k * 16 * kRowStride + i * 16);
          mma_16816(answer[i], probability[k], b[0], b[1]);
          mma_16816(answer[i + 1], probability[k], b[2], b[3]);
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(empty + stage * 8);
    }
    step += steps;
    at += share.tiles;

    const int64_t slot = split.slot(part, share.entry, group);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = g + half * 8;
      float* to = split.sums + (slot * kGroupHeads + row) * kLatent + warp * 64 + t * 2;
#pragma unroll
      for (int i = 0; i < 8; ++i)
        *reinterpret_cast<float2*>(to + i * 8) = {answer[i][half * 2], answer[i][half * 2 + 1]};
      const float sum = warp_sum<4>(total[half]);
      if (warp == 0 && t == 0) {
        split.state[slot * 2 * kGroupHeads + row] = largest[half];
        split.state[(slot * 2 + 1) * kGroupHeads + row] = sum;
      }
    }
  }
}

}  // namespace

template <class T>
void mla_decode(cudaStream_t stream, const T* q, CardSequences sequences, DecodePlan plan, int heads, int lora,
                const PagedKv& kv, float scale, void* scratch, T* out) {
  if (sequences.count == 0) return;
  if constexpr (std::is_same_v<T, bf16>) {
    if (lora == kLatent && kv.k_dim == kDim && kv.dtype == tensor::DType::kBF16) {
      static const cudaError_t allowed =
          cudaFuncSetAttribute(mla_decode_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
      check_cuda(allowed);
      const int groups = ceil_div(heads, kGroupHeads), most = multiprocessors() / groups;
      // A lone sequence is cut into fewer parts: merging them is serial.
      const int parts = most < 1 ? 1 : most < sequences.count * 64 ? most : sequences.count * 64;
      const Split split = make_split(sequences, plan, 1, heads, lora, parts, scratch);
      mla_decode_kernel<<<static_cast<unsigned>(parts * groups), kThreads, kSharedBytes, stream>>>(q, kv, split, heads,
                                                                                                   scale * 1.44269504F);
      check_launch();
      merge_parts(stream, split, heads, nullptr, lora, out);
      return;
    }
  }
  plain_attention<T>(stream, q, int64_t{heads} * kv.k_dim, sequences, heads, nullptr, kv, lora, scale, out);
}

template void mla_decode<float>(cudaStream_t, const float*, CardSequences, DecodePlan, int, int, const PagedKv&, float,
                                void*, float*);
template void mla_decode<bf16>(cudaStream_t, const bf16*, CardSequences, DecodePlan, int, int, const PagedKv&, float,
                               void*, bf16*);

}  // namespace baton::kernels::cuda
