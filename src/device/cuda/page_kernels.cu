#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "base/cuda/cuda_check.h"
#include "device/cuda/page_kernels.h"
#include "device/page_word.h"
#include "layout/plan.h"

namespace baton::device {
namespace {

// What a block copies at a time: 512 threads with four loads of 16 bytes each under way.
constexpr uint32_t kCopyThreads = 512;
constexpr uint32_t kLoads = 4;
constexpr uint64_t kCopyTile = kCopyThreads * kLoads * 16;
constexpr uint32_t kCopyBlocks = 3;  // on a processor of the card, at least
constexpr uint32_t kConvertThreads = 256, kConvertPack = 8;
constexpr uint64_t kConvertTile = uint64_t{4} * kConvertThreads * kConvertPack;  // values
constexpr uint32_t kSumThreads = 256;
constexpr uint64_t kSumTile = kSumThreads * 8;  // words

// A kernel has 32,764 bytes of parameters; lists that fit the shorter kind are launched a little faster.
constexpr int kShort = 64, kLong = 600;

template <typename Range, int kCapacity>
struct RangeList {
  int count = 0;
  uint32_t tiles = 0;
  uint32_t first_tile[kCapacity];  // of each range, ascending
  Range ranges[kCapacity];

  void add(const Range& range, uint64_t range_tiles) {
    first_tile[count] = tiles;
    ranges[count++] = range;
    tiles += static_cast<uint32_t>(range_tiles);
  }
  // Calls work(range, first, end) for the tiles [first, end) of each range that fall to this block: those of the list
  // are dealt to blocks in equal parts, each of neighbours.
  template <typename Work>
  __device__ void for_my_tiles(const Work& work) const {
    const auto part = [&](uint64_t block) { return static_cast<uint32_t>(tiles * block / gridDim.x); };
    uint32_t tile = part(blockIdx.x);
    const uint32_t end = part(blockIdx.x + 1);
    for (int index = find(tile); tile < end; ++index) {
      const uint32_t range_end = index + 1 < count ? min(end, first_tile[index + 1]) : end;
      work(ranges[index], tile - first_tile[index], range_end - first_tile[index]);
      tile = range_end;
    }
  }
  // The range that a tile lies in.
  [[nodiscard]] __device__ int find(uint32_t tile) const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_tile[middle] <= tile ? low : high) = middle;
    }
    return low;
  }
};

// Calls launch(list) for all that `add` puts into lists of at most kCapacity ranges. A list may not have 2^32 tiles,
// which would be 64 TiB.
template <int kCapacity, typename Range, typename Tiles, typename Launch>
void in_lists(std::span<const Range> ranges, const Tiles& tiles_of, const Launch& launch) {
  while (!ranges.empty()) {
    RangeList<Range, kCapacity> list;
    for (; !ranges.empty() && list.count < kCapacity; ranges = ranges.subspan(1)) {
      if (const uint64_t tiles = tiles_of(ranges.front()); tiles > 0) list.add(ranges.front(), tiles);
    }
    if (list.count > 0) launch(list);
    BATON_CUDA_CHECK(cudaGetLastError(), "a kernel over {} ranges in {} tiles", list.count, list.tiles);
  }
}

template <typename Range, typename Tiles, typename Launch>
void in_lists_of_any_length(std::span<const Range> ranges, const Tiles& tiles_of, const Launch& launch) {
  if (ranges.size() <= kShort) return in_lists<kShort>(ranges, tiles_of, launch);
  in_lists<kLong>(ranges, tiles_of, launch);
}

// Word by word, where both ends are aligned alike; the bytes before the first and after the last word by themselves.
template <typename Word>
__device__ void copy_tile_by(const std::byte* source, std::byte* destination, uint32_t length) {
  const uint32_t misaligned = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(destination) % sizeof(Word));
  const uint32_t head = misaligned == 0 ? 0 : min(length, static_cast<uint32_t>(sizeof(Word)) - misaligned);
  const uint32_t words = (length - head) / sizeof(Word);
  for (uint32_t at = threadIdx.x; at < length - words * sizeof(Word); at += kCopyThreads) {
    const uint32_t byte = at < head ? at : at + words * sizeof(Word);
    destination[byte] = source == nullptr ? std::byte{0} : source[byte];
  }
  auto* to = reinterpret_cast<Word*>(destination + head);
  if (source == nullptr) {
    for (uint32_t at = threadIdx.x; at < words; at += kCopyThreads) to[at] = Word{};
    return;
  }
  const auto* from = reinterpret_cast<const Word*>(source + head);
  for (uint32_t at = threadIdx.x; at < words; at += kLoads * kCopyThreads) {
    Word loaded[kLoads];
#pragma unroll
    for (uint32_t i = 0; i < kLoads; ++i) {
      if (at + i * kCopyThreads < words) loaded[i] = from[at + i * kCopyThreads];
    }
#pragma unroll
    for (uint32_t i = 0; i < kLoads; ++i) {
      if (at + i * kCopyThreads < words) to[at + i * kCopyThreads] = loaded[i];
    }
  }
}

