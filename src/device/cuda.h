// What this folder has of CUDA, for code that knows nothing of CUDA's headers: device/cuda/ in a build with CUDA, and
// in every other without_cuda.cc, which knows no card.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "device/memory.h"
#include "device/stream.h"

namespace baton::device {

struct CudaDevice {
  std::string name;
  uint64_t bytes_total = 0;
  uint64_t bytes_free = 0;
};
// The cards that this process may use, by their index; none is no error.
[[nodiscard]] std::vector<CudaDevice> cuda_devices();

// Memory of the processor that cards read and write directly while this lives. `memory` must outlive it.
class HostPin {
 public:
  // kIncompatible if this build or this machine has no card, kResourceExhausted if the system does not grant it.
  static Result<HostPin> make(const Memory& memory);
  HostPin(HostPin&& other) noexcept : base_(std::exchange(other.base_, nullptr)) {}
  HostPin& operator=(HostPin&& other) noexcept {
    std::swap(base_, other.base_);
    return *this;
  }
  ~HostPin();

 private:
  explicit HostPin(std::byte* base) : base_(base) {}
  std::byte* base_ = nullptr;
};

// What Buffer, available_memory and make_stream do for a home of kCuda.
[[nodiscard]] Result<Memory> allocate_cuda(Home home, uint64_t bytes);
void free_cuda(const Memory& memory);
[[nodiscard]] uint64_t available_cuda_memory(Home home);
[[nodiscard]] std::unique_ptr<Stream> make_cuda_stream(Home home);

}  // namespace baton::device
