// K and V into pages, and latents out of them.
#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// A block a new token. In packs where the row's parts are whole ones.
template <class T, class Kv, bool kPacks>
__global__ void write_kv_kernel(PagedKv kv, const PagedRows* sequences, int heads, const T* k, int64_t k_row_stride,
                                const T* v, int64_t v_row_stride) {
  begin_kernel();
  const PagedRows s = sequences[blockIdx.y];
  const uint32_t* pages = kv.pages + s.first_page;
  constexpr int kStep = kPacks ? 8 : 1;
  for (int64_t r = blockIdx.x; r < s.tokens; r += gridDim.x) {
    const int k_all = heads * kv.k_dim, all = k_all + heads * kv.v_dim;
    for (int i = static_cast<int>(threadIdx.x) * kStep; i < all; i += static_cast<int>(blockDim.x) * kStep) {
      const bool is_k = i < k_all;
      const int at = is_k ? i : i - k_all, dim = is_k ? kv.k_dim : kv.v_dim;
      const T* from = is_k ? k + (s.row + r) * k_row_stride + at : v + (s.row + r) * v_row_stride + at;
      const std::byte* row = is_k ? page_k_row(kv, pages, s.begin + r, at / dim, sizeof(Kv))
                                  : page_v_row(kv, pages, s.begin + r, at / dim, sizeof(Kv));
      Kv* to = reinterpret_cast<Kv*>(const_cast<std::byte*>(row)) + at % dim;
      if constexpr (kPacks) {
        *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(from);
      } else {
        *to = from_float<Kv>(to_float(*from));
      }
    }
  }
}

// A block a new token.
constexpr int kLatentThreads = 256;
template <class T, class Kv, RopePairs kPairs>
__global__ void write_latents_kernel(PagedKv kv, const PagedRows* sequences, NewLatents<T> in) {
  begin_kernel();
  const PagedRows s = sequences[blockIdx.y];
  const uint32_t* pages = kv.pages + s.first_page;
  const int half = in.rope / 2;
  for (int64_t r = blockIdx.x; r < s.tokens; r += gridDim.x) {
    const int64_t row = s.row + r;
    const T* entry = in.entries + row * in.stride;
    auto* to = reinterpret_cast<Kv*>(const_cast<std::byte*>(page_k_row(kv, pages, s.begin + r, 0, sizeof(Kv))));
    const auto turn = [&](const T* from, int i, auto put) {
      const int a = kPairs == RopePairs::kInterleaved ? 2 * i : i;
      const int b = kPairs == RopePairs::kInterleaved ? 2 * i + 1 : i + half;
      const float c = in.cos[row * half + i], d = in.sin[row * half + i], va = to_float(from[a]),
                  vb = to_float(from[b]);
      put(a, from_float<T>(va * c - vb * d));
      put(b, from_float<T>(vb * c + va * d));
    };
    for (int i = static_cast<int>(threadIdx.x); i < (in.heads + 1) * half; i += kLatentThreads) {
      const int head = i / half;
      if (head == in.heads) {
        turn(entry + in.lora, i % half, [&](int at, T v) { to[in.lora + at] = from_float<Kv>(to_float(v)); });
        continue;
      }
      T* q = in.q + row * in.q_row_stride + head * in.q_head_stride;
      T* copy =
          row < in.absorbed_rows ? in.absorbed + row * in.absorbed_row_stride + head * in.absorbed_head_stride : q;
      turn(q, i % half, [&](int at, T v) { q[at] = copy[at] = v; });
    }
    float square = 0;
    for (int i = static_cast<int>(threadIdx.x); i < in.lora; i += kLatentThreads)
      square += to_float(entry[i]) * to_float(entry[i]);
    const float scale = rsqrtf(block_sum(square) / static_cast<float>(in.lora) + in.eps);
    for (int i = static_cast<int>(threadIdx.x); i < in.lora; i += kLatentThreads)
      to[i] = from_float<Kv>(to_float(from_float<T>(to_float(entry[i]) * scale * in.norm[i])));
  }
}