__device__ void copy_tile(const std::byte* source, std::byte* destination, uint32_t length) {
  const uintptr_t apart =
      source == nullptr ? 0 : reinterpret_cast<uintptr_t>(source) ^ reinterpret_cast<uintptr_t>(destination);
  if (apart % 16 == 0) {
    copy_tile_by<uint4>(source, destination, length);
  } else if (apart % 4 == 0) {
    copy_tile_by<uint32_t>(source, destination, length);
  } else {
    copy_tile_by<uint8_t>(source, destination, length);
  }
}

template <typename List>
__global__ void __launch_bounds__(kCopyThreads, kCopyBlocks) copy_kernel(const __grid_constant__ List list) {
  list.for_my_tiles([](const RangeCopy& range, uint64_t first, uint64_t end) {
    for (uint64_t at = first * kCopyTile; at < min(end * kCopyTile, range.length); at += kCopyTile) {
      copy_tile(range.source == nullptr ? nullptr : range.source + at, range.destination + at,
                static_cast<uint32_t>(min(kCopyTile, range.length - at)));
    }
  });
}

template <typename T, uint32_t kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Values {
  T v[kCount];
};

template <typename From, typename To, uint32_t kPack>
__device__ void convert_tile(const std::byte* source, std::byte* destination, uint32_t values) {
  const auto* from = reinterpret_cast<const Values<From, kPack>*>(source);
  auto* to = reinterpret_cast<Values<To, kPack>*>(destination);
#pragma unroll 4
  for (uint32_t at = threadIdx.x; at < values / kPack; at += kConvertThreads) {
    const Values<From, kPack> loaded = from[at];
    Values<To, kPack> converted;
#pragma unroll
    for (uint32_t i = 0; i < kPack; ++i) converted.v[i] = To(static_cast<float>(loaded.v[i]));
    to[at] = converted;
  }
}

template <typename From, typename To, typename List>
__global__ void __launch_bounds__(kConvertThreads) convert_kernel(const __grid_constant__ List list) {
  list.for_my_tiles([](const RangeConversion& range, uint64_t first, uint64_t end) {
    const bool packs = reinterpret_cast<uintptr_t>(range.source) % alignof(Values<From, kConvertPack>) == 0 &&
                       reinterpret_cast<uintptr_t>(range.destination) % alignof(Values<To, kConvertPack>) == 0;
    for (uint64_t at = first * kConvertTile; at < min(end * kConvertTile, range.values); at += kConvertTile) {
      const auto values = static_cast<uint32_t>(min(kConvertTile, range.values - at));
      const uint32_t packed = packs ? values / kConvertPack * kConvertPack : 0;
      const std::byte* from = range.source + at * sizeof(From);
      std::byte* to = range.destination + at * sizeof(To);
      convert_tile<From, To, kConvertPack>(from, to, packed);
      convert_tile<From, To, 1>(from + packed * sizeof(From), to + packed * sizeof(To), values - packed);
    }
  });
}

template <typename Call>
void with_type(tensor::DType type, const Call& call) {
  if (type == tensor::DType::kBF16) return call.template operator()<__nv_bfloat16>();
  if (type == tensor::DType::kF8E4M3) return call.template operator()<__nv_fp8_e4m3>();
  BATON_CHECK(type == tensor::DType::kF32, "values of {}", tensor::dtype_name(type));
  call.template operator()<float>();
}

// A row of `row_bytes` bytes has whole words and perhaps a last one that zeros fill up.
__device__ Uint128 any_word(const std::byte* word, uint64_t bytes, const PageKeys& keys, const KeyWalk& walk) {
  uint64_t halves[2] = {};
  for (uint64_t i = 0; i < bytes; ++i) halves[i / 8] |= static_cast<uint64_t>(word[i]) << (i % 8 * 8);
  return walk.term(keys, halves[0], halves[1]);
}

// Whether the words of a range follow each other without gaps: its rows need no filling up.
__device__ __host__ bool is_even(const RangeSum& range) { return range.row_bytes % layout::kWordBytes == 0; }

__device__ __host__ uint64_t words_of(const RangeSum& range) {
  if (is_even(range)) return layout::row_words(range.length);
  return range.length / range.row_bytes * layout::row_words(range.row_bytes);
}

