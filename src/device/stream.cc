#include "device/stream.h"

#include <vector>

#include "base/check.h"
#include "device/cpu_stream.h"

namespace baton::device {

std::unique_ptr<Stream> make_stream(Home home) {
  BATON_CHECK(home.kind == DeviceKind::kCpu, "a stream on {}: this build computes on the CPU only", home.to_string());
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
