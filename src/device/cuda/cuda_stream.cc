#include "device/cuda/cuda_stream.h"

#include <utility>

#include "base/cuda/cuda_check.h"
#include "device/cuda.h"
#include "device/cuda/sum_delivery.h"

namespace baton::device {
namespace {

// Enough for the rate of a link with its latency; the rest of the card goes on computing.
constexpr int kLinkBlocks = 64;
// Longer ranges between a card and the processor go by the copy engine, which then is as fast and takes no part of the
// card.
constexpr uint64_t kEngineBytes = uint64_t{512} << 10;

class CudaEvent final : public Event {
 public:
  CudaEvent(Home home, cudaStream_t stream, std::shared_ptr<SumDelivery> delivery, uint64_t brought)
      : home_(home), delivery_(std::move(delivery)), brought_(brought) {
    BATON_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "{}", home_.to_string());
    BATON_CUDA_CHECK(cudaEventRecord(event_, stream), "{}", home_.to_string());
  }
  ~CudaEvent() override { BATON_CUDA_CHECK(cudaEventDestroy(event_), "{}", home_.to_string()); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  [[nodiscard]] bool done() const override {
    const cudaError_t code = cudaEventQuery(event_);
    if (code == cudaErrorNotReady) {
      (void)cudaGetLastError();  // no error, but some runtimes keep it as one
      return false;
    }
    BATON_CUDA_CHECK(code, "work on {}", home_.to_string());
    delivery_->deliver(brought_);
    return true;
  }
  void wait() override {
    BATON_CUDA_CHECK(cudaEventSynchronize(event_), "work on {}", home_.to_string());
    delivery_->deliver(brought_);
  }

 private:
  Home home_;
  cudaEvent_t event_ = nullptr;
  std::shared_ptr<SumDelivery> delivery_;
  uint64_t brought_;
};

// Whether the whole of processor memory is pinned; then its address for this card's kernels.
std::byte* pinned_address(const Memory& memory) {
  cudaPointerAttributes first{}, last{};
  BATON_CUDA_CHECK(cudaPointerGetAttributes(&first, memory.base), "memory of {}", memory.size);
  BATON_CUDA_CHECK(cudaPointerGetAttributes(&last, memory.base + (memory.size - 1)), "memory of {}", memory.size);
  const bool pinned = first.type == cudaMemoryTypeHost && last.type == cudaMemoryTypeHost;
  return pinned ? static_cast<std::byte*>(first.devicePointer) : nullptr;
}

}  // namespace

CudaStream::CudaStream(Home home, bool peers) : home_(home), peers_(peers), delivery_(std::make_shared<SumDelivery>()) {
  const int cards = cuda_device_count();
  BATON_CHECK(home.index >= 0 && home.index < cards, "a stream on {} of {} cards", home.to_string(), cards);
  use();
  BATON_CUDA_CHECK(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, home.index), "{}",
                   home.to_string());
  BATON_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "{}", home.to_string());
  void* sums = nullptr;
  constexpr size_t kBytes = SumDelivery::kSumsMax * sizeof(WordSum);
  // In the order of the stream: threads make their streams while ranks compute, whose kernels may wait for each other.
  BATON_CUDA_CHECK(cudaMallocAsync(&sums, kBytes, stream_), "{} bytes on {}", kBytes, home.to_string());
  BATON_CUDA_CHECK(cudaMemsetAsync(sums, 0, kBytes, stream_), "{}", home.to_string());
  sums_ = static_cast<WordSum*>(sums);
}

CudaStream::~CudaStream() {
  use();
  BATON_CUDA_CHECK(cudaFreeAsync(sums_, stream_), "{}", home_.to_string());
  BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "work on {}", home_.to_string());
  BATON_CUDA_CHECK(cudaStreamDestroy(stream_), "{}", home_.to_string());
}

void CudaStream::use() const { BATON_CUDA_CHECK(cudaSetDevice(home_.index), "{}", home_.to_string()); }

bool CudaStream::reach_card(int index) {
  const auto [found, is_new] = reached_.try_emplace(index, false);
  if (!is_new) return found->second;
  int can = 0;
  BATON_CUDA_CHECK(cudaDeviceCanAccessPeer(&can, home_.index, index), "{} and card {}", home_.to_string(), index);
  if (can != 0) {
    const cudaError_t code = cudaDeviceEnablePeerAccess(index, 0);
    if (code == cudaErrorPeerAccessAlreadyEnabled) {
      (void)cudaGetLastError();
    } else {
      BATON_CUDA_CHECK(code, "{} and card {}", home_.to_string(), index);
    }
  }
  return found->second = can != 0;
}

