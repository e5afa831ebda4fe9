#include "kernels/cuda/pinned_staging.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/cuda/cuda_check.h"
#include "kernels/cuda/step_uploads.h"
#include "kernels/kernels.h"

namespace baton::kernels::cuda {
namespace {

// Asks the system to read what is mapped of a file, beside what is copied meanwhile.
void read_ahead(const std::byte* from, size_t bytes) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(from) / page * page;
  (void)madvise(reinterpret_cast<void*>(begin), reinterpret_cast<uintptr_t>(from) + bytes - begin, MADV_WILLNEED);
}

}  // namespace

PinnedStaging::PinnedStaging(cudaStream_t stream, size_t buffer_bytes) : stream_(stream), buffer_bytes_(buffer_bytes) {}

PinnedStaging::~PinnedStaging() {
  for (const Buffer& buffer : buffers_) {
    (void)cudaEventSynchronize(buffer.taken);
    (void)cudaEventDestroy(buffer.taken);
  }
}

void PinnedStaging::copy_rows(const std::byte* from, size_t stride_bytes, size_t row_bytes, size_t rows,
                              std::byte* to) {
  if (rows == 0 || row_bytes == 0) return;
  read_ahead(from, (rows - 1) * stride_bytes + row_bytes);
  // In terms of the bytes that arrive, which are dense: byte i is of row i / row_bytes.
  const size_t total = rows * row_bytes;
  for (size_t done = 0; done < total;) {
    if (buffers_.size() < kBuffers) {
      next_ = buffers_.size();
      Buffer& made = buffers_.emplace_back();
      made.memory = allocate_pinned(buffer_bytes_);
      BATON_CUDA_CHECK(cudaEventCreateWithFlags(&made.taken, cudaEventDisableTiming), "a buffer");
    }
    Buffer& buffer = buffers_[next_];
    next_ = (next_ + 1) % kBuffers;
    BATON_CUDA_CHECK(cudaEventSynchronize(buffer.taken), "{} bytes", total);
    const size_t bytes = std::min(buffer_bytes_, total - done);
    const auto fill = [&](size_t begin, size_t end) {
      while (begin < end) {
        const size_t row = (done + begin) / row_bytes, at = (done + begin) % row_bytes;
        const size_t n = stride_bytes == row_bytes ? end - begin : std::min(end - begin, row_bytes - at);
        std::memcpy(buffer.memory.get() + begin, from + row * stride_bytes + at, n);
        begin += n;
      }
    };
    constexpr size_t kWorthThreads = size_t{1} << 20;
    if (bytes < kWorthThreads) {
      fill(0, bytes);
    } else {
      on_gemm_threads([&](int part, int parts) {
        const auto i = static_cast<size_t>(part), of = static_cast<size_t>(parts);
        fill(bytes * i / of, bytes * (i + 1) / of);
      });
    }
    BATON_CUDA_CHECK(cudaMemcpyAsync(to + done, buffer.memory.get(), bytes, cudaMemcpyHostToDevice, stream_),
                     "{} bytes", bytes);
    BATON_CUDA_CHECK(cudaEventRecord(buffer.taken, stream_), "{} bytes", bytes);
    done += bytes;
  }
}

}  // namespace baton::kernels::cuda
