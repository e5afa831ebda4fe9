// Memory of a card and of the processor, and what the processor writes for a step.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
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

// In pinned memory, from which the card has it with send().
//
// Each piece has room for the next power of two of its size: the pieces of steps that differ little lie alike. The
// processor writes two steps in turn, so that it may be one ahead of the card, which has one place for both.
class StepUploads {
 public:
  // When the card has everything of the step before the last.
  void clear() {
    for (Chunk& chunk : chunks_) {
      std::swap(chunk.host, chunk.host_before);
      chunk.used = chunk.sent = 0;
    }
    places_ = 0;
  }
  // Where the bytes will be for what follows send() in the stream, until clear().
  const std::byte* add(std::span<const std::byte> bytes) {
    const size_t room = std::bit_ceil(std::max(bytes.size(), kAlignment));
    auto chunk = std::find_if(chunks_.begin(), chunks_.end(), [&](const Chunk& c) { return c.size - c.used >= room; });
    if (chunk == chunks_.end()) {
      const size_t size = std::max(kChunk, room);
      chunk = chunks_.insert(chunks_.end(),
                             {allocate_pinned(size), allocate_pinned(size), allocate_on_card(size), size, 0, 0});
    }
    const size_t at = chunk->used;
    chunk->used += room;
    if (!bytes.empty()) std::memcpy(chunk->host.get() + at, bytes.data(), bytes.size());
    const std::byte* to = chunk->card.get() + at;
    places_ = (places_ ^ reinterpret_cast<uintptr_t>(to)) * 0x9e3779b97f4a7c15;
    return to;
  }
  void send(cudaStream_t stream) {
    for (Chunk& chunk : chunks_) {
      if (chunk.used == chunk.sent) continue;
      BATON_CUDA_CHECK(cudaMemcpyAsync(chunk.card.get() + chunk.sent, chunk.host.get() + chunk.sent,
                                       chunk.used - chunk.sent, cudaMemcpyHostToDevice, stream),
                       "{} bytes of a step", chunk.used - chunk.sent);
      chunk.sent = chunk.used;
    }
  }
  // Equal where all pieces of two steps lie in the same places.
  [[nodiscard]] uint64_t places() const { return places_; }

 private:
  static constexpr size_t kChunk = size_t{4} << 20, kAlignment = 256;
  struct Chunk {
    std::shared_ptr<std::byte> host, host_before, card;
    size_t size, used, sent;
  };
  std::vector<Chunk> chunks_;
  uint64_t places_ = 0;
};

}  // namespace baton::kernels::cuda
