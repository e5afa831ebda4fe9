// Memory of a card and of the processor, and what the processor writes for a step.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/cuda/cuda_check.h"

namespace baton::kernels::cuda {

// Of the current card.
inline std::shared_ptr<std::byte> allocate_on_card(size_t bytes) {
  void* memory = nullptr;
  BATON_CUDA_CHECK(cudaMalloc(&memory, std::max<size_t>(bytes, 1)), "{} bytes", bytes);
  return {static_cast<std::byte*>(memory), [](std::byte* p) { (void)cudaFree(p); }};
}
inline std::shared_ptr<std::byte> allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  BATON_CUDA_CHECK(cudaMallocHost(&memory, std::max<size_t>(bytes, 1)), "{} bytes", bytes);
  return {static_cast<std::byte*>(memory), [](std::byte* p) { (void)cudaFreeHost(p); }};
}

// Copied piece by piece, through pinned memory that holds a piece until the card has it.
class StepUploads {
 public:
  // When the card has done everything of the step before.
  void clear() {
    for (Chunk& chunk : chunks_) chunk.used = 0;
  }
  // Where the bytes will be for whatever follows in the stream, until clear().
  const std::byte* add(std::span<const std::byte> bytes, cudaStream_t stream) {
    auto chunk =
        std::find_if(chunks_.begin(), chunks_.end(), [&](const Chunk& c) { return c.size - c.used >= bytes.size(); });
    if (chunk == chunks_.end()) {
      const size_t size = std::max(kChunk, bytes.size());
      chunk = chunks_.insert(chunks_.end(), {allocate_pinned(size), allocate_on_card(size), size, 0});
    }
    const size_t at = chunk->used;
    chunk->used = std::min(chunk->size, (at + bytes.size() + kAlignment - 1) / kAlignment * kAlignment);
    if (bytes.empty()) return chunk->card.get() + at;
    std::memcpy(chunk->host.get() + at, bytes.data(), bytes.size());
    BATON_CUDA_CHECK(
        cudaMemcpyAsync(chunk->card.get() + at, chunk->host.get() + at, bytes.size(), cudaMemcpyHostToDevice, stream),
        "{} bytes of a step", bytes.size());
    return chunk->card.get() + at;
  }

 private:
  static constexpr size_t kChunk = size_t{4} << 20, kAlignment = 256;
  struct Chunk {
    std::shared_ptr<std::byte> host, card;
    size_t size, used;
  };
  std::vector<Chunk> chunks_;
};

}  // namespace baton::kernels::cuda
