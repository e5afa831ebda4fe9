#include <cuda.h>

#include <cstring>
#include <optional>

#include "base/byte_io.h"
#include "base/cuda/cuda_check.h"
#include "base/random.h"
#include "device/cuda.h"

namespace baton::device {
namespace {

constexpr uint32_t kMagic = 0x434e5442;  // "BTNC"

// A card's own name, by which processes that number cards differently mean the same one.
std::string uuid_of(int card) {
  cudaDeviceProp properties{};
  BATON_CUDA_CHECK(cudaGetDeviceProperties(&properties, card), "card {}", card);
  return {properties.uuid.bytes, sizeof(properties.uuid.bytes)};
}

std::optional<int> find_card(std::string_view uuid) {
  const int cards = cuda_device_count();
  for (int card = 0; card < cards; ++card) {
    if (uuid_of(card) == uuid) return card;
  }
  return std::nullopt;
}

struct DriverAllocation {
  uint64_t base = 0, size = 0;
};

// The driver's whole allocation that an address of the current card lies in, if it does.
std::optional<DriverAllocation> allocation_of(const void* address) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  BATON_CUDA_CHECK(
      cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &function, 12000, cudaEnableDefault, &found),
      "the driver");
  BATON_CHECK(found == cudaDriverEntryPointSuccess, "the driver has no cuMemGetAddressRange");
  CUdeviceptr base = 0;
  size_t size = 0;
  const CUresult code =
      reinterpret_cast<decltype(&cuMemGetAddressRange)>(function)(&base, &size, reinterpret_cast<CUdeviceptr>(address));
  if (code != CUDA_SUCCESS) return std::nullopt;
  return DriverAllocation{base, size};
}

// Whether `size` bytes from `offset` on lie in it; whoever names memory may lie.
bool holds(const std::optional<DriverAllocation>& allocation, uint64_t offset, uint64_t size) {
  return allocation && offset <= allocation->size && size <= allocation->size - offset;
}

// Names this process among all that may be told of its memory.
const Incarnation& this_process() {
  static const Incarnation drawn = draw_incarnation();
  return drawn;
}

struct CudaShare {
  Incarnation process;
  uint64_t address = 0;  // in that process
  std::string uuid;
  cudaIpcMemHandle_t handle{};
  uint64_t offset = 0, size = 0;
};

Result<CudaShare> decode_share(std::string_view bytes) {
  ByteReader in(bytes);
  const uint32_t magic = in.number<uint32_t>();
  CudaShare share;
  share.process = in.incarnation();
  share.address = in.number<uint64_t>();
  share.uuid = in.text<uint8_t>(16);
  const std::string handle = in.text<uint8_t>(sizeof(share.handle));
  share.offset = in.number<uint64_t>();
  share.size = in.number<uint64_t>();
  if (!in.complete() || magic != kMagic || handle.size() != sizeof(share.handle) || share.size == 0)
    return error(ErrorCode::kCorrupt, "{} bytes do not name memory of a card", bytes.size());
  std::memcpy(&share.handle, handle.data(), sizeof(share.handle));
  return share;
}

}  // namespace

Result<std::string> share_cuda(const Memory& memory) {
  cudaPointerAttributes attributes{};
  if (memory.home.kind != DeviceKind::kCuda || memory.size == 0 ||
      cudaPointerGetAttributes(&attributes, memory.base) != cudaSuccess || attributes.type != cudaMemoryTypeDevice ||
      attributes.device != memory.home.index) {
    (void)cudaGetLastError();
    return error(ErrorCode::kIncompatible, "{} bytes of {} are no memory of that card", memory.size,
                 memory.home.to_string());
  }
  BATON_CUDA_CHECK(cudaSetDevice(memory.home.index), "{}", memory.home.to_string());
  cudaIpcMemHandle_t handle{};
  if (const cudaError_t code = cudaIpcGetMemHandle(&handle, memory.base); code != cudaSuccess) {
    (void)cudaGetLastError();
    return error(ErrorCode::kIncompatible, "{} bytes of {} cannot be shared with other processes: {}", memory.size,
                 memory.home.to_string(), cuda_text(code));
  }
  std::string bytes;
  ByteWriter out(&bytes);
  out.number(kMagic);
  out.incarnation(this_process());
  out.number(reinterpret_cast<uint64_t>(memory.base));
  out.text<uint8_t>(uuid_of(memory.home.index));
  out.text<uint8_t>({reinterpret_cast<const char*>(&handle), sizeof(handle)});
  // A handle names the whole allocation, which may begin before what the runtime gave us.
  const std::optional<DriverAllocation> allocation = allocation_of(memory.base);
  const uint64_t offset = reinterpret_cast<uint64_t>(memory.base) - (allocation ? allocation->base : 0);
  BATON_CHECK(holds(allocation, offset, memory.size), "{} bytes of {}", memory.size, memory.home.to_string());
  out.number(offset);
  out.number(memory.size);
  BATON_CHECK(bytes.size() <= kCudaShareBytesMax, "a name of {} bytes", bytes.size());
  return bytes;
}

Result<CudaMapping> CudaMapping::open(std::string_view bytes, Home user) {
  BATON_ASSIGN(const CudaShare share, decode_share(bytes));
  // The driver does not let a process map its own memory a second time.
  if (share.process == this_process()) {
    const std::optional<int> card = find_card(share.uuid);
    if (card) BATON_CUDA_CHECK(cudaSetDevice(*card), "card {}", *card);
    const auto allocation = card ? allocation_of(reinterpret_cast<void*>(share.address)) : std::nullopt;
    if (!allocation || !holds(allocation, share.address - allocation->base, share.size))
      return error(ErrorCode::kCorrupt, "{} bytes of this process that are on none of its cards", share.size);
    return CudaMapping({{DeviceKind::kCuda, *card}, reinterpret_cast<std::byte*>(share.address), share.size}, user,
                       nullptr);
  }
  // For the card that works with it: one that lies on another card is not reached through that card's mapping.
  BATON_CUDA_CHECK(cudaSetDevice(user.index), "{}", user.to_string());
  void* mapped = nullptr;
  if (const cudaError_t code = cudaIpcOpenMemHandle(&mapped, share.handle, cudaIpcMemLazyEnablePeerAccess);
      code != cudaSuccess) {
    (void)cudaGetLastError();
    return error(ErrorCode::kIncompatible,
                 "{} bytes of another process cannot be mapped for {}: {}; where GPUs are not linked, or processes are "
                 "kept apart (containers without a common IPC namespace), use tcp",
                 share.size, user.to_string(), cuda_text(code));
  }
  // Where the driver tells.
  if (const auto allocation = allocation_of(mapped); allocation && !holds(allocation, share.offset, share.size)) {
    (void)cudaIpcCloseMemHandle(mapped);
    return error(ErrorCode::kCorrupt, "{} bytes at {} of another process's allocation, which has fewer", share.size,
                 share.offset);
  }
  // Of another card it is as if that were not seen here: the mapping is all that is needed, while peer access between
  // two cards of this process would make every allocation on one wait for the other.
  const Home home{DeviceKind::kCuda, find_card(share.uuid) == user.index ? user.index : kCardUnseen};
  return CudaMapping({home, static_cast<std::byte*>(mapped) + share.offset, share.size}, user, mapped);
}

CudaMapping::~CudaMapping() {
  if (mapped_ == nullptr) return;
  BATON_CUDA_CHECK(cudaSetDevice(user_.index), "{}", user_.to_string());
  BATON_CUDA_CHECK(cudaIpcCloseMemHandle(mapped_), "memory of another process on {}", memory_.home.to_string());
}

}  // namespace baton::device