std::byte* CudaStream::reach(const Memory& memory) {
  if (memory.home == home_) return memory.base;
  if (memory.home.kind == DeviceKind::kCpu) return pinned_address(memory);
  const bool reached = memory.home.index == kCardUnseen || (peers_ && reach_card(memory.home.index));
  return reached ? memory.base : nullptr;
}

void CudaStream::zero(const Memory& memory, std::span<const layout::Run> runs) {
  BATON_CHECK(memory.home == home_, "memory of {} on a stream of {}", memory.home.to_string(), home_.to_string());
  use();
  launch_asked();
  std::vector<RangeCopy> ranges;
  ranges.reserve(runs.size());
  for (const layout::Run& run : runs) ranges.push_back({nullptr, memory.part(run.offset, run.length).base, run.length});
  launch_copies(ranges, 3 * processors_, stream_);
}

void CudaStream::copy(const Memory& from, const Memory& to, std::span<const layout::Copy> copies) {
  BATON_CHECK(from.home == home_ || to.home == home_, "from {} to {} on a stream of {}", from.home.to_string(),
              to.home.to_string(), home_.to_string());
  uint64_t bytes = 0;
  for (const layout::Copy& copy : copies) {
    (void)from.part(copy.source_offset, copy.length);
    (void)to.part(copy.destination_offset, copy.length);
    bytes += copy.length;
  }
  if (bytes == 0) return;
  use();
  launch_asked();
  const Memory& other = from.home == home_ ? to : from;
  const bool by_engine = other.home.kind == DeviceKind::kCpu && bytes / copies.size() >= kEngineBytes;
  std::byte* const source = by_engine ? nullptr : reach(from);
  std::byte* const destination = source == nullptr ? nullptr : reach(to);
  if (destination == nullptr) {
    for (const layout::Copy& copy : copies)
      BATON_CUDA_CHECK(cudaMemcpyAsync(to.base + copy.destination_offset, from.base + copy.source_offset, copy.length,
                                       cudaMemcpyDefault, stream_),
                       "{} bytes from {} to {}", copy.length, from.home.to_string(), to.home.to_string());
    return;
  }
  std::vector<RangeCopy> ranges;
  ranges.reserve(copies.size());
  for (const layout::Copy& copy : copies)
    ranges.push_back({source + copy.source_offset, destination + copy.destination_offset, copy.length});
  launch_copies(ranges, other.home == home_ ? 3 * processors_ : kLinkBlocks, stream_);
}

void CudaStream::convert(const Memory& from, tensor::DType from_type, const Memory& to, tensor::DType to_type,
                         std::span<const Conversion> conversions) {
  BATON_CHECK(from.home == home_ && to.home == home_, "from {} to {} on a stream of {}", from.home.to_string(),
              to.home.to_string(), home_.to_string());
  use();
  launch_asked();
  std::vector<RangeConversion> ranges;
  ranges.reserve(conversions.size());
  for (const Conversion& c : conversions)
    ranges.push_back({from.part(c.source_offset, c.values * tensor::dtype_size(from_type)).base,
                      to.part(c.destination_offset, c.values * tensor::dtype_size(to_type)).base, c.values});
  launch_conversions(ranges, from_type, to_type, 4 * processors_, stream_);
}

void CudaStream::sum(const Memory& memory, std::span<const layout::WordRun> runs, const PageKeys& keys, WordSum* out) {
  BATON_CHECK(memory.home == home_, "memory of {} on a stream of {}", memory.home.to_string(), home_.to_string());
  use();
  if (keys != asked_keys_) launch_asked();
  if (outs_.size() == SumDelivery::kSumsMax) bring_asked();
  asked_keys_ = keys;
  for (const layout::WordRun& run : runs) {
    const bool even = run.row_bytes % layout::kWordBytes == 0;
    BATON_CHECK(even || run.length % run.row_bytes == 0, "rows of {} bytes in {}", run.row_bytes, run.length);
    asked_.push_back({memory.part(run.offset, run.length).base, run.length, run.row_bytes, run.word,
                      static_cast<uint32_t>(outs_.size())});
  }
  outs_.push_back(out);
}

void CudaStream::launch_asked() {
  if (asked_.empty()) return;
  launch_sums(asked_, asked_keys_, sums_, 4 * processors_, stream_);
  asked_.clear();
}

void CudaStream::bring_asked() {
  launch_asked();
  if (outs_.empty()) return;
  const size_t count = outs_.size();
  bring_sums(sums_, delivery_->add(++brought_, std::exchange(outs_, {})), count, stream_);
}

std::unique_ptr<Event> CudaStream::record() {
  use();
  bring_asked();
  return std::make_unique<CudaEvent>(home_, stream_, delivery_, brought_);
}

std::unique_ptr<Stream> make_cuda_stream(Home home, bool peers) { return std::make_unique<CudaStream>(home, peers); }

}  // namespace baton::device
