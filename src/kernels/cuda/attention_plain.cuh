// Attention for whatever has no kernel of its own: any dimensions, any type.
#pragma once

#include "kernels/cuda/kernels_cuda.h"

namespace baton::kernels::cuda {

// kv_head_of null: head 0. v_dim: that of out; where kv.v_dim is 0, V is the first v_dim values of K. Dimensions are at
// most 1024.
template <class T>
void plain_attention(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences, int q_heads,
                     const int* kv_head_of, const PagedKv& kv, int v_dim, float scale, T* out);
template <class T>
void plain_expanded_attention(cudaStream_t stream, const T* q, int64_t q_row_stride, CardSequences sequences,
                              const ExpandedKv<T>& kv, float scale, T* out);

}  // namespace baton::kernels::cuda
