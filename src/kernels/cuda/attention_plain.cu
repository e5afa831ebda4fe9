#include "kernels/cuda/attention_plain.cuh"

#include "kernels/cuda/common.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kWarps = 8, kPerLane = 32, kDimMax = 32 * kPerLane;

// Where keys and values of a (sequence, query head) are. Values [0, split) of a key are at key(), the rest at rest().
template <class Kv>
struct PagedSource {
  PagedKv kv;
  const int* kv_head_of;
  int split;  // k_dim

  __device__ const Kv* key(const PagedRows& s, int, int head, int64_t token) const {
    return reinterpret_cast<const Kv*>(page_k_row(kv, kv.pages + s.first_page, token, local(head), sizeof(Kv)));
  }
  __device__ const Kv* rest(const PagedRows&, int, int64_t) const { return nullptr; }
  __device__ const Kv* value(const PagedRows& s, int sequence, int head, int64_t token) const {
    if (kv.v_dim == 0) return key(s, sequence, head, token);
    return reinterpret_cast<const Kv*>(page_v_row(kv, kv.pages + s.first_page, token, local(head), sizeof(Kv)));
  }
  __device__ int local(int head) const { return kv_head_of == nullptr ? 0 : kv_head_of[head]; }
};
template <class T>
struct ExpandedSource {
  ExpandedKv<T> kv;
  int split;  // nope

  __device__ int64_t row(int sequence, int64_t token) const { return kv.context_first[sequence] + token; }
  __device__ const T* key(const PagedRows&, int sequence, int head, int64_t token) const {
    return kv.keys + (row(sequence, token) * kv.heads + head) * kv.nope;
  }
  __device__ const T* rest(const PagedRows&, int sequence, int64_t token) const {
    return kv.latents + row(sequence, token) * (kv.lora + kv.rope) + kv.lora;
  }
  __device__ const T* value(const PagedRows&, int sequence, int head, int64_t token) const {
    return kv.values + (row(sequence, token) * kv.heads + head) * kv.v_dim;
  }
};

// A block a query head of a token. Warps take tokens in turn, lanes dimensions; at the end the warps' sums are merged.
template <class T, class Source>
__global__ void plain_kernel(const T* q, int64_t q_row_stride, const PagedRows* sequences, Source source, int k_dim,
                             int v_dim, float scale, T* out) {
  begin_kernel();
  __shared__ float largest_of[kWarps], total_of[kWarps], sums[kDimMax];
  const int sequence = static_cast<int>(blockIdx.z), head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const PagedRows s = sequences[sequence];
  const int q_heads = static_cast<int>(gridDim.y);
  for (int64_t r = blockIdx.x; r < s.tokens; r += gridDim.x) {
    const T* query = q + (s.row + r) * q_row_stride + static_cast<int64_t>(head) * k_dim;
    float sum[kPerLane] = {};
    float largest = -INFINITY, total = 0;
    for (int64_t token = warp; token <= s.begin + r; token += kWarps) {
      const auto* key = source.key(s, sequence, head, token);
      const auto* rest = source.rest(s, sequence, token);
      float score = 0;
      for (int i = lane; i < k_dim; i += 32)
        score += to_float(query[i]) * to_float(i < source.split ? key[i] : rest[i - source.split]);
      score = warp_sum(score) * scale;
      const float most = fmaxf(largest, score), factor = expf(largest - most), p = expf(score - most);
      const auto* value = source.value(s, sequence, head, token);
      total = total * factor + p;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i)
        if (i * 32 + lane < v_dim) sum[i] = sum[i] * factor + p * to_float(value[i * 32 + lane]);
      largest = most;
    }
    __syncthreads();
    if (lane == 0) {
      largest_of[warp] = largest;
      total_of[warp] = total;
    }
    for (int i = static_cast<int>(threadIdx.x); i < v_dim; i += kWarps * 32) sums[i] = 0;
    __syncthreads();
    float most = -INFINITY;
    for (float v : largest_of) most = fmaxf(most, v);
    total = 0;
    for (int w = 0; w < kWarps; ++w) total += total_of[w] * expf(largest_of[w] - most);
    const float factor = expf(largest - most);
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) {
#pragma unroll
        for (int i = 0; i < kPerLane; ++i)
          if (i * 32 + lane < v_dim) sums[i * 32 + lane] += sum[i] * factor;
      }
      __syncthreads();
    }
    T* to = out + ((s.row + r) * q_heads + head) * v_dim;
    for (int i = static_cast<int>(threadIdx.x); i < v_dim; i += kWarps * 32) to[i] = from_float<T>(sums[i] / total);
  }
}

template <class T, class Source>
void launch(cudaStream_t stream, const T* q, int64_t q_row_stride, const CardSequences& sequences, int q_heads,
            const Source& source, int k_dim, int v_dim, float scale, T* out) {
  if (sequences.count == 0 || sequences.tokens_max == 0) return;
  BATON_CHECK(v_dim <= kDimMax);
  const dim3 grid(static_cast<unsigned>(sequences.tokens_max), static_cast<unsigned>(q_heads),
                  static_cast<unsigned>(sequences.count));
  launch_kernel(stream, plain_kernel<T, Source>, grid, kWarps * 32, 0, q, q_row_stride, sequences.rows, source, k_dim,
                v_dim, scale, out);
}

}  // namespace

template <class T>
void plain_attention(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences, int q_heads,
                     const int* kv_head_of, const PagedKv& kv, int v_dim, float scale, T* out) {
  with_kv_type(kv.dtype, [&]<class Kv>() {
    launch(stream, q, q_row_stride, sequences, q_heads, PagedSource<Kv>{kv, kv_head_of, kv.k_dim}, kv.k_dim, v_dim,
           scale, out);
  });
}

template <class T>
void plain_expanded_attention(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences,
                              const ExpandedKv<T>& kv, float scale, T* out) {
  launch(stream, q, q_row_stride, sequences, kv.heads, ExpandedSource<T>{kv, kv.nope}, kv.nope + kv.rope, kv.v_dim,
         scale, out);
}

#define BATON_INSTANTIATE(T)                                                                                        \
  template void plain_attention<T>(cudaStream_t, const T*, int64_t, CardSequences, int, const int*, const PagedKv&, \
                                   int, float, T*);                                                                 \
  template void plain_expanded_attention<T>(cudaStream_t, const T*, int64_t, CardSequences, const ExpandedKv<T>&,   \
                                            float, T*);
BATON_INSTANTIATE(float)
BATON_INSTANTIATE(bf16)
#undef BATON_INSTANTIATE

}  // namespace baton::kernels::cuda
