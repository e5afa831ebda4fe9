// GQA in decode. The four warps of a block each stream their own tokens, sixteen of every tile of 64, through their own
// stages of shared memory, and keep their own softmax, so none waits for another before the end of a unit. The up to 16
// query heads of a kv head are the rows of one tensor core product: each K and V byte is read once.
//
// fp8 becomes bf16 in registers. A thread there has four neighbouring values of a row where of bf16 it would have two
// here and two there: which columns the instruction takes them for does not matter while queries, or answers, agree.
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/decode_split.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kWarps = 4, kTokens = kDecodeTile / kWarps, kStages = 3;

template <int kDim, class Kv>
struct Layout {
  static constexpr int kRowBytes = kDim * sizeof(Kv);
  static constexpr int kRowStride = kRowBytes + 16;  // of K or V: eight rows' chunks of a column in different banks
  static constexpr int kPartBytes = kTokens * kRowStride;
  static constexpr int kWarpBytes = kStages * 2 * kPartBytes;
  static constexpr int kSharedBytes = kWarps * kWarpBytes + kWarps * 2 * kGroupHeads * 4;
  static_assert(kWarpBytes >= kGroupHeads * (kDim + 4) * 4);  // the stages hold a warp's sums at the end of a unit
};

template <int kDim, class Kv>
__global__ void __launch_bounds__(kWarps * 32, 2)
    gqa_decode_kernel(const bf16* q, int64_t q_row_stride, PagedKv kv, Split split, int q_heads, const int* kv_head_of,
                      float scale_log2) {
  begin_kernel();
  using L = Layout<kDim, Kv>;
  constexpr bool kFp8 = std::is_same_v<Kv, fp8>;
  extern __shared__ __align__(16) uint8_t raw[];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int g = lane / 4, t = lane % 4;
  const uint32_t stages = shared_address(raw) + warp * L::kWarpBytes;
  float* states = reinterpret_cast<float*>(raw + kWarps * L::kWarpBytes);  // (warps, 2, 16)
  const int group = static_cast<int>(blockIdx.x) % split.groups, part = static_cast<int>(blockIdx.x) / split.groups;

  const int64_t end = split.begin(part + 1);
  for (int64_t at = split.begin(part); at < end;) {
    const Share share = share_at(split, at, end);
    at += share.tiles;
    const PagedRows rows = split.entries[share.entry];
    const uint32_t* pages = kv.pages + rows.first_page;
    const int context = static_cast<int>(rows.begin + rows.tokens);
    const int first = share.tile_begin * kDecodeTile + warp * kTokens;
    // Tiles in which this warp has a token.
    const int steps = min(share.tiles, ceil_div(max(context - first, 0), kDecodeTile));
    const HeadRange heads = heads_of(kv_head_of, q_heads, share.head, group);

    // Lane i % 16 looks up the row of token i; copies then take their row from there. Tokens beyond the context are its
    // last one again, and masked.
    const auto row_of = [&](int s) {
      return page_k_row(kv, pages, min(first + s * kDecodeTile + lane % kTokens, context - 1), share.head, sizeof(Kv));
    };
    constexpr int kChunks = L::kRowBytes / 16, kRowsAtOnce = 32 / kChunks;
    const std::byte* next_row = nullptr;
    const auto copy = [&](int s) {
      if (s < steps) {
        const uint32_t to = stages + s % kStages * 2 * L::kPartBytes + lane % kChunks * 16;
#pragma unroll
        for (int i = 0; i < kTokens; i += kRowsAtOnce) {
          const int token = i + lane / kChunks;
          const auto base = __shfl_sync(~0U, reinterpret_cast<uint64_t>(next_row), token);
          const auto* from = reinterpret_cast<const std::byte*>(base) + lane % kChunks * 16;
          copy_async(to + token * L::kRowStride, from);
          copy_async(to + L::kPartBytes + token * L::kRowStride, from + kv.v_offset);
        }
        if (s + 1 < steps) next_row = row_of(s + 1);
      }
      commit_copies();
    };
    if (steps > 0) next_row = row_of(0);
    for (int s = 0; s < kStages - 1; ++s) copy(s);

    uint32_t query[kDim / 16][4];
    const bf16* q_rows = q + rows.row * q_row_stride + static_cast<int64_t>(heads.first) * kDim + t * (kFp8 ? 4 : 2);
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = g + j % 2 * 8;
        query[i][j] = row < heads.count
                          ? *reinterpret_cast<const uint32_t*>(q_rows + row * kDim + i * 16 + j / 2 * (kFp8 ? 2 : 8))
                          : 0;
      }
    }
    float answer[kDim / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    for (int s = 0; s < steps; ++s) {
      wait_copies<kStages - 2>();
      __syncwarp();
      copy(s + kStages - 1);
      const uint32_t k_tile = stages + s % kStages * 2 * L::kPartBytes, v_tile = k_tile + L::kPartBytes;
      float score[2][4] = {};
      const uint32_t keys = k_tile + (lane % 8 + lane / 16 * 8) * L::kRowStride + lane / 8 % 2 * 16;
#pragma unroll
      for (int i = 0; i < L::kRowBytes / 32; ++i) {
        uint32_t b[4];
        ldmatrix_x4(b, keys + i * 32);
        if constexpr (kFp8) {
#pragma unroll
          for (int j = 0; j < 4; ++j)
            mma_16816(score[j / 2], query[i * 2 + j % 2], fp8_to_bf16(b[j] & 0xffff), fp8_to_bf16(b[j] >> 16));
        } else {
          mma_16816(score[0], query[i], b[0], b[1]);
          mma_16816(score[1], query[i], b[2], b[3]);
        }
      }
      const int left = context - first - s * kDecodeTile;
      uint32_t probability[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float v[2][2], most = largest[half];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            v[i][j] = i * 8 + t * 2 + j < left ? score[i][half * 2 + j] * scale_log2 : -INFINITY;
            most = fmaxf(most, v[i][j]);
          }
        }
        most = fmaxf(most, __shfl_xor_sync(~0U, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
        const float factor = exp2f(largest[half] - most);
        largest[half] = most;
        total[half] *= factor;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          v[i][0] = exp2f(v[i][0] - most);
          v[i][1] = exp2f(v[i][1] - most);
          total[half] += v[i][0] + v[i][1];
          probability[i * 2 + half] = pack_bf16(v[i][0], v[i][1]);
        }
#pragma unroll
        for (int i = 0; i < kDim / 8; ++i) {
          answer[i][half * 2] *= factor;
          answer[i][half * 2 + 1] *= factor;
        }
      }
      const uint32_t values = v_tile + lane % 16 * L::kRowStride + lane / 16 * 16;
#pragma unroll
      for (int i = 0; i < L::kRowBytes / 32; ++i) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, values + i * 32);
        if constexpr (kFp8) {
          // Two columns of two tokens each: even columns are one product, odd ones another.
#pragma unroll
          for (uint32_t& v : b) v = __byte_perm(v, 0, 0x3120);
#pragma unroll
          for (int j = 0; j < 4; j += 2) {
            mma_16816(answer[i * 4 + j], probability, fp8_to_bf16(b[j] & 0xffff), fp8_to_bf16(b[j + 1] & 0xffff));
            mma_16816(answer[i * 4 + j + 1], probability, fp8_to_bf16(b[j] >> 16), fp8_to_bf16(b[j + 1] >> 16));
          }
        } else {
          mma_16816(answer[i * 2], probability, b[0], b[1]);
          mma_16816(answer[i * 2 + 1], probability, b[2], b[3]);
        }
      }
      __syncwarp();
    }
    wait_copies<0>();

    // The warps' answers become one. Rows of a warp's sums are four floats further apart, for the banks.
    float* sums = reinterpret_cast<float*>(raw + warp * L::kWarpBytes);
    constexpr int kStride = kDim + 4;
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = warp_sum<4>(total[half]);
      if (t == 0) {
        states[warp * 2 * kGroupHeads + g + half * 8] = largest[half];
        states[(warp * 2 + 1) * kGroupHeads + g + half * 8] = sum;
      }
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
        float* to = sums + (g + half * 8) * kStride;
        if constexpr (!kFp8) {
          *reinterpret_cast<float2*>(to + i * 8 + t * 2) = {answer[i][half * 2], answer[i][half * 2 + 1]};
        } else if (i % 2 == 0) {
          *reinterpret_cast<float4*>(to + i * 8 + t * 4) = {answer[i][half * 2], answer[i + 1][half * 2],
                                                            answer[i][half * 2 + 1], answer[i + 1][half * 2 + 1]};
        }
      }
    }
    __syncthreads();
    const int64_t slot = split.slot(part, share.entry * split.kv_heads + share.head, group);
    for (int i = static_cast<int>(threadIdx.x); i < heads.count * (kDim / 4); i += kWarps * 32) {
      const int row = i / (kDim / 4), column = i % (kDim / 4) * 4;
      float most = -INFINITY;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) most = fmaxf(most, states[w * 2 * kGroupHeads + row]);
      float all = 0;
      float4 sum{0, 0, 0, 0};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float factor = exp2f(states[w * 2 * kGroupHeads + row] - most);
        all += factor * states[(w * 2 + 1) * kGroupHeads + row];
        const float4 v =
            *reinterpret_cast<const float4*>(raw + w * L::kWarpBytes + (row * kStride + column) * sizeof(float));
        sum.x += factor * v.x;
        sum.y += factor * v.y;
        sum.z += factor * v.z;
        sum.w += factor * v.w;
      }
      *reinterpret_cast<float4*>(split.sums + (slot * kGroupHeads + row) * kDim + column) = sum;
      if (column == 0) {
        split.state[slot * 2 * kGroupHeads + row] = most;
        split.state[(slot * 2 + 1) * kGroupHeads + row] = all;
      }
    }
    __syncthreads();
  }
}

