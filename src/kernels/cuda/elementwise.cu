// Kernels that touch each value once: norms, rotary embedding, activations, copies.
#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"

namespace baton::kernels::cuda {

int multiprocessors() {
  static const int count = [] {
    int device = 0, n = 0;
    check_cuda(cudaGetDevice(&device));
    check_cuda(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device));
    return n;
  }();
  return count;
}

namespace {

constexpr int kThreads = 256;

dim3 grid_of(int64_t threads) { return {static_cast<unsigned>(ceil_div<int64_t>(threads, kThreads))}; }

// The row stays in registers between the two passes while it has at most kPacks packs a thread; what is beyond is read
// again.
constexpr int kPacks = 2;

template <class T, bool kAdd>
__global__ void norm_kernel(const T* x, int64_t x_stride, T* residual, const float* weight, float eps, int n, T* y,
                            int64_t y_stride) {
  begin_kernel();
  constexpr int kPack = Pack<T>::kSize;
  const T* in = x + blockIdx.x * x_stride;
  T* sum_row = kAdd ? residual + static_cast<int64_t>(blockIdx.x) * n : nullptr;
  T* out = y + blockIdx.x * y_stride;
  const int step = static_cast<int>(blockDim.x) * kPack;
  Pack<T> kept[kPacks];
  float square = 0;
  int round = 0;
  for (int i = static_cast<int>(threadIdx.x) * kPack; i < n; i += step, ++round) {
    Pack<T> v = load_pack(in + i);
    if constexpr (kAdd) {
      const Pack<T> r = load_pack(sum_row + i);
#pragma unroll
      for (int j = 0; j < kPack; ++j) v.v[j] = from_float<T>(to_float(v.v[j]) + to_float(r.v[j]));
      store_pack(sum_row + i, v);
    }
#pragma unroll
    for (int j = 0; j < kPack; ++j) square += to_float(v.v[j]) * to_float(v.v[j]);
#pragma unroll
    for (int r = 0; r < kPacks; ++r)
      if (r == round) kept[r] = v;
  }
  const float scale = rsqrtf(block_sum(square) / static_cast<float>(n) + eps);
  round = 0;
  for (int i = static_cast<int>(threadIdx.x) * kPack; i < n; i += step, ++round) {
    Pack<T> v;
    if (round >= kPacks) v = load_pack((kAdd ? sum_row : in) + i);
#pragma unroll
    for (int r = 0; r < kPacks; ++r)
      if (r == round) v = kept[r];
#pragma unroll
    for (int j = 0; j < kPack; ++j) v.v[j] = from_float<T>(to_float(v.v[j]) * scale * weight[i + j]);
    store_pack(out + i, v);
  }
}

// Rows that are no whole packs.
template <class T>
__global__ void plain_norm_kernel(const T* x, int64_t x_stride, T* residual, const float* weight, float eps, int n,
                                  T* y, int64_t y_stride) {
  begin_kernel();
  const T* in = x + blockIdx.x * x_stride;
  T* sum_row = residual == nullptr ? nullptr : residual + static_cast<int64_t>(blockIdx.x) * n;
  float square = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    float v = to_float(in[i]);
    if (sum_row != nullptr) {
      sum_row[i] = from_float<T>(v + to_float(sum_row[i]));
      v = to_float(sum_row[i]);
    }
    square += v * v;
  }
  const float scale = rsqrtf(block_sum(square) / static_cast<float>(n) + eps);
  const T* from = sum_row == nullptr ? in : sum_row;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    y[blockIdx.x * y_stride + i] = from_float<T>(to_float(from[i]) * scale * weight[i]);
}

int norm_threads(int64_t n, int pack) {
  const int64_t threads = ceil_div<int64_t>(n / pack, 32) * 32;
  return static_cast<int>(threads < 32 ? 32 : threads > 512 ? 512 : threads);
}

// A warp a head.
template <class T>
__global__ void norm_heads_kernel(T* x, int64_t row_stride, const float* weight, float eps, int64_t m, int heads,
                                  int dim) {
  begin_kernel();
  const int64_t at = blockIdx.x * static_cast<int64_t>(kThreads / 32) + threadIdx.x / 32;
  if (at >= m * heads) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  T* row = x + at / heads * row_stride + at % heads * dim;
  float square = 0;
  for (int i = lane; i < dim; i += 32) square += to_float(row[i]) * to_float(row[i]);
  const float scale = rsqrtf(warp_sum(square) / static_cast<float>(dim) + eps);
  for (int i = lane; i < dim; i += 32) row[i] = from_float<T>(to_float(row[i]) * scale * weight[i]);
}

// A thread a pair.
template <class T, RopePairs kPairs>
__global__ void rope_kernel(T* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int half,
                            const int32_t* positions, const float* cos, const float* sin) {
  begin_kernel();
  const int64_t at = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (at >= m * heads * half) return;
  const int i = static_cast<int>(at % half);
  const int64_t row = at / half / heads;
  T* v = x + row * row_stride + at / half % heads * head_stride;
  const int a = kPairs == RopePairs::kInterleaved ? 2 * i : i;
  const int b = kPairs == RopePairs::kInterleaved ? 2 * i + 1 : i + half;
  const int64_t angle = (positions == nullptr ? row : positions[row]) * half + i;
  const float c = cos[angle], s = sin[angle], va = to_float(v[a]), vb = to_float(v[b]);
  v[a] = from_float<T>(va * c - vb * s);
  v[b] = from_float<T>(vb * c + va * s);
}

