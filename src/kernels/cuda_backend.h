// The backend of a card.
#pragma once

#include <memory>

#include "base/result.h"
#include "kernels/backend.h"

namespace baton::kernels {

// On card `index`. Compute kF32 keeps weights and activations in float32, kBF16 in bfloat16. kIncompatible if this
// build has no CUDA or the machine no such card.
[[nodiscard]] Result<std::unique_ptr<Backend>> make_cuda_backend(Compute compute, int index);

}  // namespace baton::kernels
