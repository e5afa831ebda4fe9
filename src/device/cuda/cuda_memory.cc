#include "base/cuda/cuda_check.h"
#include "device/cuda.h"

namespace baton::device {
namespace {

constexpr uint64_t kDriverBlock = uint64_t{2} << 20;

}  // namespace

int cuda_device_count() {
  int count = 0;
  // Without a card or a driver the call fails, and says so again to whoever asks for the last error.
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();
  return 0;
}

std::vector<CudaDevice> cuda_devices() {
  std::vector<CudaDevice> devices(static_cast<size_t>(cuda_device_count()));
  for (size_t i = 0; i < devices.size(); ++i) {
    cudaDeviceProp properties{};
    size_t free = 0, total = 0;
    BATON_CUDA_CHECK(cudaGetDeviceProperties(&properties, static_cast<int>(i)), "card {}", i);
    BATON_CUDA_CHECK(cudaSetDevice(static_cast<int>(i)), "card {}", i);
    BATON_CUDA_CHECK(cudaMemGetInfo(&free, &total), "card {}", i);
    devices[i] = {properties.name, total, free};
  }
  return devices;
}

Result<HostPin> HostPin::make(const Memory& memory) {
  const std::span<std::byte> bytes = memory.host();
  const int cards = cuda_device_count();
  if (cards == 0)
    return error(ErrorCode::kIncompatible, "{} bytes for cards to reach: this machine has no card", bytes.size());
  const cudaError_t code =
      cudaHostRegister(bytes.data(), bytes.size(), cudaHostRegisterPortable | cudaHostRegisterMapped);
  if (code == cudaSuccess) return HostPin(bytes.data());
  (void)cudaGetLastError();
  return error(ErrorCode::kResourceExhausted, "{} bytes are not pinned for {} cards: {}", bytes.size(), cards,
               cuda_text(code));
}

HostPin::~HostPin() {
  if (base_ != nullptr) BATON_CUDA_CHECK(cudaHostUnregister(base_), "pinned memory");
}

Result<Memory> allocate_cuda(Home home, uint64_t bytes) {
  const int cards = cuda_device_count();
  if (home.index < 0 || home.index >= cards)
    return error(ErrorCode::kIncompatible, "{} bytes on {}: this machine has {} cards, counted from 0", bytes,
                 home.to_string(), cards);
  BATON_CUDA_CHECK(cudaSetDevice(home.index), "{}", home.to_string());
  // Of cudaMalloc, because other processes of the machine can map no other kind by its handle.
  // In whole blocks of the driver's, because a handle names whole ones: nothing else is to lie beside pages that others
  // map.
  const uint64_t whole = (bytes + kDriverBlock - 1) / kDriverBlock * kDriverBlock;
  void* base = nullptr;
  const cudaError_t code = cudaMalloc(&base, whole);
  if (code == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return error(ErrorCode::kResourceExhausted, "no room for a buffer of {} bytes on {}, which has {} left", bytes,
                 home.to_string(), available_cuda_memory(home));
  }
  BATON_CUDA_CHECK(code, "{} bytes on {}", bytes, home.to_string());
  BATON_CUDA_CHECK(cudaMemset(base, 0, bytes), "{} bytes on {}", bytes, home.to_string());
  BATON_CUDA_CHECK(cudaDeviceSynchronize(), "{} bytes on {}", bytes, home.to_string());
  return Memory{home, static_cast<std::byte*>(base), bytes};
}

void free_cuda(const Memory& memory) {
  BATON_CUDA_CHECK(cudaSetDevice(memory.home.index), "{}", memory.home.to_string());
  BATON_CUDA_CHECK(cudaFree(memory.base), "{} bytes of {}", memory.size, memory.home.to_string());
}

uint64_t available_cuda_memory(Home home) {
  size_t free = 0, total = 0;
  BATON_CUDA_CHECK(cudaSetDevice(home.index), "{}", home.to_string());
  BATON_CUDA_CHECK(cudaMemGetInfo(&free, &total), "{}", home.to_string());
  return free;
}

}  // namespace baton::device