template <int kDim, class Kv>
void launch(cudaStream_t stream, const bf16* q, int64_t q_row_stride, const CardSequences& sequences,
            const DecodePlan& plan, const QueryHeads& heads, const PagedKv& kv, float scale, void* scratch, bf16* out) {
  // A thread has one card.
  thread_local const cudaError_t allowed = cudaFuncSetAttribute(
      gqa_decode_kernel<kDim, Kv>, cudaFuncAttributeMaxDynamicSharedMemorySize, Layout<kDim, Kv>::kSharedBytes);
  check_cuda(allowed);
  const int groups = ceil_div(heads.group_max, kGroupHeads), most = multiprocessors() * 2 / groups;
  const int units = sequences.count * heads.kv_heads;
  // A lone unit is cut into fewer parts: merging them is serial.
  const int parts = most < 1 ? 1 : most < units * 64 ? most : units * 64;
  const Split split = make_split(sequences, plan, heads.kv_heads, heads.group_max, kDim, parts, scratch);
  launch_kernel(stream, gqa_decode_kernel<kDim, Kv>, static_cast<unsigned>(parts * groups), kWarps * 32,
                Layout<kDim, Kv>::kSharedBytes, q, q_row_stride, kv, split, heads.count, heads.kv_head_of,
                scale * 1.44269504F);
  merge_parts(stream, split, heads.count, heads.kv_head_of, kDim, out);
}

}  // namespace

