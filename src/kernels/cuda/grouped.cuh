// Grouped products of many rows, for experts.cu and linear.cu alone.
#pragma once

#include "kernels/cuda/kernels_cuda.h"

namespace baton::kernels::cuda {

// activated (slots, width) = silu(gate) * up of the slots' rows of x; out (slots, hidden) = activated * down^T.
// slots_max bounds the slots that there can be. hidden and width are multiples of 8.
void grouped_gate_up(cudaStream_t stream, const bf16* x, int64_t slots_max, int choices, const ExpertSlots& slots,
                     const ExpertBank<bf16>& bank, bf16* activated);
void grouped_down(cudaStream_t stream, const bf16* activated, int64_t slots_max, const ExpertSlots& slots,
                  const ExpertBank<bf16>& bank, bf16* out);
// The same in fp8 on both sides.
void grouped_gate_up(cudaStream_t stream, const Fp8Rows& x, int64_t slots_max, int choices, const ExpertSlots& slots,
                     const ExpertBank<bf16, fp8>& bank, bf16* activated);
void grouped_down(cudaStream_t stream, const Fp8Rows& activated, int64_t slots_max, const ExpertSlots& slots,
                  const ExpertBank<bf16, fp8>& bank, bf16* out);
// y (m, n; rows y_stride apart, a multiple of 2) = x * W^T.
void dense_fp8(cudaStream_t stream, const Fp8Rows& x, const Fp8Weight& w, bf16* y, int64_t y_stride);

}  // namespace baton::kernels::cuda
