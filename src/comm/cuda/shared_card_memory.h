// Memory of a card that other cards' kernels and copies address too.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>

#include "base/cuda/cuda_check.h"

namespace baton::comm::cuda {

// Of a pool of its own: cudaDeviceEnablePeerAccess() would open all memory of the card, and then a thread that frees
// some would wait for kernels of other cards, which may be waiting for what this thread has yet to launch.
class SharedCardMemory {
 public:
  // Zeroed. Null if a card cannot reach another. Sets the current card to `card`.
  static std::shared_ptr<SharedCardMemory> make(int card, size_t bytes) {
    BATON_CUDA_CHECK(cudaSetDevice(card), "card {}", card);
    std::shared_ptr<SharedCardMemory> memory(new SharedCardMemory(card));
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location = {cudaMemLocationTypeDevice, card};
    if (!memory->fine(cudaMemPoolCreate(&memory->pool_, &properties))) return nullptr;
    int cards = 0;
    BATON_CUDA_CHECK(cudaGetDeviceCount(&cards), "card {}", card);
    for (int other = 0; other < cards; ++other) {
      int can = 0;
      if (other == card || cudaDeviceCanAccessPeer(&can, other, card) != cudaSuccess || can == 0) continue;
      cudaMemAccessDesc access{};
      access.location = {cudaMemLocationTypeDevice, other};
      access.flags = cudaMemAccessFlagsProtReadWrite;
      if (!memory->fine(cudaMemPoolSetAccess(memory->pool_, &access, 1))) return nullptr;
    }
    void* base = nullptr;
    if (!memory->fine(cudaMallocFromPoolAsync(&base, bytes, memory->pool_, cudaStreamPerThread))) return nullptr;
    memory->base_ = static_cast<std::byte*>(base);
    BATON_CUDA_CHECK(cudaMemsetAsync(base, 0, bytes, cudaStreamPerThread), "{} bytes", bytes);
    BATON_CUDA_CHECK(cudaStreamSynchronize(cudaStreamPerThread), "{} bytes", bytes);
    return memory;
  }
  ~SharedCardMemory() {
    (void)cudaSetDevice(card_);
    if (base_ != nullptr) (void)cudaFree(base_);
    if (pool_ != nullptr) (void)cudaMemPoolDestroy(pool_);
  }
  SharedCardMemory(const SharedCardMemory&) = delete;
  SharedCardMemory& operator=(const SharedCardMemory&) = delete;

  [[nodiscard]] std::byte* base() const { return base_; }

 private:
  explicit SharedCardMemory(int card) : card_(card) {}
  static bool fine(cudaError_t code) {
    if (code != cudaSuccess) (void)cudaGetLastError();
    return code == cudaSuccess;
  }

  int card_;
  cudaMemPool_t pool_ = nullptr;
  std::byte* base_ = nullptr;
};

}  // namespace baton::comm::cuda
