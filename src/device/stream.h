// Work on page bytes, in order, on the device that they lie on. A new device is an implementation of Stream and Event
// in files of its own, beside what memory.cc does for Buffer.
//
// On the CPU a stream runs at once. Elsewhere it may run later, so that nobody reads what it writes, and nobody touches
// what it reads, before an event recorded after it is done; all that is given by pointer must live as long.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>

#include "device/memory.h"
#include "device/page_sum.h"
#include "layout/plan.h"
#include "tensor/dtype.h"

namespace baton::device {

// A point in a stream's work. Any thread may ask.
class Event {
 public:
  virtual ~Event() = default;
  [[nodiscard]] virtual bool done() const = 0;
  virtual void wait() = 0;
};

// `values` values, one after another on both sides.
struct Conversion {
  uint64_t source_offset = 0, destination_offset = 0;  // bytes
  uint64_t values = 0;
};

// Owned by one thread. Lists are copied before a call returns. All offsets must lie inside the memory, checked.
class Stream {
 public:
  virtual ~Stream() = default;

  virtual void zero(const Memory& memory, std::span<const layout::Run> runs) = 0;
  // One of the two is memory of this home; the other too, or of another device of its kind, or the CPU's. What a list
  // writes, it neither writes twice nor reads.
  virtual void copy(const Memory& from, const Memory& to, std::span<const layout::Copy> copies) = 0;
  // Both are memory of this home. What it rounds to: convert.h.
  virtual void convert(const Memory& from, tensor::DType from_type, const Memory& to, tensor::DType to_type,
                       std::span<const Conversion> conversions) = 0;
  virtual void sum(const Memory& memory, std::span<const layout::WordRun> runs, const PageKeys& keys, WordSum* out) = 0;

  [[nodiscard]] virtual std::unique_ptr<Event> record() = 0;
};

using StreamFactory = std::function<std::unique_ptr<Stream>(Home)>;
// Of a device that this build and this machine have, checked: memory of others cannot have been allocated.
[[nodiscard]] std::unique_ptr<Stream> make_stream(Home home);

// A thread's streams: one for each device that its memory lies on, made when first asked for.
class Streams {
 public:
  explicit Streams(StreamFactory make = make_stream) : make_(std::move(make)) {}

  [[nodiscard]] Stream& of(const Memory& memory);
  // For all work so far, on every device.
  void wait();

 private:
  StreamFactory make_;
  std::map<Home, std::unique_ptr<Stream>> streams_;
};

}  // namespace baton::device
