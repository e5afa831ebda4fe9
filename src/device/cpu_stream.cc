#include "device/cpu_stream.h"

#include <cstring>

#include "device/convert.h"

namespace baton::device {
namespace {

class PastEvent final : public Event {
 public:
  [[nodiscard]] bool done() const override { return true; }
  void wait() override {}
};

}  // namespace

void CpuStream::zero(const Memory& memory, std::span<const layout::Run> runs) {
  for (const layout::Run& run : runs) {
    const std::span<std::byte> bytes = memory.part(run.offset, run.length).host();
    if (!bytes.empty()) std::memset(bytes.data(), 0, bytes.size());
  }
}

void CpuStream::copy(const Memory& from, const Memory& to, std::span<const layout::Copy> copies) {
  for (const layout::Copy& copy : copies) {
    const std::span<std::byte> source = from.part(copy.source_offset, copy.length).host();
    const std::span<std::byte> destination = to.part(copy.destination_offset, copy.length).host();
    if (!source.empty()) std::memcpy(destination.data(), source.data(), source.size());
  }
}

void CpuStream::convert(const Memory& from, tensor::DType from_type, const Memory& to, tensor::DType to_type,
                        std::span<const Conversion> conversions) {
  for (const Conversion& c : conversions) {
    const Memory source = from.part(c.source_offset, c.values * tensor::dtype_size(from_type));
    const Memory destination = to.part(c.destination_offset, c.values * tensor::dtype_size(to_type));
    convert_values(source.host().data(), from_type, destination.host().data(), to_type, c.values);
  }
}

void CpuStream::sum(const Memory& memory, std::span<const layout::WordRun> runs, const PageKeys& keys, WordSum* out) {
  for (const layout::WordRun& run : runs) (void)memory.part(run.offset, run.length);
  *out = sum_words(memory.host(), runs, keys);
}

std::unique_ptr<Event> CpuStream::record() { return std::make_unique<PastEvent>(); }

}  // namespace baton::device
