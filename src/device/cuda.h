// What this folder has of CUDA, for code that knows nothing of CUDA's headers: device/cuda/ in a build with CUDA, and
// in every other without_cuda.cc, which knows no card.
#pragma once

#include <memory>
#include <string>
#include <string_view>
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
// The cards that this process may use; none is no error.
[[nodiscard]] int cuda_device_count();
// The same by their index, which makes a context on each.
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

// How other processes of this machine find memory that a Buffer of this one has on a card: they can read and write all
// of it. At most kCudaShareBytesMax. kIncompatible for any other memory.
inline constexpr size_t kCudaShareBytesMax = 128;
[[nodiscard]] Result<std::string> share_cuda(const Memory& memory);

// Memory that was shared so, mapped for one card of this process while this lives; in the process that it is of, that
// memory itself. The owner may end before: the bytes stay until nobody has them mapped.
class CudaMapping {
 public:
  // For the streams of `user`. kCorrupt for bytes that share_cuda() does not make; kIncompatible if that card does not
  // reach the other, or if the system does not let processes map each other's memory.
  static Result<CudaMapping> open(std::string_view share, Home user);
  CudaMapping(CudaMapping&& other) noexcept
      : memory_(other.memory_), user_(other.user_), mapped_(std::exchange(other.mapped_, nullptr)) {}
  CudaMapping& operator=(CudaMapping&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(user_, other.user_);
    std::swap(mapped_, other.mapped_);
    return *this;
  }
  ~CudaMapping();

  [[nodiscard]] const Memory& memory() const { return memory_; }

 private:
  CudaMapping(Memory memory, Home user, void* mapped) : memory_(memory), user_(user), mapped_(mapped) {}
  Memory memory_;
  Home user_;
  void* mapped_ = nullptr;  // what the card's driver mapped, which may begin before the memory; null: nothing
};

// What Buffer, available_memory and make_stream do for a home of kCuda.
[[nodiscard]] Result<Memory> allocate_cuda(Home home, uint64_t bytes);
void free_cuda(const Memory& memory);
[[nodiscard]] uint64_t available_cuda_memory(Home home);
// `peers`: its kernels copy to and from other cards of this process, too, which then have access to each other, so that
// what one allocates waits for the other's kernels; without, the driver copies. Memory that another process shares is
// reached either way.
[[nodiscard]] std::unique_ptr<Stream> make_cuda_stream(Home home, bool peers = false);

}  // namespace baton::device
