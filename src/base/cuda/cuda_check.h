// Every call of CUDA's runtime is checked: what a caller can handle becomes an Error with cuda_text(), all else stops
// the program. After a kernel that went wrong the card answers nothing more, so that there is no going on.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "base/check.h"

namespace baton {

// "cudaErrorMemoryAllocation: out of memory"
inline std::string cuda_text(cudaError_t code) {
  return std::string(cudaGetErrorName(code)) + ": " + cudaGetErrorString(code);
}

}  // namespace baton

// BATON_CUDA_CHECK(cudaSetDevice(index), "card {}", index);
#define BATON_CUDA_CHECK(call, ...)                                                                   \
  do {                                                                                                \
    if (const cudaError_t baton_cuda_code = (call); baton_cuda_code != cudaSuccess) [[unlikely]]      \
      ::baton::check_failed(                                                                          \
          __FILE__, __LINE__, #call,                                                                  \
          ::baton::cuda_text(baton_cuda_code) + "; " + ::baton::internal::check_detail(__VA_ARGS__)); \
  } while (false)
