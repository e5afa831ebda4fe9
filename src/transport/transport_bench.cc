// Throughput of a post of shuffled blocks, against memcpy of the same blocks in the same run. Two objects in one
// process: the bytes go through the socket or the shared mapping all the same. Run with --benchmark_repetitions=5 and
// read the medians.
#include <benchmark/benchmark.h>
#include <poll.h>

#include <cstring>

#include "base/random.h"
#include "device/cuda.h"
#include "transport/make_transport.h"

namespace baton::transport {
namespace {

constexpr uint64_t kPool = uint64_t{128} << 20;  // larger than the caches
constexpr uint64_t kPost = uint64_t{16} << 20;   // bytes of one post
constexpr size_t kInFlight = 2;

// Walks the pool in posts; the order of blocks on the two sides differs.
std::vector<std::vector<Block>> make_posts(uint64_t block_bytes, RegionId from, RegionId to) {
  Random random(1);
  std::vector<uint64_t> places;
  for (uint64_t at = 0; at < kPool; at += block_bytes) places.push_back(at);
  for (size_t i = places.size(); i > 1; --i) std::swap(places[i - 1], places[random.below(i)]);
  std::vector<std::vector<Block>> posts(kPool / kPost);
  for (size_t i = 0; i < places.size(); ++i) {
    posts[i * posts.size() / places.size()].push_back({from, i * block_bytes, to, places[i], block_bytes});
  }
  return posts;
}

// A region on the processor, or in a buffer on a card.
Transport::Region make_region(Transport& transport, device::Buffer* on_card, uint8_t value) {
  if (on_card == nullptr) {
    const auto region = transport.allocate(kPool).value();
    std::memset(region.memory.host().data(), value, kPool);
    return region;
  }
  *on_card = device::Buffer::allocate({device::DeviceKind::kCuda, 0}, kPool).value();
  return {transport.register_memory(on_card->memory()).value(), on_card->memory()};
}

void BM_Transport(benchmark::State& state, const char* name, bool cards = false) {
  if (cards && device::cuda_device_count() == 0) return state.SkipWithError("this machine has no GPU");
  device::Buffer source, destination;
  auto owner = make_transport(name, {}).value();
  auto writer = make_transport(name, {}).value();
  const auto to = make_region(*owner, cards ? &destination : nullptr, 1);
  const auto from = make_region(*writer, cards ? &source : nullptr, 2);
  const PeerId peer = writer->connect(owner->local_blob()).value();
  const WindowToken token{AttemptId(1), 1};
  const WindowRange all{to.id, 0, kPool};
  BATON_CHECK(owner->open_window(token, std::span(&all, 1)).ok());
  const auto posts = make_posts(static_cast<uint64_t>(state.range(0)), from.id, to.id);
  size_t next = 0, in_flight = 0, done = 0;
  std::vector<TransferEvent> events;
  for (auto _ : state) {
    while (in_flight < kInFlight) {
      auto id =
          writer->post_write(peer, posts[next++ % posts.size()], token, SteadyClock().now() + std::chrono::seconds(30));
      BATON_CHECK(id.ok(), "{}", id.error().message);
      ++in_flight;
    }
    for (events.clear(); events.empty(); writer->poll(&events)) {
      pollfd entry{.fd = writer->event_fd(), .events = POLLIN, .revents = 0};
      ::poll(&entry, 1, 1000);
    }
    for (const TransferEvent& event : events) BATON_CHECK(event.outcome == TransferOutcome::kDone, "{}", event.detail);
    in_flight -= events.size();
    done += events.size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(done * kPost));
}

void BM_Memcpy(benchmark::State& state) {
  std::vector<std::byte> from(kPool, std::byte{2}), to(kPool, std::byte{1});
  const auto posts = make_posts(static_cast<uint64_t>(state.range(0)), RegionId(1), RegionId(1));
  size_t next = 0;
  for (auto _ : state) {
    for (const Block& b : posts[next++ % posts.size()])
      std::memcpy(to.data() + b.remote_offset, from.data() + b.local_offset, b.length);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kPost));
}

#define BLOCKS ->Arg(4 << 10)->Arg(64 << 10)->Arg(1 << 20)->UseRealTime()->Unit(benchmark::kMillisecond)
BENCHMARK(BM_Memcpy) BLOCKS;
BENCHMARK_CAPTURE(BM_Transport, shm, "shm") BLOCKS;
BENCHMARK_CAPTURE(BM_Transport, tcp, "tcp") BLOCKS;
BENCHMARK_CAPTURE(BM_Transport, tcp_between_cards, "tcp", true) BLOCKS;

}  // namespace
}  // namespace baton::transport
