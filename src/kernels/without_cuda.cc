#include "kernels/cuda_backend.h"

namespace baton::kernels {

Result<std::unique_ptr<Backend>> make_cuda_backend(Compute, int index) {
  return error(ErrorCode::kIncompatible,
               "cuda:{}: this build computes on the CPU only; ./dev build cuda makes one with CUDA", index);
}

}  // namespace baton::kernels