template <class T>
__global__ void silu_mul_kernel(const T* gate_up, int64_t total, int64_t n, T* y) {
  begin_kernel();
  constexpr int kPack = Pack<T>::kSize;
  const int64_t at = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) * kPack;
  if (at >= total) return;
  if (n % kPack == 0) {
    const T* gate = gate_up + at / n * 2 * n + at % n;
    const Pack<T> g = load_pack(gate), u = load_pack(gate + n);
    Pack<T> out;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const float v = to_float(g.v[j]);
      out.v[j] = from_float<T>(v / (1 + __expf(-v)) * to_float(u.v[j]));
    }
    store_pack(y + at, out);
    return;
  }
  for (int64_t i = at; i < at + kPack && i < total; ++i) {
    const T* gate = gate_up + i / n * 2 * n + i % n;
    const float v = to_float(gate[0]);
    y[i] = from_float<T>(v / (1 + __expf(-v)) * to_float(gate[n]));
  }
}

// Head h of row i of y is that of row rows[i] of x, see gather_rows(), or of row i.
template <class From, class T>
__global__ void copy_kernel(const From* x, int64_t x_stride, int64_t x_head_stride, const int32_t* rows,
                            const int32_t* drawn, int64_t m, int heads, int dim, T* y, int64_t y_stride,
                            int64_t y_head_stride) {
  begin_kernel();
  const int64_t at = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (at >= m * heads * dim) return;
  const int64_t row = at / dim / heads, head = at / dim % heads;
  int64_t from = rows == nullptr ? row : rows[row];
  if (from < 0) from = drawn[-1 - from];
  const From v = x[from * x_stride + head * x_head_stride + at % dim];
  T& to = y[row * y_stride + head * y_head_stride + at % dim];
  if constexpr (std::is_same_v<From, T>) {
    to = v;
  } else {
    to = from_float<T>(to_float(v));
  }
}

template <class T>
__global__ void add_kernel(int64_t n, const T* x, T* y) {
  begin_kernel();
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i < n) y[i] = from_float<T>(to_float(y[i]) + to_float(x[i]));
}

template <class T>
__global__ void add_bias_kernel(const float* bias, int64_t total, int64_t n, T* y) {
  begin_kernel();
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i < total) y[i] = from_float<T>(to_float(y[i]) + bias[i % n]);
}

// As float4, where everything allows it: the same bytes in fewer instructions.
template <class From, class T>
void copy(cudaStream_t stream, const From* x, int64_t x_stride, int64_t x_head_stride, const int32_t* rows,
          const int32_t* drawn, int64_t m, int heads, int64_t dim, T* y, int64_t y_stride, int64_t y_head_stride) {
  if (m == 0) return;
  constexpr int kPack = Pack<T>::kSize;
  if (std::is_same_v<From, T> && dim % kPack == 0 && packable<T>(x, x_stride) && packable<T>(y, y_stride) &&
      x_head_stride % kPack == 0 && y_head_stride % kPack == 0) {
    launch_kernel(stream, copy_kernel<float4, float4>, grid_of(m * heads * dim / kPack), kThreads, 0,
                  reinterpret_cast<const float4*>(x), x_stride / kPack, x_head_stride / kPack, rows, drawn, m, heads,
                  static_cast<int>(dim / kPack), reinterpret_cast<float4*>(y), y_stride / kPack, y_head_stride / kPack);
  } else {
    launch_kernel(stream, copy_kernel<From, T>, grid_of(m * heads * dim), kThreads, 0, x, x_stride, x_head_stride, rows,
                  drawn, m, heads, static_cast<int>(dim), y, y_stride, y_head_stride);
  }
}

template <class T>
void norm(cudaStream_t stream, const T* x, int64_t x_stride, T* residual, const float* weight, float eps, int64_t m,
          int64_t n, T* y, int64_t y_stride) {
  if (m == 0) return;
  const auto rows = static_cast<unsigned>(m);
  const int width = static_cast<int>(n);
  constexpr int kPack = Pack<T>::kSize;
  if (n % kPack != 0 || !packable<T>(x, x_stride) || !packable<T>(y, y_stride)) {
    launch_kernel(stream, plain_norm_kernel<T>, rows, norm_threads(n, 1), 0, x, x_stride, residual, weight, eps, width,
                  y, y_stride);
  } else if (residual != nullptr) {
    launch_kernel(stream, norm_kernel<T, true>, rows, norm_threads(n, kPack), 0, x, x_stride, residual, weight, eps,
                  width, y, y_stride);
  } else {
    launch_kernel(stream, norm_kernel<T, false>, rows, norm_threads(n, kPack), 0, x, x_stride, nullptr, weight, eps,
                  width, y, y_stride);
  }
}

}  // namespace

