// The work of a CudaStream on lists of byte ranges, each list by one kernel that cuts its ranges into tiles, so that
// many small ranges keep a card as busy as one large one. A list travels as the kernel's parameter: nothing of it is
// borrowed, and nothing on the card holds it. Addresses and lengths may be any.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "device/page_sum.h"
#include "tensor/dtype.h"

namespace baton::device {

struct RangeCopy {
  const std::byte* source;  // nullptr: zeros
  std::byte* destination;
  uint64_t length;
};
// By at most `blocks` blocks of 512 threads, so that what else runs on the card keeps the rest of it.
void launch_copies(std::span<const RangeCopy> copies, int blocks, cudaStream_t stream);

struct RangeConversion {
  const std::byte* source;
  std::byte* destination;
  uint64_t values;
};
// See convert.h.
void launch_conversions(std::span<const RangeConversion> conversions, tensor::DType from_type, tensor::DType to_type,
                        int blocks, cudaStream_t stream);

// A layout::WordRun by its address, and to which of the sums it adds.
struct RangeSum {
  const std::byte* base;
  uint64_t length;
  uint64_t row_bytes;
  uint64_t word;
  uint32_t slot;
};
// sums[slot] += the words of the range, modulo 2^128; `sums` is memory of the card.
void launch_sums(std::span<const RangeSum> ranges, const PageKeys& keys, WordSum* sums, int blocks,
                 cudaStream_t stream);
// Moves `count` sums to `room`, pinned memory of the processor, and leaves zeros.
void bring_sums(WordSum* sums, WordSum* room, size_t count, cudaStream_t stream);

}  // namespace baton::device
