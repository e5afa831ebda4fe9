// What the kernels of an exchange share: where things lie in an inbox, how they begin and wait, and sums.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>

#include "base/cuda/cuda_check.h"
#include "comm/cuda/exchange.h"

namespace baton::comm::cuda {

constexpr int kBlocksMax = 128;
constexpr int kThreads = 512;                      // of a block, and lines that a round of one has from a rank
constexpr int kLineBlocksMax = 64;                 // of small messages: 256 KiB from a rank
constexpr int kWorkers = kThreads - 32;            // of a block with large messages; its last warp raises flags
constexpr int64_t kSlotBytes = 2 * kWorkers * 16;  // that a round of a block has from a rank, of a large message
constexpr int kSlots = 4;

// ---- an inbox ----
//
// lines: (round's last bit, from rank, block, thread); slots: (round's last two bits, from rank, block, kSlotBytes);
// flags: (block, from rank): the last round that is whole in the slots; rounds: (block), this rank's own count.

__host__ __device__ inline size_t part_of(uint32_t place, int ranks, int from, int block) {
  return (static_cast<size_t>(place) * static_cast<size_t>(ranks) + static_cast<size_t>(from)) * kBlocksMax +
         static_cast<size_t>(block);
}
__host__ __device__ inline size_t lines_bytes(int ranks) { return part_of(2, ranks, 0, 0) * kThreads * sizeof(uint4); }
__host__ __device__ inline size_t slots_bytes(int ranks) { return part_of(kSlots, ranks, 0, 0) * kSlotBytes; }

// Of the thread.
__device__ inline uint4* line_of(const ExchangeGroup& g, int to, uint32_t round, int from, int block) {
  return reinterpret_cast<uint4*>(g.inbox[to]) + part_of(round % 2, g.ranks, from, block) * kThreads + threadIdx.x;
}
__device__ inline uint4* line_of(const ExchangeGroup& g, int to, uint32_t round, int from) {
  return line_of(g, to, round, from, static_cast<int>(blockIdx.x));
}
__device__ inline std::byte* slot_of(const ExchangeGroup& g, int to, uint32_t round, int from) {
  return g.inbox[to] + lines_bytes(g.ranks) +
         part_of(round % kSlots, g.ranks, from, static_cast<int>(blockIdx.x)) * kSlotBytes;
}
__device__ inline uint32_t* flags_of(const ExchangeGroup& g, int of) {
  return reinterpret_cast<uint32_t*>(g.inbox[of] + lines_bytes(g.ranks) + slots_bytes(g.ranks));
}
__device__ inline uint32_t* flag_of(const ExchangeGroup& g, int to, int from) {
  return flags_of(g, to) + static_cast<int>(blockIdx.x) * g.ranks + from;
}
__device__ inline uint32_t* rounds_of(const ExchangeGroup& g, int block) {
  return flags_of(g, g.rank) + kBlocksMax * g.ranks + block;
}

// ---- kernels begin and wait ----

// As those of kernels/cuda: set up while the one before still runs, and behind all that it has written.
template <class... Parameters, class... Arguments>
void launch_kernel(cudaStream_t stream, void (*kernel)(Parameters...), int64_t blocks, Arguments&&... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  BATON_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "{} blocks", blocks);
}
__device__ inline void begin_kernel() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Counts the looks at a word that does not change; false: the group is aborted. The processor's word is far away.
class Patience {
 public:
  __device__ explicit Patience(const uint32_t* aborted) : aborted_(aborted) {}
  __device__ bool left() { return ++looks_ % 1024 != 0 || *reinterpret_cast<const volatile uint32_t*>(aborted_) == 0; }

 private:
  const uint32_t* aborted_;
  uint32_t looks_ = 0;
};

