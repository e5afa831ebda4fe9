// Products of few rows with weights in fp8, for experts.cu and linear.cu alone: each weight is read once at memory's
// rate, or once every so many rows.
#pragma once

#include "kernels/cuda/kernels_cuda.h"

namespace baton::kernels::cuda {

// activated (slots, width) = silu(gate) * up of the slots' rows of x; out (slots, hidden) = activated * down^T. `pairs`
// bounds the slots that there can be; `each` is about how many an expert has.
void few_rows_gate_up(cudaStream_t stream, const bf16* x, int64_t pairs, int64_t each, int choices,
                      const ExpertSlots& slots, const ExpertBank<bf16, fp8>& bank, bf16* activated);
void few_rows_down(cudaStream_t stream, const bf16* activated, int64_t pairs, int64_t each, const ExpertSlots& slots,
                   const ExpertBank<bf16, fp8>& bank, bf16* out);

}  // namespace baton::kernels::cuda
