#include "transport/tcp_staging.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::transport::tcp {

Staging::Staging(const StagingOptions& options)
    : options_(options), out_(options.make_stream), in_(options.make_stream) {}

Status Staging::admit(const device::Memory& memory) {
  if (!stages(memory)) return {};
  const bool on_card = memory.home.kind == device::DeviceKind::kCuda;
  if (on_card) {
    const int cards = device::cuda_device_count();
    if (memory.home.index < 0 || memory.home.index >= cards)
      return error(ErrorCode::kIncompatible, "memory of {}: this process reaches {} cards", memory.home.to_string(),
                   cards);
  }
  std::lock_guard lock(mutex_);
  if (slab_.memory().size == 0) {
    BATON_ASSIGN(device::Buffer slab, device::Buffer::allocate({}, (kChunksOut + kChunksIn) * kChunkBytes));
    std::byte* at = slab.memory().base;
    for (size_t i = 0; i < kChunksOut; ++i, at += kChunkBytes) out_.free.push_back(at);
    for (size_t i = 0; i < kChunksIn; ++i, at += kChunkBytes) in_.free.push_back(at);
    slab_ = std::move(slab);
  }
  if (on_card && !pin_) {
    BATON_ASSIGN(device::HostPin pin, device::HostPin::make(slab_.memory()));
    pin_.emplace(std::move(pin));
  }
  used_ = true;
  return {};
}

std::unique_ptr<Staging::Chunk> Staging::take(Way way) {
  std::vector<std::byte*>& free = side(way).free;
  if (free.empty()) return nullptr;
  const device::Memory memory{{}, free.back(), kChunkBytes};
  free.pop_back();
  return std::make_unique<Chunk>(this, way, memory);
}

Staging::Chunk::~Chunk() {
  for (const std::unique_ptr<device::Event>& event : events_) event->wait();
  staging_->side(way_).free.push_back(memory_.base);
}

void Staging::Chunk::copy(const device::Memory& pages, std::span<const layout::Copy> copies) {
  device::Stream& stream = staging_->side(way_).streams.of(pages);
  if (way_ == Way::kOut) {
    stream.copy(pages, memory_, copies);
  } else {
    stream.copy(memory_, pages, copies);
  }
  events_.push_back(stream.record());
}

bool Staging::Chunk::copied() {
  std::erase_if(events_, [](const auto& event) { return event->done(); });
  return events_.empty();
}

}  // namespace baton::transport::tcp