template <class T>
void rms_norm(cudaStream_t stream, const T* x, int64_t x_stride, const float* weight, float eps, int64_t m, int64_t n,
              T* y, int64_t y_stride) {
  norm<T>(stream, x, x_stride, nullptr, weight, eps, m, n, y, y_stride);
}

template <class T>
void add_rms_norm(cudaStream_t stream, const T* delta, T* residual, const float* weight, float eps, int64_t m,
                  int64_t n, T* y) {
  norm<T>(stream, delta, n, residual, weight, eps, m, n, y, n);
}

template <class T>
void rms_norm_heads(cudaStream_t stream, T* x, int64_t row_stride, const float* weight, float eps, int64_t m, int heads,
                    int dim) {
  if (m == 0) return;
  launch_kernel(stream, norm_heads_kernel<T>, grid_of(m * heads * 32), kThreads, 0, x, row_stride, weight, eps, m,
                heads, dim);
}

template <class T>
void rope(cudaStream_t stream, RopePairs pairs, T* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride,
          int dim, const int32_t* positions, const float* cos, const float* sin) {
  if (m == 0) return;
  const auto kernel =
      pairs == RopePairs::kInterleaved ? rope_kernel<T, RopePairs::kInterleaved> : rope_kernel<T, RopePairs::kHalves>;
  launch_kernel(stream, kernel, grid_of(m * heads * (dim / 2)), kThreads, 0, x, m, row_stride, heads, head_stride,
                dim / 2, positions, cos, sin);
}

template <class T>
void silu_mul(cudaStream_t stream, const T* gate_up, int64_t m, int64_t n, T* y) {
  if (m == 0) return;
  launch_kernel(stream, silu_mul_kernel<T>, grid_of(ceil_div<int64_t>(m * n, Pack<T>::kSize)), kThreads, 0, gate_up,
                m * n, n, y);
}

template <class T>
void copy_columns(cudaStream_t stream, const T* x, int64_t x_stride, int64_t m, int64_t n, T* y, int64_t y_stride) {
  copy<T, T>(stream, x, x_stride, 0, nullptr, nullptr, m, 1, n, y, y_stride, 0);
}

template <class T>
void copy_heads(cudaStream_t stream, const T* x, int64_t x_stride, int64_t x_head_stride, int64_t m, int heads, int dim,
                T* y, int64_t y_stride, int64_t y_head_stride) {
  copy<T, T>(stream, x, x_stride, x_head_stride, nullptr, nullptr, m, heads, dim, y, y_stride, y_head_stride);
}

template <class From, class T>
void gather_rows(cudaStream_t stream, const From* x, int64_t x_stride, const int32_t* rows, const int32_t* drawn,
                 int64_t m, int64_t n, T* y) {
  copy<From, T>(stream, x, x_stride, 0, rows, drawn, m, 1, n, y, n, 0);
}

template <class T>
void add(cudaStream_t stream, int64_t n, const T* x, T* y) {
  if (n == 0) return;
  launch_kernel(stream, add_kernel<T>, grid_of(n), kThreads, 0, n, x, y);
}

template <class T>
void add_bias(cudaStream_t stream, const float* bias, int64_t m, int64_t n, T* y) {
  if (m == 0) return;
  launch_kernel(stream, add_bias_kernel<T>, grid_of(m * n), kThreads, 0, bias, m * n, n, y);
}

#define BATON_INSTANTIATE(T)                                                                                      \
  template void rms_norm<T>(cudaStream_t, const T*, int64_t, const float*, float, int64_t, int64_t, T*, int64_t); \
  template void add_rms_norm<T>(cudaStream_t, const T*, T*, const float*, float, int64_t, int64_t, T*);           \
  template void rms_norm_heads<T>(cudaStream_t, T*, int64_t, const float*, float, int64_t, int, int);             \
  template void rope<T>(cudaStream_t, RopePairs, T*, int64_t, int64_t, int, int64_t, int, const int32_t*,         \
                        const float*, const float*);                                                              \
  template void silu_mul<T>(cudaStream_t, const T*, int64_t, int64_t, T*);                                        \
  template void copy_columns<T>(cudaStream_t, const T*, int64_t, int64_t, int64_t, T*, int64_t);                  \
  template void copy_heads<T>(cudaStream_t, const T*, int64_t, int64_t, int64_t, int, int, T*, int64_t, int64_t); \
  template void add<T>(cudaStream_t, int64_t, const T*, T*);                                                      \
  template void add_bias<T>(cudaStream_t, const float*, int64_t, int64_t, T*);
BATON_INSTANTIATE(float)
BATON_INSTANTIATE(bf16)
#undef BATON_INSTANTIATE
#define BATON_INSTANTIATE(From, T)                                                                                \
  template void gather_rows<From, T>(cudaStream_t, const From*, int64_t, const int32_t*, const int32_t*, int64_t, \
                                     int64_t, T*);
BATON_INSTANTIATE(float, float)
BATON_INSTANTIATE(bf16, bf16)
BATON_INSTANTIATE(bf16, float)
#undef BATON_INSTANTIATE

}  // namespace baton::kernels::cuda
