// Rates of the page checksum beside XXH3 and memcpy over the same blocks: a pool larger than the caches, walked in
// shuffled blocks as pages lie in it, and one block again and again. Run with --benchmark_repetitions=5 and read the
// medians.
#include <benchmark/benchmark.h>
#include <xxhash.h>

#include <cstring>
#include <utility>

#include "base/random.h"
#include "device/memory.h"
#include "device/page_sum.h"

namespace baton::device {
namespace {

constexpr uint64_t kPool = uint64_t{512} << 20;

// Calls work(bytes of a block) for each block of a pool in turn.
template <typename Work>
void over_blocks(benchmark::State& state, Work work) {
  const auto block = static_cast<uint64_t>(state.range(0));
  const uint64_t size = state.range(1) != 0 ? kPool : block;
  const Buffer pool = Buffer::allocate({}, size).value();
  std::memset(pool.memory().host().data(), 7, size);
  std::vector<uint64_t> places;
  for (uint64_t at = 0; at < size; at += block) places.push_back(at);
  Random random(1);
  for (size_t i = places.size(); i > 1; --i) std::swap(places[i - 1], places[random.below(i)]);
  size_t next = 0;
  for (auto _ : state) work(pool.memory().host().subspan(places[next++ % places.size()], block));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}

void BM_PageSum(benchmark::State& state) {
  const PageKeys keys(1);
  over_blocks(state, [&](std::span<std::byte> block) {
    const layout::WordRun run{.offset = 0, .length = block.size(), .row_bytes = layout::kWordBytes, .word = 0};
    benchmark::DoNotOptimize(keys.fold(sum_words(block, std::span(&run, 1), keys)));
  });
}

void BM_Xxh3(benchmark::State& state) {
  over_blocks(state,
              [](std::span<std::byte> block) { benchmark::DoNotOptimize(XXH3_64bits(block.data(), block.size())); });
}

void BM_Memcpy(benchmark::State& state) {
  const Buffer to = Buffer::allocate({}, static_cast<uint64_t>(state.range(0))).value();
  over_blocks(state, [&](std::span<std::byte> block) {
    std::memcpy(to.memory().host().data(), block.data(), block.size());
    benchmark::ClobberMemory();
  });
}

#define BLOCKS ->ArgNames({"block", "memory"})->Args({16 << 10, 0})->Args({64 << 10, 1})->Args({1 << 20, 1})
BENCHMARK(BM_PageSum) BLOCKS;
BENCHMARK(BM_Xxh3) BLOCKS;
BENCHMARK(BM_Memcpy) BLOCKS;

}  // namespace
}  // namespace baton::device
