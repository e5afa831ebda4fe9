// The stream of a card. Copies and zeros are kernels where the card reaches both ends, which keep it busy with ranges
// of any size; what it does not reach (pageable memory, another card of the process without `peers`) the driver copies,
// range by range.
//
// Sums are made on the card and brought to the processor with the next event, all by one kernel; whoever first sees
// that event, or a later one, done puts them where they were asked for.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <vector>

#include "device/cuda/page_kernels.h"
#include "device/stream.h"

namespace baton::device {

class SumDelivery;

class CudaStream final : public Stream {
 public:
  CudaStream(Home home, bool peers);  // as make_cuda_stream()
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  void zero(const Memory& memory, std::span<const layout::Run> runs) override;
  void copy(const Memory& from, const Memory& to, std::span<const layout::Copy> copies) override;
  void convert(const Memory& from, tensor::DType from_type, const Memory& to, tensor::DType to_type,
               std::span<const Conversion> conversions) override;
  void sum(const Memory& memory, std::span<const layout::WordRun> runs, const PageKeys& keys, WordSum* out) override;
  [[nodiscard]] std::unique_ptr<Event> record() override;

 private:
  void use() const;                                      // this card, for the calls of this thread that follow
  [[nodiscard]] std::byte* reach(const Memory& memory);  // its address for a kernel of this card; nullptr: none
  [[nodiscard]] bool reach_card(int index);
  void launch_asked();  // the sums asked for so far, before other work goes on
  void bring_asked();

  Home home_;
  bool peers_;
  int processors_ = 0;  // of the card
  cudaStream_t stream_ = nullptr;
  std::map<int, bool> reached_;  // other cards

  WordSum* sums_ = nullptr;      // on the card, zero where none is asked for
  std::vector<WordSum*> outs_;   // of sums_[i]
  std::vector<RangeSum> asked_;  // not yet launched, all by asked_keys_
  PageKeys asked_keys_{0};
  uint64_t brought_ = 0;  // how often sums were brought
  std::shared_ptr<SumDelivery> delivery_;
};

}  // namespace baton::device