// A thread's part of the words [first, end).
__device__ Uint128 sum_range(const RangeSum& range, uint64_t first, uint64_t end, const PageKeys& keys) {
  Uint128 sum = 0;
  const bool even = is_even(range);
  // The last word of an even range may be a part of one.
  const uint64_t aligned_end =
      even && reinterpret_cast<uintptr_t>(range.base) % 16 == 0 ? min(end, range.length / layout::kWordBytes) : 0;
  KeyWalk walk(keys, range.word + first + threadIdx.x);
  uint64_t word = first + threadIdx.x;
#pragma unroll 4
  for (; word < aligned_end; word += kSumThreads) {
    const ulonglong2 halves = reinterpret_cast<const ulonglong2*>(range.base)[word];
    sum += walk.term(keys, halves.x, halves.y);
    walk.advance(kSumThreads);
  }
  const uint64_t row_bytes = even ? range.length : range.row_bytes, row_words = layout::row_words(row_bytes);
  for (; word < end; word += kSumThreads) {
    const uint64_t at = word % row_words * layout::kWordBytes;
    sum +=
        any_word(range.base + word / row_words * row_bytes + at, min(layout::kWordBytes, row_bytes - at), keys, walk);
    walk.advance(kSumThreads);
  }
  return sum;
}

// Over the threads of a block, valid in its first.
__device__ Uint128 sum_block(Uint128 sum) {
  constexpr uint32_t kWarps = kSumThreads / 32;
  __shared__ WordSum parts[kWarps];
  for (uint32_t lanes = 16; lanes > 0; lanes /= 2) {
    const WordSum part = narrow(sum);
    sum += wide({__shfl_down_sync(~0U, part.low, lanes), __shfl_down_sync(~0U, part.high, lanes)});
  }
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = narrow(sum);
  __syncthreads();
  if (threadIdx.x == 0) {
    for (uint32_t warp = 1; warp < kWarps; ++warp) sum += wide(parts[warp]);
  }
  __syncthreads();
  return sum;
}

__device__ void add_to(WordSum& total, const WordSum& part) {
  // Whoever adds past 2^64 is told so by the value before, and carries: the sum is whole in whatever order.
  const uint64_t before = atomicAdd(reinterpret_cast<unsigned long long*>(&total.low), part.low);
  const uint64_t carry = before + part.low < before ? 1 : 0;
  atomicAdd(reinterpret_cast<unsigned long long*>(&total.high), part.high + carry);
}

template <typename List>
__global__ void __launch_bounds__(kSumThreads)
    sum_kernel(const __grid_constant__ List list, const __grid_constant__ PageKeys keys, WordSum* sums) {
  list.for_my_tiles([&](const RangeSum& range, uint64_t first, uint64_t end) {
    const uint64_t last = min(end * kSumTile, words_of(range));
    const Uint128 sum = sum_block(sum_range(range, first * kSumTile, last, keys));
    if (threadIdx.x == 0) add_to(sums[range.slot], narrow(sum));
  });
}

__global__ void __launch_bounds__(kSumThreads) bring_kernel(WordSum* sums, WordSum* room, uint32_t count) {
  for (uint32_t i = threadIdx.x; i < count; i += kSumThreads) {
    room[i] = sums[i];
    sums[i] = {};
  }
}

}  // namespace

void launch_copies(std::span<const RangeCopy> copies, int blocks, cudaStream_t stream) {
  in_lists_of_any_length(
      copies, [](const RangeCopy& range) { return (range.length + kCopyTile - 1) / kCopyTile; },
      [&](const auto& list) {
        copy_kernel<<<std::min(list.tiles, static_cast<uint32_t>(blocks)), kCopyThreads, 0, stream>>>(list);
      });
}

void launch_conversions(std::span<const RangeConversion> conversions, tensor::DType from_type, tensor::DType to_type,
                        int blocks, cudaStream_t stream) {
  with_type(from_type, [&]<typename From>() {
    with_type(to_type, [&]<typename To>() {
      in_lists_of_any_length(
          conversions, [](const RangeConversion& range) { return (range.values + kConvertTile - 1) / kConvertTile; },
          [&]<typename List>(const List& list) {
            convert_kernel<From, To>
                <<<std::min(list.tiles, static_cast<uint32_t>(blocks)), kConvertThreads, 0, stream>>>(list);
          });
    });
  });
}

void launch_sums(std::span<const RangeSum> ranges, const PageKeys& keys, WordSum* sums, int blocks,
                 cudaStream_t stream) {
  in_lists_of_any_length(
      ranges, [](const RangeSum& range) { return (words_of(range) + kSumTile - 1) / kSumTile; },
      [&](const auto& list) {
        sum_kernel<<<std::min(list.tiles, static_cast<uint32_t>(blocks)), kSumThreads, 0, stream>>>(list, keys, sums);
      });
}

void bring_sums(WordSum* sums, WordSum* room, size_t count, cudaStream_t stream) {
  bring_kernel<<<1, kSumThreads, 0, stream>>>(sums, room, static_cast<uint32_t>(count));
  BATON_CUDA_CHECK(cudaGetLastError(), "bringing {} sums", count);
}

}  // namespace baton::device
