// From the processor's memory, a mapped file's above all, to a card's at the speed of the disk or the link.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace baton::kernels::cuda {

// Bytes go through a few pinned buffers, which the GEMM threads of the calling thread fill (and so read the disk at
// many places at once) while the card takes what was filled before. The driver's own copy from memory that is not
// pinned is one thread's. One thread at a time; the buffers last as long as this.
class PinnedStaging {
 public:
  static constexpr size_t kBufferBytes = size_t{8} << 20;
  explicit PinnedStaging(cudaStream_t stream, size_t buffer_bytes = kBufferBytes);
  ~PinnedStaging();
  PinnedStaging(const PinnedStaging&) = delete;
  PinnedStaging& operator=(const PinnedStaging&) = delete;

  // to (rows, row_bytes), dense on the card = rows of row_bytes each, stride_bytes apart. Returns when `from` has been
  // read; the card has it in the order of the stream.
  void copy_rows(const std::byte* from, size_t stride_bytes, size_t row_bytes, size_t rows, std::byte* to);

 private:
  static constexpr size_t kBuffers = 4;
  struct Buffer {
    std::shared_ptr<std::byte> memory;
    cudaEvent_t taken = nullptr;  // by the card
  };

  cudaStream_t stream_;
  size_t buffer_bytes_;
  std::vector<Buffer> buffers_;  // made when they are first needed
  size_t next_ = 0;
};

}  // namespace baton::kernels::cuda