template <class T, class Kv>
__global__ void gather_latents_kernel(PagedKv kv, const PagedRows* sequences, const int32_t* context_first,
                                      T* latents) {
  begin_kernel();
  const PagedRows s = sequences[blockIdx.y];
  const uint32_t* pages = kv.pages + s.first_page;
  const int64_t context = s.tokens == 0 ? 0 : s.begin + s.tokens;
  for (int64_t t = blockIdx.x; t < context; t += gridDim.x) {
    const Kv* from = reinterpret_cast<const Kv*>(page_k_row(kv, pages, t, 0, sizeof(Kv)));
    T* to = latents + (context_first[blockIdx.y] + t) * kv.k_dim;
    for (int i = static_cast<int>(threadIdx.x); i < kv.k_dim; i += static_cast<int>(blockDim.x))
      to[i] = from_float<T>(to_float(from[i]));
  }
}

unsigned rows_of_grid(int64_t rows) { return static_cast<unsigned>(rows < 65535 ? rows : 65535); }

}  // namespace

template <class T>
void write_kv(cudaStream_t stream, const PagedKv& kv, CardSequences sequences, int heads, const T* k,
              int64_t k_row_stride, const T* v, int64_t v_row_stride) {
  if (sequences.count == 0 || sequences.tokens_max == 0) return;
  const dim3 grid(rows_of_grid(sequences.tokens_max), static_cast<unsigned>(sequences.count));
  const bool same = std::is_same_v<T, bf16> && kv.dtype == tensor::DType::kBF16;
  if (same && kv.k_dim % 8 == 0 && kv.v_dim % 8 == 0 && packable<T>(k, k_row_stride) &&
      (v == nullptr || packable<T>(v, v_row_stride))) {
    launch_kernel(stream, write_kv_kernel<T, bf16, std::is_same_v<T, bf16>>, grid, kThreads, 0, kv, sequences.rows,
                  heads, k, k_row_stride, v, v_row_stride);
  } else {
    with_kv_type(kv.dtype, [&]<class Kv>() {
      launch_kernel(stream, write_kv_kernel<T, Kv, false>, grid, kThreads, 0, kv, sequences.rows, heads, k,
                    k_row_stride, v, v_row_stride);
    });
  }
}

template <class T>
void write_latents(cudaStream_t stream, const PagedKv& kv, CardSequences sequences, RopePairs pairs,
                   const NewLatents<T>& latents) {
  if (sequences.count == 0 || sequences.tokens_max == 0) return;
  const dim3 grid(rows_of_grid(sequences.tokens_max), static_cast<unsigned>(sequences.count));
  with_kv_type(kv.dtype, [&]<class Kv>() {
    const auto kernel = pairs == RopePairs::kHalves ? write_latents_kernel<T, Kv, RopePairs::kHalves>
                                                    : write_latents_kernel<T, Kv, RopePairs::kInterleaved>;
    launch_kernel(stream, kernel, grid, kLatentThreads, 0, kv, sequences.rows, latents);
  });
}

template <class T>
void mla_gather_latents(cudaStream_t stream, const PagedKv& kv, CardSequences sequences, int64_t context_max,
                        const int32_t* context_first, T* latents) {
  if (sequences.count == 0 || context_max == 0) return;
  const dim3 grid(rows_of_grid(context_max), static_cast<unsigned>(sequences.count));
  with_kv_type(kv.dtype, [&]<class Kv>() {
    launch_kernel(stream, gather_latents_kernel<T, Kv>, grid, kThreads, 0, kv, sequences.rows, context_first, latents);
  });
}

#define BATON_INSTANTIATE(T)                                                                                         \
  template void write_kv<T>(cudaStream_t, const PagedKv&, CardSequences, int, const T*, int64_t, const T*, int64_t); \
  template void write_latents<T>(cudaStream_t, const PagedKv&, CardSequences, RopePairs, const NewLatents<T>&);      \
  template void mla_gather_latents<T>(cudaStream_t, const PagedKv&, CardSequences, int64_t, const int32_t*, T*);
BATON_INSTANTIATE(float)
BATON_INSTANTIATE(bf16)
#undef BATON_INSTANTIATE

}  // namespace baton::kernels::cuda