// Two words, and with each of them the number of the round. 8 bytes are written and read at once.
__device__ inline void put_line(uint4* to, uint32_t a, uint32_t b, uint32_t round) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(a), "r"(round), "r"(b), "r"(round)
               : "memory");
}
__device__ inline uint2 take_line(const uint4* from, uint32_t round, const uint32_t* aborted) {
  Patience patience(aborted);
  uint4 v;
  do {
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from)
                 : "memory");
  } while ((v.y != round || v.w != round) && patience.left());
  return {v.x, v.z};
}

// By a warp, when the block's part of the round is in the slots of the others.
__device__ inline void raise_flags(const ExchangeGroup& g, uint32_t round) {
  const int other = static_cast<int>(threadIdx.x % 32);
  if (other >= g.ranks || other == g.rank) return;
  __threadfence_system();
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag_of(g, other, g.rank)), "r"(round) : "memory");
}
// By a warp. Returns when the others' parts of the round are in the slots of this one.
__device__ inline void await_flags(const ExchangeGroup& g, uint32_t round) {
  const int other = static_cast<int>(threadIdx.x % 32);
  if (other >= g.ranks || other == g.rank) return;
  const uint32_t* flag = flag_of(g, g.rank, other);
  Patience patience(g.aborted);
  uint32_t seen = 0;
  do {
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
  } while (static_cast<int32_t>(seen - round) < 0 && patience.left());
}
__device__ inline uint32_t rounds_done(const ExchangeGroup& g, int block) {
  return *reinterpret_cast<const volatile uint32_t*>(rounds_of(g, block));
}
__device__ inline uint32_t rounds_done(const ExchangeGroup& g) { return rounds_done(g, static_cast<int>(blockIdx.x)); }
__device__ inline void finish_rounds(const ExchangeGroup& g, uint32_t last) {
  __syncthreads();
  if (threadIdx.x == 0) *rounds_of(g, static_cast<int>(blockIdx.x)) = last;
}

// ---- sums ----

template <class T>
struct WordSums;
template <>
struct WordSums<float> {
  float sum = 0;
  __device__ void add(uint32_t word) { sum += __uint_as_float(word); }
  __device__ uint32_t word() const { return __float_as_uint(sum); }
  // Of a word's values: their squares' sum, and they times a scale and weights.
  __device__ static float square(uint32_t word) { return __uint_as_float(word) * __uint_as_float(word); }
  __device__ static uint32_t scaled(uint32_t word, float scale, const float* weight) {
    return __float_as_uint(__uint_as_float(word) * scale * weight[0]);
  }
};
template <>
struct WordSums<__nv_bfloat16> {
  float low = 0, high = 0;
  __device__ void add(uint32_t word) {
    low += __uint_as_float(word << 16);
    high += __uint_as_float(word & 0xffff0000U);
  }
  __device__ uint32_t word() const {
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&v);
  }
  __device__ static float square(uint32_t word) {
    WordSums v;
    v.add(word);
    return v.low * v.low + v.high * v.high;
  }
  __device__ static uint32_t scaled(uint32_t word, float scale, const float* weight) {
    WordSums v;
    v.add(word);
    v.low *= scale * weight[0];
    v.high *= scale * weight[1];
    return v.word();
  }
};
// ---- parts ----

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t largest_part(const RankParts& parts, int ranks) {
  int64_t most = 0;
  for (int r = 0; r < ranks; ++r) most = std::max(most, parts.first[r + 1] - parts.first[r]);
  return most;
}
inline RankParts scaled(RankParts parts, int ranks, int64_t by, int64_t unit) {
  for (int r = 0; r <= ranks; ++r) {
    BATON_CHECK(parts.first[r] * by % unit == 0, "rank {} begins at byte {}", r, parts.first[r] * by);
    parts.first[r] = parts.first[r] * by / unit;
  }
  return parts;
}

// Of large messages, in rounds.
template <class T>
void reduce_scatter_large(cudaStream_t stream, const ExchangeGroup& g, T* values, const RankParts& parts);
void all_gather_large(cudaStream_t stream, const ExchangeGroup& g, std::byte* rows, int64_t row_bytes,
                      const RankParts& parts);

}  // namespace baton::comm::cuda
