// Rates of a card's stream on pages of a large pool, in shuffled order, each as a share of what copying within the card
// by the driver reaches in the same run. A copy counts what it reads and what it writes; one that leaves the card
// counts what crosses.
#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "base/cuda/cuda_check.h"
#include "base/random.h"
#include "device/cuda.h"
#include "device/stream.h"

namespace baton::device {
namespace {

constexpr Home kCard{DeviceKind::kCuda, 0}, kOther{DeviceKind::kCuda, 1};
constexpr uint64_t kPool = uint64_t{2} << 30;  // many times a card's cache
constexpr uint64_t kAtOnce = uint64_t{64} << 20;
constexpr int kCalls = 20;

std::vector<uint64_t> shuffled_blocks(uint64_t block, uint64_t pool, uint64_t seed) {
  std::vector<uint64_t> places;
  for (uint64_t at = 0; at + block <= pool; at += block) places.push_back(at);
  Random random(seed);
  for (size_t i = places.size(); i > 1; --i) std::swap(places[i - 1], places[random.below(i)]);
  return places;
}

// Bytes a second of call(which), which works on `bytes` bytes; `which` counts from 0.
template <typename Call>
double measure(Stream& stream, uint64_t bytes, const Call& call) {
  call(0);
  stream.record()->wait();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kCalls; ++i) call(i);
  stream.record()->wait();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  return static_cast<double>(bytes) * kCalls / took.count();
}

// What crosses between two homes in a second, in copies of `block` bytes.
double copy_rate(Home from, Home to, uint64_t block, bool pinned = true) {
  const uint64_t pool = from.kind == to.kind ? kPool : kPool / 4;
  const Buffer source = Buffer::allocate(from, pool).value(), destination = Buffer::allocate(to, pool).value();
  std::optional<HostPin> pin;
  for (const Buffer* buffer : {&source, &destination}) {
    if (pinned && buffer->memory().home.kind == DeviceKind::kCpu) pin.emplace(HostPin::make(buffer->memory()).value());
  }
  const std::unique_ptr<Stream> stream = make_cuda_stream(to.kind == DeviceKind::kCuda ? to : from, true);
  const std::vector<uint64_t> sources = shuffled_blocks(block, pool, 1), destinations = shuffled_blocks(block, pool, 2);
  const size_t count = std::max<size_t>(1, kAtOnce / block);
  return measure(*stream, count * block, [&](int call) {
    std::vector<layout::Copy> copies;
    for (size_t i = 0; i < count; ++i) {
      const size_t at = (static_cast<size_t>(call) * count + i) % sources.size();
      copies.push_back({sources[at], destinations[at], block});
    }
    stream->copy(source.memory(), destination.memory(), copies);
  });
}

// What the driver's own copies within the card read and write in a second.
double best_rate() {
  const Buffer from = Buffer::allocate(kCard, kPool).value(), to = Buffer::allocate(kCard, kPool).value();
  const std::unique_ptr<Stream> none = make_stream(kCard);
  return 2 * measure(*none, kPool, [&](int) {
           BATON_CUDA_CHECK(cudaMemcpy(to.memory().base, from.memory().base, kPool, cudaMemcpyDeviceToDevice), "");
           BATON_CUDA_CHECK(cudaDeviceSynchronize(), "");
         });
}

void report(benchmark::State& state, double rate) {
  static const double best = best_rate();
  state.SetIterationTime(1e9 / rate);  // of a gigabyte
  state.counters["GB/s"] = rate / 1e9;
  state.counters["of_the_card"] = rate / best;
}

bool has_cards(benchmark::State& state, size_t cards) {
  if (cuda_devices().size() >= cards) return true;
  state.SkipWithError("too few cards");
  return false;
}

void BM_Copy(benchmark::State& state) {
  if (!has_cards(state, 1)) return;
  for (auto _ : state) report(state, 2 * copy_rate(kCard, kCard, static_cast<uint64_t>(state.range(0))));
}

void BM_CopyToOtherCard(benchmark::State& state) {
  if (!has_cards(state, 2)) return;
  for (auto _ : state) report(state, copy_rate(kCard, kOther, static_cast<uint64_t>(state.range(0))));
}

void BM_CopyFromPinned(benchmark::State& state) {
  if (!has_cards(state, 1)) return;
  for (auto _ : state) report(state, copy_rate({}, kCard, static_cast<uint64_t>(state.range(0))));
}

void BM_CopyToPinned(benchmark::State& state) {
  if (!has_cards(state, 1)) return;
  for (auto _ : state) report(state, copy_rate(kCard, {}, static_cast<uint64_t>(state.range(0))));
}

void BM_CopyFromPageable(benchmark::State& state) {
  if (!has_cards(state, 1)) return;
  for (auto _ : state) report(state, copy_rate({}, kCard, static_cast<uint64_t>(state.range(0)), false));
}

void BM_Zero(benchmark::State& state) {
  if (!has_cards(state, 1)) return;
  const auto block = static_cast<uint64_t>(state.range(0));
  const Buffer pool = Buffer::allocate(kCard, kPool).value();
  const std::unique_ptr<Stream> stream = make_stream(kCard);
  const std::vector<uint64_t> places = shuffled_blocks(block, kPool, 1);
  for (auto _ : state) {
    report(state, measure(*stream, kAtOnce, [&](int call) {
             std::vector<layout::Run> runs;
             for (size_t i = 0; i < kAtOnce / block; ++i)
               runs.push_back({places[(static_cast<size_t>(call) * (kAtOnce / block) + i) % places.size()], block});
             stream->zero(pool.memory(), runs);
           }));
  }
}

// One sum for each block, as pages have them.
void BM_Sum(benchmark::State& state) {
  if (!has_cards(state, 1)) return;
  const auto block = static_cast<uint64_t>(state.range(0));
  const Buffer pool = Buffer::allocate(kCard, kPool).value();
  const std::unique_ptr<Stream> stream = make_stream(kCard);
  const std::vector<uint64_t> places = shuffled_blocks(block, kPool, 1);
  const PageKeys keys(1);
  std::vector<WordSum> sums(kAtOnce / block);
  for (auto _ : state) {
    report(state, measure(*stream, kAtOnce, [&](int call) {
             for (size_t i = 0; i < sums.size(); ++i) {
               const uint64_t at = places[(static_cast<size_t>(call) * sums.size() + i) % places.size()];
               const layout::WordRun run{at, block, layout::kWordBytes, 0};
               stream->sum(pool.memory(), std::span(&run, 1), keys, &sums[i]);
             }
           }));
  }
}

// What the handoff's thread waits for: a slice of its work, from the first call to the event.
void BM_SliceOf8MiB(benchmark::State& state) {
  if (!has_cards(state, 1)) return;
  const auto block = static_cast<uint64_t>(state.range(0));
  const Buffer pool = Buffer::allocate(kCard, kPool).value();
  const std::unique_ptr<Stream> stream = make_stream(kCard);
  const std::vector<uint64_t> places = shuffled_blocks(block, kPool, 1);
  const PageKeys keys(1);
  std::vector<WordSum> sums((uint64_t{8} << 20) / block);
  size_t next = 0;
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    for (WordSum& sum : sums) {
      const layout::WordRun run{places[next++ % places.size()], block, layout::kWordBytes, 0};
      stream->sum(pool.memory(), std::span(&run, 1), keys, &sum);
    }
    stream->record()->wait();
    state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
}

#define BLOCKS ->ArgName("block")->Arg(4 << 10)->Arg(64 << 10)->Arg(1 << 20)->UseManualTime()
BENCHMARK(BM_Copy) BLOCKS->Iterations(3);
BENCHMARK(BM_Zero) BLOCKS->Iterations(3);
BENCHMARK(BM_Sum) BLOCKS->Iterations(3);
BENCHMARK(BM_SliceOf8MiB) BLOCKS->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_CopyToOtherCard) BLOCKS->Iterations(3);
BENCHMARK(BM_CopyFromPinned) BLOCKS->Iterations(3);
BENCHMARK(BM_CopyToPinned) BLOCKS->Iterations(3);
BENCHMARK(BM_CopyFromPageable)->ArgName("block")->Arg(1 << 20)->UseManualTime()->Iterations(3);

}  // namespace
}  // namespace baton::device
