// Page bytes that the processor does not reach go between pages and socket through chunks of pinned memory, which their
// device reads and writes at the rate of its link. The chunks are few and made once, so that what lies between a card
// and the network is bounded.
//
// Used by the I/O thread only, but for what says otherwise.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "device/cuda.h"
#include "device/memory.h"
#include "device/stream.h"
#include "transport/make_transport.h"

namespace baton::transport::tcp {

enum class Way { kOut, kIn };

class Staging {
 public:
  explicit Staging(const StagingOptions& options);
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Thread safe, called before the memory is named to the I/O thread: room for its chunks. kIncompatible if this build
  // or this machine has not its device, kResourceExhausted if the system grants no pinned memory.
  Status admit(const device::Memory& memory);
  // Some memory was admitted whose bytes go through chunks. Thread safe.
  [[nodiscard]] bool used() const { return used_; }
  // This memory's do. Thread safe.
  [[nodiscard]] bool stages(const device::Memory& memory) const {
    return options_.always || memory.home.kind != device::DeviceKind::kCpu;
  }

  // One chunk, given back when this ends; that waits for the copies it takes part in, which is short: nothing but
  // copies of chunks is in their streams.
  class Chunk {
   public:
    Chunk(Staging* staging, Way way, device::Memory memory) : staging_(staging), way_(way), memory_(memory) {}
    ~Chunk();
    Chunk(const Chunk&) = delete;
    Chunk& operator=(const Chunk&) = delete;

    [[nodiscard]] std::span<std::byte> bytes() const { return memory_.host(); }
    // From `pages` (out), or to them (in).
    void copy(const device::Memory& pages, std::span<const layout::Copy> copies);
    [[nodiscard]] bool copied();

   private:
    Staging* staging_;
    Way way_;
    device::Memory memory_;
    std::vector<std::unique_ptr<device::Event>> events_;  // of copies that were not seen done
  };
  // Null: all of that way are in use.
  [[nodiscard]] std::unique_ptr<Chunk> take(Way way);

  static constexpr uint64_t kChunkBytes = uint64_t{1} << 20;  // a frame's payload
  // In: a chunk is held while its copy runs, never while a writer is waited for. Out: until the socket took its bytes,
  // which a peer that does not read puts off to the end of its post; a connection holds two.
  static constexpr size_t kChunksIn = 8, kChunksOut = 32;

 private:
  struct Side {
    explicit Side(device::StreamFactory make) : streams(std::move(make)) {}
    device::Streams streams;
    std::vector<std::byte*> free;
  };
  Side& side(Way way) { return way == Way::kOut ? out_ : in_; }

  const StagingOptions options_;
  std::mutex mutex_;
  std::atomic<bool> used_{false};
  device::Buffer slab_;                 // guarded by mutex_
  std::optional<device::HostPin> pin_;  // guarded by mutex_; of the slab
  Side out_, in_;
};

}  // namespace baton::transport::tcp
