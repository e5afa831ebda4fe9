// Memory with a home: which device it lies on, and who owns it. Whoever reads or writes bytes through a pointer asks
// for host() and so for memory that this processor reaches; all other work on page bytes is a stream's
// (device/stream.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace baton::device {

enum class DeviceKind : uint8_t { kCpu, kCuda };

// A device of this machine.
struct Home {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;  // among those of its kind, or kCardUnseen
  constexpr auto operator<=>(const Home&) const = default;
  [[nodiscard]] std::string to_string() const;  // "cpu", "cuda:1"
};

// The card of another process that this one does not see: memory on it can be mapped and copied all the same.
inline constexpr int kCardUnseen = -1;

// Bytes of a home, borrowed. `base` is an address of this process as the home's device knows it; what another process
// owns has one once it is mapped here, for the device that it was mapped for.
struct Memory {
  Home home;
  std::byte* base = nullptr;
  uint64_t size = 0;
  constexpr bool operator==(const Memory&) const = default;

  // Memory of the processor.
  [[nodiscard]] static Memory of(std::span<std::byte> bytes) { return {{}, bytes.data(), bytes.size()}; }
  // offset + length <= size, checked.
  [[nodiscard]] Memory part(uint64_t offset, uint64_t length) const;
  // For loads and stores of this processor; checked: the home is the CPU.
  [[nodiscard]] std::span<std::byte> host() const;
};

// Owns memory that no transport does. Movable, fixed in size.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  // Zeroed, aligned to a page (on a card to 256 bytes), kept out of core files: page bytes are users' text.
  // kInvalidArgument for a size that no machine has, kResourceExhausted if there is no room, kIncompatible for a device
  // that this build or this machine has not.
  static Result<Buffer> allocate(Home home, uint64_t bytes);

  [[nodiscard]] const Memory& memory() const { return memory_; }

 private:
  explicit Buffer(Memory memory) : memory_(memory) {}
  Memory memory_;
};

// Bytes of the home that this process may still take: of the CPU what the system has available, or less where a control
// group limits it; of a card what is free.
[[nodiscard]] uint64_t available_memory(Home home);

}  // namespace baton::device
