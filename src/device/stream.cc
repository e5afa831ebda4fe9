#include "device/stream.h"

#include <vector>

#include "device/cpu_stream.h"
#include "device/cuda.h"

namespace baton::device {

std::unique_ptr<Stream> make_stream(Home home) {
  if (home.kind == DeviceKind::kCuda) return make_cuda_stream(home);
  return std::make_unique<CpuStream>();
}

Stream& Streams::of(const Memory& memory) {
  std::unique_ptr<Stream>& stream = streams_[memory.home];
  if (stream == nullptr) stream = make_(memory.home);
  return *stream;
}

void Streams::wait() {
  std::vector<std::unique_ptr<Event>> events;
  for (const auto& [home, stream] : streams_) events.push_back(stream->record());
  for (const std::unique_ptr<Event>& event : events) event->wait();
}

}  // namespace baton::device
