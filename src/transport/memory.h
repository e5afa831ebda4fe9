// The memory a transport serves: mapped slabs, the table of regions, and the two checks made before any byte moves: the
// writer's on its own blocks, the owner's on where they go.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <shared_mutex>
#include <span>
#include <vector>

#include "transport/transport.h"

namespace baton::transport {

// A mapping, unmapped when destroyed. Kept out of core files: page bytes are users' text.
class Mapping {
 public:
  Mapping() = default;
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;

  // `fd` from its start, shared, readable and writable. kResourceExhausted if the system has no room.
  static Result<Mapping> shared(int fd, uint64_t bytes);

  [[nodiscard]] std::span<std::byte> bytes() const { return {static_cast<std::byte*>(base_), bytes_}; }

 private:
  Mapping(void* base, uint64_t bytes) : base_(base), bytes_(bytes) {}
  void* base_ = nullptr;
  uint64_t bytes_ = 0;
};

// offset + length <= size, without overflow.
[[nodiscard]] constexpr bool fits(uint64_t offset, uint64_t length, uint64_t size) {
  return offset <= size && length <= size - offset;
}

// Regions of one transport. They are added and never removed. Ids count from 1, so that a default RegionId names
// nothing. Thread safe.
class RegionTable {
 public:
  // `kind`: of the devices that the transport reaches; nullopt: any, which is then the transport's to check.
  explicit RegionTable(std::optional<device::DeviceKind> kind = device::DeviceKind::kCpu) : kind_(kind) {}

  // kInvalidArgument for empty memory, kIncompatible for what the transport does not reach, kResourceExhausted after
  // kRegionsMax.
  Result<RegionId> add(const device::Memory& memory);
  // The same for memory that the table keeps.
  Result<Transport::Region> adopt(Mapping slab);
  Result<Transport::Region> adopt(device::Buffer slab);
  [[nodiscard]] std::optional<device::Memory> find(RegionId id) const;
  [[nodiscard]] std::set<device::Home> homes() const;

  static constexpr size_t kRegionsMax = 256;

 private:
  const std::optional<device::DeviceKind> kind_;
  mutable std::shared_mutex mutex_;
  std::vector<device::Memory> regions_;
  std::vector<Mapping> mappings_;
  std::vector<device::Buffer> buffers_;
};

// A block whose source has been found and checked; where it goes is for the owner to check.
struct SourceBlock {
  const std::byte* from = nullptr;
  RegionId local_region;  // which `from` lies in
  RegionId region;
  uint64_t offset = 0;
  uint64_t length = 0;
};

struct PreparedBlocks {
  std::vector<SourceBlock> blocks;  // none is empty; neighbours on both sides are merged
  uint64_t bytes = 0;
  // What the post holds of a bounded queue: its bytes and what its list costs us.
  [[nodiscard]] uint64_t cost() const { return bytes + blocks.size() * sizeof(SourceBlock) + 256; }
};

inline constexpr size_t kPostBlocksMax = 1 << 20;

// kInvalidArgument: a block outside its local region, or too many.
Result<PreparedBlocks> prepare_blocks(const RegionTable& regions, std::span<const Block> blocks);

// Bytes outstanding to one peer. One post is always let in, so that a large one cannot starve. Thread safe.
class PostBudget {
 public:
  explicit PostBudget(uint64_t limit) : limit_(limit) {}
  Status take(uint64_t cost);
  void give_back(uint64_t cost) { used_.fetch_sub(cost); }

 private:
  const uint64_t limit_;
  std::atomic<uint64_t> used_{0};
};

// The ranges of a window, sorted and merged.
class RangeSet {
 public:
  // kInvalidArgument: none, too many, empty, or outside `regions`.
  static Result<RangeSet> make(const RegionTable& regions, std::span<const WindowRange> ranges);
  // From ranges that make() has sorted before (another process's).
  static RangeSet from_sorted(std::vector<WindowRange> ranges);
  [[nodiscard]] bool contains(RegionId region, uint64_t offset, uint64_t length) const;
  [[nodiscard]] const std::vector<WindowRange>& ranges() const { return ranges_; }

 private:
  std::vector<WindowRange> ranges_;
};

inline constexpr size_t kWindowRangesMax = 1 << 18;

}  // namespace baton::transport
