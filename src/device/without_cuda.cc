#include "base/check.h"
#include "device/cuda.h"

namespace baton::device {
namespace {

constexpr const char* kNoCuda = "this build computes on the CPU only; ./dev build cuda makes one with CUDA";

}  // namespace

int cuda_device_count() { return 0; }
std::vector<CudaDevice> cuda_devices() { return {}; }

Result<HostPin> HostPin::make(const Memory& memory) {
  return error(ErrorCode::kIncompatible, "{} bytes for cards to reach: {}", memory.size, kNoCuda);
}
HostPin::~HostPin() = default;

Result<std::string> share_cuda(const Memory& memory) {
  return error(ErrorCode::kIncompatible, "{} bytes of {} for other processes: {}", memory.size, memory.home.to_string(),
               kNoCuda);
}

Result<CudaMapping> CudaMapping::open(std::string_view share, Home user) {
  return error(ErrorCode::kIncompatible, "memory of a card by a name of {} bytes, for {}: {}", share.size(),
               user.to_string(), kNoCuda);
}
CudaMapping::~CudaMapping() = default;

Result<Memory> allocate_cuda(Home home, uint64_t bytes) {
  return error(ErrorCode::kIncompatible, "{} bytes on {}: {}", bytes, home.to_string(), kNoCuda);
}

void free_cuda(const Memory& memory) { BATON_CHECK(false, "memory of {}: {}", memory.home.to_string(), kNoCuda); }

uint64_t available_cuda_memory(Home home) {
  BATON_CHECK(false, "the memory of {}: {}", home.to_string(), kNoCuda);
  return 0;
}

std::unique_ptr<Stream> make_cuda_stream(Home home, bool) {
  BATON_CHECK(false, "a stream on {}: {}", home.to_string(), kNoCuda);
  return nullptr;
}

}  // namespace baton::device
