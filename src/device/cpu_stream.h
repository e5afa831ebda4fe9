// The stream of the CPU: every call does its work before it returns.
#pragma once

#include "device/stream.h"

namespace baton::device {

class CpuStream final : public Stream {
 public:
  void zero(const Memory& memory, std::span<const layout::Run> runs) override;
  void copy(const Memory& from, const Memory& to, std::span<const layout::Copy> copies) override;
  void convert(const Memory& from, tensor::DType from_type, const Memory& to, tensor::DType to_type,
               std::span<const Conversion> conversions) override;
  void sum(const Memory& memory, std::span<const layout::WordRun> runs, const PageKeys& keys, WordSum* out) override;
  [[nodiscard]] std::unique_ptr<Event> record() override;
};

}  // namespace baton::device
