#include "transport/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>

#include "base/fd.h"

namespace baton::transport {

Mapping::~Mapping() {
  if (base_ != nullptr) ::munmap(base_, bytes_);
}

Mapping::Mapping(Mapping&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Result<Mapping> Mapping::shared(int fd, uint64_t bytes) {
  if (bytes == 0 || bytes > uint64_t{1} << 46) return error(ErrorCode::kInvalidArgument, "a slab of {} bytes", bytes);
  void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED)
    return error(ErrorCode::kResourceExhausted, "no room for a slab of {} bytes: {}", bytes, errno_text());
  ::madvise(base, bytes, MADV_DONTDUMP);
  return Mapping(base, bytes);
}

Result<RegionId> RegionTable::add(const device::Memory& memory) {
  if (kind_ && memory.home.kind != *kind_)
    return error(ErrorCode::kIncompatible, "memory of {}: this transport reaches {}", memory.home.to_string(),
                 *kind_ == device::DeviceKind::kCpu ? "the processor's" : "that of cards");
  if (memory.size == 0) return error(ErrorCode::kInvalidArgument, "a region of 0 bytes");
  std::unique_lock lock(mutex_);
  if (regions_.size() >= kRegionsMax) {
    return error(ErrorCode::kResourceExhausted, "{} regions registered: use few large slabs", regions_.size());
  }
  regions_.push_back(memory);
  return RegionId(static_cast<uint32_t>(regions_.size()));
}

Result<Transport::Region> RegionTable::adopt(Mapping slab) {
  const device::Memory memory = device::Memory::of(slab.bytes());
  BATON_ASSIGN(const RegionId id, add(memory));
  std::unique_lock lock(mutex_);
  mappings_.push_back(std::move(slab));
  return Transport::Region{id, memory};
}

Result<Transport::Region> RegionTable::adopt(device::Buffer slab) {
  const device::Memory memory = slab.memory();
  BATON_ASSIGN(const RegionId id, add(memory));
  std::unique_lock lock(mutex_);
  buffers_.push_back(std::move(slab));
  return Transport::Region{id, memory};
}

std::optional<device::Memory> RegionTable::find(RegionId id) const {
  std::shared_lock lock(mutex_);
  if (id.value() == 0 || id.value() > regions_.size()) return std::nullopt;
  return regions_[id.value() - 1];
}

std::set<device::Home> RegionTable::homes() const {
  std::shared_lock lock(mutex_);
  std::set<device::Home> homes;
  for (const device::Memory& region : regions_) homes.insert(region.home);
  return homes;
}

Result<PreparedBlocks> prepare_blocks(const RegionTable& regions, std::span<const Block> blocks) {
  if (blocks.size() > kPostBlocksMax) {
    return error(ErrorCode::kInvalidArgument, "{} blocks in one post, the limit is {}", blocks.size(), kPostBlocksMax);
  }
  PreparedBlocks out;
  out.blocks.reserve(blocks.size());
  for (const Block& b : blocks) {
    const auto region = regions.find(b.local_region);
    if (!region) return error(ErrorCode::kInvalidArgument, "local region {} is not registered", b.local_region);
    if (!fits(b.local_offset, b.length, region->size)) {
      return error(ErrorCode::kInvalidArgument, "block of {} bytes at offset {} leaves local region {} of {} bytes",
                   b.length, b.local_offset, b.local_region, region->size);
    }
    if (b.length == 0) continue;
    // No overflow: at most 2^20 blocks of at most 2^46 bytes would be 2^66, so the sum is checked too.
    if (__builtin_add_overflow(out.bytes, b.length, &out.bytes)) {
      return error(ErrorCode::kInvalidArgument, "blocks of one post add up to more than 2^64 bytes");
    }
    const std::byte* from = region->base + b.local_offset;
    if (!out.blocks.empty()) {
      SourceBlock& last = out.blocks.back();
      if (last.local_region == b.local_region && last.region == b.remote_region && last.from + last.length == from &&
          last.offset + last.length == b.remote_offset && b.remote_offset >= last.offset) {
        last.length += b.length;
        continue;
      }
    }
    out.blocks.push_back({from, b.local_region, b.remote_region, b.remote_offset, b.length});
  }
  return out;
}

Status PostBudget::take(uint64_t cost) {
  uint64_t used = used_.load();
  do {
    if (used != 0 && (cost > limit_ || used > limit_ - cost)) {
      return error(ErrorCode::kResourceExhausted,
                   "{} of {} bytes are queued for this peer and the post needs {}: post again after an event", used,
                   limit_, cost);
    }
  } while (!used_.compare_exchange_weak(used, used + cost));
  return {};
}

Result<RangeSet> RangeSet::make(const RegionTable& regions, std::span<const WindowRange> ranges) {
  if (ranges.empty() || ranges.size() > kWindowRangesMax) {
    return error(ErrorCode::kInvalidArgument, "a window of {} ranges; 1 to {} are possible", ranges.size(),
                 kWindowRangesMax);
  }
  std::vector<WindowRange> sorted(ranges.begin(), ranges.end());
  for (const WindowRange& r : sorted) {
    const auto region = regions.find(r.region);
    if (!region)
      return error(ErrorCode::kInvalidArgument, "a window over region {}, which is not registered", r.region);
    if (r.length == 0 || !fits(r.offset, r.length, region->size)) {
      return error(ErrorCode::kInvalidArgument, "a window over {} bytes at offset {} of region {} of {} bytes",
                   r.length, r.offset, r.region, region->size);
    }
  }
  std::sort(sorted.begin(), sorted.end(), [](const WindowRange& a, const WindowRange& b) {
    return a.region != b.region ? a.region < b.region : a.offset < b.offset;
  });
  RangeSet out;
  for (const WindowRange& r : sorted) {
    if (!out.ranges_.empty()) {
      WindowRange& last = out.ranges_.back();
      if (last.region == r.region && r.offset <= last.offset + last.length) {
        last.length = std::max(last.offset + last.length, r.offset + r.length) - last.offset;
        continue;
      }
    }
    out.ranges_.push_back(r);
  }
  return out;
}

RangeSet RangeSet::from_sorted(std::vector<WindowRange> ranges) {
  RangeSet out;
  out.ranges_ = std::move(ranges);
  return out;
}

bool RangeSet::contains(RegionId region, uint64_t offset, uint64_t length) const {
  // The last range that starts at or before the offset.
  auto after = std::upper_bound(ranges_.begin(), ranges_.end(), std::pair(region, offset),
                                [](const auto& key, const WindowRange& r) {
                                  return key.first != r.region ? key.first < r.region : key.second < r.offset;
                                });
  if (after == ranges_.begin()) return false;
  const WindowRange& r = *std::prev(after);
  return r.region == region && fits(offset - r.offset, length, r.length);
}

}  // namespace baton::transport
