// What the kernels of this folder share: conversion, reductions, copies into shared memory, tensor core products.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "base/check.h"
#include "kernels/cuda/kernels_cuda.h"

namespace baton::kernels::cuda {

inline void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) check_failed(__FILE__, __LINE__, "no CUDA error", cudaGetErrorString(error));
}
inline void check_launch() { check_cuda(cudaGetLastError()); }

// A kernel of this folder may be set up while the one before it in the stream still runs: it is launched by
// launch_kernel(), and its first statement is begin_kernel(), which waits for all that the one before has written.
// Every kernel must, also one that returns at once, or those behind it would not be behind those before it.
template <class... Parameters, class... Arguments>
void launch_kernel(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   Arguments&&... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}
// In two steps, between which a kernel may read what never changes: weights.
__device__ inline void let_next_kernel_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ inline void wait_for_last_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ inline void begin_kernel() {
  let_next_kernel_begin();
  wait_for_last_kernel();
}
// Multiprocessors of the current device.
int multiprocessors();

template <class Int>
__host__ __device__ constexpr Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(bf16 v) { return __bfloat162float(v); }
__device__ inline float to_float(fp8 v) { return static_cast<float>(v); }
template <class T>
__device__ inline T from_float(float v);
template <>
__device__ inline float from_float<float>(float v) {
  return v;
}
template <>
__device__ inline bf16 from_float<bf16>(float v) {
  return __float2bfloat16_rn(v);
}

template <>
__device__ inline fp8 from_float<fp8>(float v) {
  return fp8(v);  // beyond +-448 it saturates
}

// call.operator()<Kv>() with the type of what the pages hold.
template <class Call>
inline void with_kv_type(tensor::DType dtype, Call call) {
  if (dtype == tensor::DType::kBF16) return call.template operator()<bf16>();
  if (dtype == tensor::DType::kF8E4M3) return call.template operator()<fp8>();
  BATON_CHECK(dtype == tensor::DType::kF32, "pages of {}", tensor::dtype_name(dtype));
  call.template operator()<float>();
}

// 16 bytes of T.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T v[kSize];
};
template <class T>
__device__ inline Pack<T> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}
template <class T>
__device__ inline void store_pack(T* p, const Pack<T>& v) {
  *reinterpret_cast<Pack<T>*>(p) = v;
}
template <class T>
__host__ inline bool packable(const void* p, int64_t stride, size_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0 && stride * sizeof(T) % bytes == 0;
}

__device__ inline uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&v);
}

// The two fp8 values of the low half as bf16, which has them all.
__device__ inline uint32_t fp8_to_bf16(uint32_t pair) {
  const __half2_raw half = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(pair), __NV_E4M3);
  const float2 v = __half22float2(half);
  return pack_bf16(v.x, v.y);
}
// 16 bytes to shared memory: eight values of fp8 as bf16.
__device__ inline void store_converted(uint32_t to, uint32_t low, uint32_t high) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(fp8_to_bf16(low & 0xffff)),
               "r"(fp8_to_bf16(low >> 16)), "r"(fp8_to_bf16(high & 0xffff)), "r"(fp8_to_bf16(high >> 16))
               : "memory");
}

template <int kLanes = 32>
__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int lane = kLanes / 2; lane > 0; lane /= 2) v += __shfl_xor_sync(~0U, v, lane);
  return v;
}
template <int kLanes = 32>
__device__ inline float warp_max(float v) {
#pragma unroll
  for (int lane = kLanes / 2; lane > 0; lane /= 2) v = fmaxf(v, __shfl_xor_sync(~0U, v, lane));
  return v;
}
// Sum over the block, known to every thread. Blocks of at most 1024 threads, a multiple of 32.
__device__ inline float block_sum(float v) {
  __shared__ float part[32];
  v = warp_sum(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32] : 0.0F);
}

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 16 bytes from global to shared memory, past L1.
__device__ inline void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// c (16, 8) += a (16, 16) * b (16, 8). With g = lane / 4 and t = lane % 4, a thread holds of a: rows g, g + 8 of
// columns 2t, 2t+1, then the same of columns 2t + 8, 2t + 9; of b: rows 2t, 2t+1, then 2t + 8, 2t + 9 of column g; of
// c: columns 2t, 2t+1 of row g, then of row g + 8.
__device__ inline void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// k_row() and v_row() of paged_kv.h, on the card; `pages` are the sequence's own.
__device__ inline const std::byte* page_k_row(const PagedKv& kv, const uint32_t* pages, int64_t token, int head,
                                              int value_bytes) {
  const auto page = static_cast<uint32_t>(token) / static_cast<uint32_t>(kv.page_tokens);
  const auto slot = static_cast<uint32_t>(token) - page * static_cast<uint32_t>(kv.page_tokens);
  return kv.pool + pages[page] * kv.page_stride + kv.layer_offset + static_cast<size_t>(head) * kv.head_stride +
         static_cast<size_t>(slot) * kv.k_dim * value_bytes;
}
__device__ inline const std::byte* page_v_row(const PagedKv& kv, const uint32_t* pages, int64_t token, int head,
                                              int value_bytes) {
  const auto page = static_cast<uint32_t>(token) / static_cast<uint32_t>(kv.page_tokens);
  const auto slot = static_cast<uint32_t>(token) - page * static_cast<uint32_t>(kv.page_tokens);
  return kv.pool + pages[page] * kv.page_stride + kv.layer_offset + static_cast<size_t>(head) * kv.head_stride +
         kv.v_offset + static_cast<size_t>(slot) * kv.v_dim * value_bytes;
}

}  // namespace baton::kernels::cuda
