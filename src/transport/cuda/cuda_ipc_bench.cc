// From a post to its event: pages of an instance of 27 layers (MLA, 73,728 bytes a page and layer), from one card to
// the next.
#include <benchmark/benchmark.h>
#include <poll.h>

#include "device/cuda.h"
#include "transport/make_transport.h"

namespace baton::transport {
namespace {

void wait_for(Transport& transport, size_t count) {
  std::vector<TransferEvent> events;
  while (events.size() < count) {
    pollfd entry{.fd = transport.event_fd(), .events = POLLIN, .revents = 0};
    ::poll(&entry, 1, 1000);
    transport.poll(&events);
  }
  for (const TransferEvent& event : events) BATON_CHECK(event.outcome == TransferOutcome::kDone, "{}", event.detail);
}

// Arguments: posts, blocks of each, bytes of a block.
void post_pages(benchmark::State& state) {
  const int cards = device::cuda_device_count();
  if (cards == 0) {
    state.SkipWithError("this machine has no GPU");
    return;
  }
  const auto posts = static_cast<uint64_t>(state.range(0)), blocks = static_cast<uint64_t>(state.range(1));
  const auto length = static_cast<uint64_t>(state.range(2));
  TransportOptions options;
  options.copy_threads = 4;
  options.queue_bytes = uint64_t{4} << 30;
  const auto writer = make_transport("cuda_ipc", options).value();
  options.card = cards - 1;
  const auto owner = make_transport("cuda_ipc", options).value();
  const uint64_t bytes = 2 * posts * blocks * length;
  const Transport::Region from = writer->allocate(bytes).value(), to = owner->allocate(bytes).value();
  const WindowToken token{AttemptId(1), 1};
  const WindowRange all{to.id, 0, bytes};
  BATON_CHECK(owner->open_window(token, std::span(&all, 1)).ok(), "a window");
  const PeerId peer = writer->connect(owner->local_blob()).value();
  for (auto _ : state) {
    for (uint64_t post = 0; post < posts; ++post) {
      std::vector<Block> list;
      for (uint64_t i = 0; i < blocks; ++i) {
        const uint64_t at = 2 * (post * blocks + i) * length;
        list.push_back({from.id, at, to.id, at, length});
      }
      BATON_CHECK(writer->post_write(peer, list, token, SteadyClock().now() + std::chrono::seconds(10)).ok(), "a post");
    }
    wait_for(*writer, posts);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * posts * blocks * length));
}
BENCHMARK(post_pages)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->Args({1, 1, 4096})
    ->Args({1, 440, 73728})
    ->Args({4, 440, 73728})
    ->Args({16, 110, 73728})
    ->Args({4, 1760, 18432})
    ->Args({8, 2048, 32768});

}  // namespace
}  // namespace baton::transport
