#include "device/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/fd.h"
#include "device/cuda.h"

namespace baton::device {
namespace {

constexpr uint64_t kBytesMax = uint64_t{1} << 46;
constexpr uint64_t kHugePage = uint64_t{2} << 20;

std::optional<uint64_t> read_number(const char* path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

}  // namespace

std::string Home::to_string() const {
  if (kind == DeviceKind::kCpu) return "cpu";
  return index == kCardUnseen ? "another cuda device" : "cuda:" + std::to_string(index);
}

Memory Memory::part(uint64_t offset, uint64_t length) const {
  BATON_CHECK(offset <= size && length <= size - offset, "{} bytes at {} of {}", length, offset, size);
  return {home, base + offset, length};
}

std::span<std::byte> Memory::host() const {
  BATON_CHECK(home.kind == DeviceKind::kCpu, "the processor does not reach the memory of {}", home.to_string());
  return {base, size};
}

Buffer::~Buffer() {
  if (memory_.base == nullptr) return;
  if (memory_.home.kind == DeviceKind::kCuda) {
    free_cuda(memory_);
  } else {
    ::munmap(memory_.base, memory_.size);
  }
}

Buffer::Buffer(Buffer&& other) noexcept : memory_(std::exchange(other.memory_, {})) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(memory_, other.memory_);
  return *this;
}

Result<Buffer> Buffer::allocate(Home home, uint64_t bytes) {
  if (bytes == 0 || bytes > kBytesMax) return error(ErrorCode::kInvalidArgument, "a buffer of {} bytes", bytes);
  if (home.kind == DeviceKind::kCuda) {
    BATON_ASSIGN(const Memory memory, allocate_cuda(home, bytes));
    return Buffer(memory);
  }
  void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED)
    return error(ErrorCode::kResourceExhausted, "no room for a buffer of {} bytes: {}", bytes, errno_text());
  ::madvise(base, bytes, MADV_DONTDUMP);
  // KV is read from end to end for every token: by small pages that is a miss of the page tables every 4 KiB. Where the
  // system grants none, nothing is lost.
  if (bytes >= kHugePage) (void)::madvise(base, bytes, MADV_HUGEPAGE);
  return Buffer({home, static_cast<std::byte*>(base), bytes});
}

uint64_t available_memory(Home home) {
  if (home.kind == DeviceKind::kCuda) return available_cuda_memory(home);
  uint64_t available = std::numeric_limits<uint64_t>::max();
  std::ifstream meminfo("/proc/meminfo");
  std::string word;
  while (meminfo >> word) {
    uint64_t kib = 0;
    if (word == "MemAvailable:" && meminfo >> kib) available = kib * 1024;
  }
  const auto limit = read_number("/sys/fs/cgroup/memory.max");
  const auto used = read_number("/sys/fs/cgroup/memory.current");
  if (limit && used) available = std::min(available, *limit > *used ? *limit - *used : 0);
  return available;
}

}  // namespace baton::device