template <class T>
void gqa_decode(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences, DecodePlan plan,
                const QueryHeads& heads, const PagedKv& kv, float scale, void* scratch, T* out) {
  if (sequences.count == 0) return;
  if constexpr (std::is_same_v<T, bf16>) {
    const bool wide = kv.k_dim == 128 && kv.v_dim == 128, narrow = kv.k_dim == 64 && kv.v_dim == 64;
    const auto by_tensor_cores = [&]<class Kv>() {
      const auto run = wide ? launch<128, Kv> : launch<64, Kv>;
      run(stream, q, q_row_stride, sequences, plan, heads, kv, scale, scratch, out);
    };
    if ((wide || narrow) && kv.dtype == tensor::DType::kBF16) return by_tensor_cores.template operator()<bf16>();
    if ((wide || narrow) && kv.dtype == tensor::DType::kF8E4M3) return by_tensor_cores.template operator()<fp8>();
  }
  plain_attention<T>(stream, q, q_row_stride, sequences, heads.count, heads.kv_head_of, kv, kv.v_dim, scale, out);
}

template void gqa_decode<float>(cudaStream_t, const float*, int64_t, CardSequences, DecodePlan, const QueryHeads&,
                                const PagedKv&, float, void*, float*);
template void gqa_decode<bf16>(cudaStream_t, const bf16*, int64_t, CardSequences, DecodePlan, const QueryHeads&,
                               const PagedKv&, float, void*, bf16*);

}  // namespace baton::kernels::cuda
