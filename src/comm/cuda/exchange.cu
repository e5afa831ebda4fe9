#include "comm/cuda/exchange.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "base/cuda/cuda_check.h"

namespace baton::comm::cuda {
namespace {

using bf16 = __nv_bfloat16;

constexpr int kBlocksMax = 64;
constexpr int kThreads = 512;             // of a block, and lines that a round of one has from a rank
constexpr int64_t kSlotBytes = 32 << 10;  // that a round of a block has from a rank, of a large message

// ---- an inbox ----
//
// lines: (half, from rank, block, thread); slots: (half, from rank, block, kSlotBytes); flags: (block, from rank): the
// last round that is whole in the slots; rounds: (block), this rank's own count.

__host__ __device__ inline size_t part_of(uint32_t round, int ranks, int from, int block) {
  return (static_cast<size_t>(round & 1) * static_cast<size_t>(ranks) + static_cast<size_t>(from)) * kBlocksMax +
         static_cast<size_t>(block);
}
__host__ __device__ inline size_t lines_bytes(int ranks) {
  return part_of(0, ranks, ranks, 0) * 2 * kThreads * sizeof(uint4);
}
__host__ __device__ inline size_t slots_bytes(int ranks) { return part_of(0, ranks, ranks, 0) * 2 * kSlotBytes; }

__device__ inline uint4* line_of(const ExchangeGroup& g, int to, uint32_t round, int from) {
  return reinterpret_cast<uint4*>(g.inbox[to]) +
         part_of(round, g.ranks, from, static_cast<int>(blockIdx.x)) * kThreads + threadIdx.x;
}
__device__ inline std::byte* slot_of(const ExchangeGroup& g, int to, uint32_t round, int from) {
  return g.inbox[to] + lines_bytes(g.ranks) + part_of(round, g.ranks, from, static_cast<int>(blockIdx.x)) * kSlotBytes;
}
__device__ inline uint32_t* flag_of(const ExchangeGroup& g, int to, int from) {
  return reinterpret_cast<uint32_t*>(g.inbox[to] + lines_bytes(g.ranks) + slots_bytes(g.ranks)) +
         static_cast<int>(blockIdx.x) * g.ranks + from;
}
__device__ inline uint32_t* rounds_of(const ExchangeGroup& g) {
  return flag_of(g, g.rank, 0) - static_cast<int>(blockIdx.x) * g.ranks + kBlocksMax * g.ranks + blockIdx.x;
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

// Called by all threads when the block's part of the round is in the slots of the others. Returns when theirs is here.
__device__ inline void meet(const ExchangeGroup& g, uint32_t round) {
  __syncthreads();
  const int other = static_cast<int>(threadIdx.x);
  if (other < g.ranks && other != g.rank) {
    __threadfence_system();
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag_of(g, other, g.rank)), "r"(round) : "memory");
    const uint32_t* flag = flag_of(g, g.rank, other);
    Patience patience(g.aborted);
    uint32_t seen = 0;
    do {
      asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    } while (static_cast<int32_t>(seen - round) < 0 && patience.left());
  }
  __syncthreads();
}
__device__ inline uint32_t rounds_done(const ExchangeGroup& g) {
  return *reinterpret_cast<const volatile uint32_t*>(rounds_of(g));
}
__device__ inline void finish_rounds(const ExchangeGroup& g, uint32_t last) {
  __syncthreads();
  if (threadIdx.x == 0) *rounds_of(g) = last;
}

// ---- sums ----

template <class T>
struct WordSums;
template <>
struct WordSums<float> {
  float sum = 0;
  __device__ void add(uint32_t word) { sum += __uint_as_float(word); }
  __device__ uint32_t word() const { return __float_as_uint(sum); }
};
template <>
struct WordSums<bf16> {
  float low = 0, high = 0;
  __device__ void add(uint32_t word) {
    low += __uint_as_float(word << 16);
    high += __uint_as_float(word & 0xffff0000U);
  }
  __device__ uint32_t word() const {
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&v);
  }
};
template <class T, class Unit>
struct UnitSums {
  static constexpr int kWords = sizeof(Unit) / sizeof(uint32_t);
  WordSums<T> sums[kWords];
  __device__ void add(const Unit& unit) {
    const auto* words = reinterpret_cast<const uint32_t*>(&unit);
#pragma unroll
    for (int i = 0; i < kWords; ++i) sums[i].add(words[i]);
  }
  __device__ Unit unit() const {
    Unit out;
    auto* words = reinterpret_cast<uint32_t*>(&out);
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = sums[i].word();
    return out;
  }
};

// ---- small messages ----

__device__ inline uint2 load_line(const uint32_t* words, int64_t at, int64_t end) {
  return {at < end ? words[at] : 0, at + 1 < end ? words[at + 1] : 0};
}
__device__ inline void store_line(uint32_t* words, int64_t at, int64_t end, uint2 line) {
  if (at < end) words[at] = line.x;
  if (at + 1 < end) words[at + 1] = line.y;
}

// parts: of words. The line of a block's first thread is sent and awaited also where a part has no words.
template <class T>
__global__ void __launch_bounds__(kThreads) reduce_scatter_lines(ExchangeGroup g, uint32_t* values, RankParts parts) {
  begin_kernel();
  const uint32_t round = rounds_done(g) + 1;
  const int64_t at = 2 * (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
  const bool always = threadIdx.x == 0;
  for (int i = 1; i < g.ranks; ++i) {
    const int to = (g.rank + i) % g.ranks;
    const int64_t n = parts.first[to + 1] - parts.first[to];
    if (at >= n && !always) continue;
    const uint2 line = load_line(values + parts.first[to], at, n);
    put_line(line_of(g, to, round, g.rank), line.x, line.y, round);
  }
  uint32_t* own = values + parts.first[g.rank];
  const int64_t n = parts.first[g.rank + 1] - parts.first[g.rank];
  if (at < n || always) {
    WordSums<T> x, y;
    for (int r = 0; r < g.ranks; ++r) {
      const uint2 line =
          r == g.rank ? load_line(own, at, n) : take_line(line_of(g, g.rank, round, r), round, g.aborted);
      x.add(line.x);
      y.add(line.y);
    }
    store_line(own, at, n, {x.word(), y.word()});
  }
  finish_rounds(g, round);
}

// Buffer b has the lines [first_line[b], first_line[b + 1]) of every rank, as many as its largest part needs.
struct LinesOfBuffers {
  uint32_t* words[GatheredRows::kMax];
  int64_t row_words[GatheredRows::kMax];
  int64_t first_line[GatheredRows::kMax + 1];
  int count;
};
__global__ void __launch_bounds__(kThreads) all_gather_lines(ExchangeGroup g, LinesOfBuffers buffers, RankParts rows) {
  begin_kernel();
  const uint32_t round = rounds_done(g) + 1;
  int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  uint32_t* words = buffers.words[0];
  int64_t row_words = buffers.row_words[0], line = at;
  bool has_any = at < buffers.first_line[buffers.count];
#pragma unroll
  for (int b = 1; b < GatheredRows::kMax; ++b) {
    if (b < buffers.count && at >= buffers.first_line[b]) {
      words = buffers.words[b];
      row_words = buffers.row_words[b];
      line = at - buffers.first_line[b];
    }
  }
  at = 2 * line;
  const bool always = threadIdx.x == 0;
  const auto count_of = [&](int r) { return has_any ? (rows.first[r + 1] - rows.first[r]) * row_words : 0; };
  if (const int64_t n = count_of(g.rank); at < n || always) {
    const uint2 own = load_line(words + rows.first[g.rank] * row_words, at, n);
    for (int i = 1; i < g.ranks; ++i) {
      const int to = (g.rank + i) % g.ranks;
      put_line(line_of(g, to, round, g.rank), own.x, own.y, round);
    }
  }
  for (int i = 1; i < g.ranks; ++i) {
    const int from = (g.rank + i) % g.ranks;
    const int64_t n = count_of(from);
    if (at >= n && !always) continue;
    const uint2 theirs = take_line(line_of(g, g.rank, round, from), round, g.aborted);
    store_line(words + rows.first[from] * row_words, at, n, theirs);
  }
  finish_rounds(g, round);
}

// ---- large messages ----

template <class Unit>
constexpr int64_t kSlotUnits = kSlotBytes / static_cast<int64_t>(sizeof(Unit));

// parts: of units. Past L1, which does not know what other cards write.
template <class T, class Unit>
__global__ void __launch_bounds__(kThreads)
    reduce_scatter_slots(ExchangeGroup g, Unit* values, RankParts parts, int rounds) {
  begin_kernel();
  const uint32_t before = rounds_done(g);
  for (int t = 0; t < rounds; ++t) {
    const uint32_t round = before + 1 + static_cast<uint32_t>(t);
    const int64_t begin = (static_cast<int64_t>(t) * gridDim.x + blockIdx.x) * kSlotUnits<Unit>;
    for (int i = 1; i < g.ranks; ++i) {
      const int to = (g.rank + i) % g.ranks;
      const int64_t n = min(parts.first[to + 1] - parts.first[to] - begin, kSlotUnits<Unit>);
      const Unit* from = values + parts.first[to] + begin;
      Unit* slot = reinterpret_cast<Unit*>(slot_of(g, to, round, g.rank));
#pragma unroll 4
      for (int64_t u = threadIdx.x; u < n; u += kThreads) slot[u] = from[u];
    }
    meet(g, round);
    Unit* own = values + parts.first[g.rank] + begin;
    const int64_t n = min(parts.first[g.rank + 1] - parts.first[g.rank] - begin, kSlotUnits<Unit>);
    for (int64_t u = threadIdx.x; u < n; u += kThreads) {
      UnitSums<T, Unit> sums;
      for (int r = 0; r < g.ranks; ++r)
        sums.add(r == g.rank ? own[u] : __ldcg(reinterpret_cast<const Unit*>(slot_of(g, g.rank, round, r)) + u));
      own[u] = sums.unit();
    }
  }
  finish_rounds(g, before + static_cast<uint32_t>(rounds));
}

template <class Unit>
__global__ void __launch_bounds__(kThreads)
    all_gather_slots(ExchangeGroup g, Unit* values, RankParts parts, int rounds) {
  begin_kernel();
  const uint32_t before = rounds_done(g);
  for (int t = 0; t < rounds; ++t) {
    const uint32_t round = before + 1 + static_cast<uint32_t>(t);
    const int64_t begin = (static_cast<int64_t>(t) * gridDim.x + blockIdx.x) * kSlotUnits<Unit>;
    const auto units_of = [&](int r) { return min(parts.first[r + 1] - parts.first[r] - begin, kSlotUnits<Unit>); };
    const int64_t n = units_of(g.rank);
    const Unit* own = values + parts.first[g.rank] + begin;
    for (int i = 1; i < g.ranks; ++i) {
      Unit* slot = reinterpret_cast<Unit*>(slot_of(g, (g.rank + i) % g.ranks, round, g.rank));
#pragma unroll 4
      for (int64_t u = threadIdx.x; u < n; u += kThreads) slot[u] = own[u];
    }
    meet(g, round);
    for (int i = 1; i < g.ranks; ++i) {
      const int from = (g.rank + i) % g.ranks;
      const int64_t theirs = units_of(from);
      const Unit* slot = reinterpret_cast<const Unit*>(slot_of(g, g.rank, round, from));
      Unit* to = values + parts.first[from] + begin;
#pragma unroll 4
      for (int64_t u = threadIdx.x; u < theirs; u += kThreads) to[u] = __ldcg(slot + u);
    }
  }
  finish_rounds(g, before + static_cast<uint32_t>(rounds));
}

// ---- which kernel ----

int64_t largest_part(const RankParts& parts, int ranks) {
  int64_t most = 0;
  for (int r = 0; r < ranks; ++r) most = std::max(most, parts.first[r + 1] - parts.first[r]);
  return most;
}
RankParts scaled(RankParts parts, int ranks, int64_t by, int64_t unit) {
  for (int r = 0; r <= ranks; ++r) {
    BATON_CHECK(parts.first[r] * by % unit == 0, "rank {} begins at byte {}", r, parts.first[r] * by);
    parts.first[r] = parts.first[r] * by / unit;
  }
  return parts;
}
// Whether everything begins and ends on 16 bytes. Addresses may differ from rank to rank, but for their last four bits:
// those depend on the parts, which are the same everywhere, and on buffers, which begin on 64 bytes.
bool in_sixteens(const void* values, const RankParts& parts, int ranks, int64_t element_bytes) {
  bool whole = reinterpret_cast<uintptr_t>(values) % 16 == 0;
  for (int r = 0; r <= ranks; ++r) whole = whole && parts.first[r] * element_bytes % 16 == 0;
  return whole;
}

constexpr int64_t kLinesMax = int64_t{kBlocksMax} * kThreads;
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct SlotRounds {
  int64_t blocks;
  int rounds;
};
// As many blocks as have something to do: a round's units are many, so that rounds are few.
template <class Unit>
SlotRounds slot_rounds(const RankParts& parts, int ranks) {
  const int64_t slots = ceil_div(std::max<int64_t>(largest_part(parts, ranks), 1), kSlotUnits<Unit>);
  const int64_t blocks = std::min<int64_t>(slots, kBlocksMax);
  return {blocks, static_cast<int>(ceil_div(slots, blocks))};
}

template <class T, class Unit>
void reduce_scatter_large(cudaStream_t stream, const ExchangeGroup& g, T* values, const RankParts& parts) {
  const RankParts units = scaled(parts, g.ranks, sizeof(T), sizeof(Unit));
  const SlotRounds plan = slot_rounds<Unit>(units, g.ranks);
  launch_kernel(stream, reduce_scatter_slots<T, Unit>, plan.blocks, g, reinterpret_cast<Unit*>(values), units,
                plan.rounds);
}
template <class Unit>
void all_gather_large(cudaStream_t stream, const ExchangeGroup& g, std::byte* rows, int64_t row_bytes,
                      const RankParts& parts) {
  const RankParts units = scaled(parts, g.ranks, row_bytes, sizeof(Unit));
  const SlotRounds plan = slot_rounds<Unit>(units, g.ranks);
  launch_kernel(stream, all_gather_slots<Unit>, plan.blocks, g, reinterpret_cast<Unit*>(rows), units, plan.rounds);
}

template <class T>
__global__ void sum_in_place(RankAddends addends, int64_t first, int64_t n, T* to) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    float sum = 0;
    for (int r = 0; r < addends.ranks; ++r)
      sum += static_cast<float>(static_cast<const T*>(addends.of_rank[r])[first + i]);
    to[i] = static_cast<T>(sum);
  }
}

}  // namespace

size_t inbox_bytes(int ranks) {
  return lines_bytes(ranks) + slots_bytes(ranks) + kBlocksMax * (static_cast<size_t>(ranks) + 1) * sizeof(uint32_t);
}

template <class T>
void push_reduce_scatter(cudaStream_t stream, const ExchangeGroup& g, T* values, const RankParts& parts) {
  const RankParts words = scaled(parts, g.ranks, sizeof(T), sizeof(uint32_t));
  const int64_t lines = ceil_div(largest_part(words, g.ranks), 2);
  if (lines <= kLinesMax) {
    launch_kernel(stream, reduce_scatter_lines<T>, std::max<int64_t>(1, ceil_div(lines, kThreads)), g,
                  reinterpret_cast<uint32_t*>(values), words);
  } else if (in_sixteens(values, parts, g.ranks, sizeof(T))) {
    reduce_scatter_large<T, uint4>(stream, g, values, parts);
  } else {
    reduce_scatter_large<T, uint32_t>(stream, g, values, parts);
  }
}
template void push_reduce_scatter(cudaStream_t, const ExchangeGroup&, float*, const RankParts&);
template void push_reduce_scatter(cudaStream_t, const ExchangeGroup&, bf16*, const RankParts&);

void push_all_gather(cudaStream_t stream, const ExchangeGroup& g, const GatheredRows& buffers, const RankParts& parts) {
  // Those that are small travel together.
  const int64_t rows = largest_part(parts, g.ranks);
  LinesOfBuffers small{};
  for (int b = 0; b < buffers.count; ++b) {
    const int64_t row_words = buffers.row_bytes[b] / static_cast<int64_t>(sizeof(uint32_t));
    BATON_CHECK(row_words * static_cast<int64_t>(sizeof(uint32_t)) == buffers.row_bytes[b], "rows of {} bytes",
                buffers.row_bytes[b]);
    const int64_t end = small.first_line[small.count] + ceil_div(rows * row_words, 2);
    if (end <= kLinesMax) {
      small.words[small.count] = reinterpret_cast<uint32_t*>(buffers.rows[b]);
      small.row_words[small.count] = row_words;
      small.first_line[++small.count] = end;
    } else if (in_sixteens(buffers.rows[b], parts, g.ranks, buffers.row_bytes[b])) {
      all_gather_large<uint4>(stream, g, buffers.rows[b], buffers.row_bytes[b], parts);
    } else {
      all_gather_large<uint32_t>(stream, g, buffers.rows[b], buffers.row_bytes[b], parts);
    }
  }
  if (small.count == 0) return;
  const int64_t lines = small.first_line[small.count];
  launch_kernel(stream, all_gather_lines, std::max<int64_t>(1, ceil_div(lines, kThreads)), g, small, parts);
}

template <class T>
void sum_of_ranks(cudaStream_t stream, const RankAddends& addends, int64_t first, int64_t n, T* to) {
  if (n == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(ceil_div(n, kThreads), 1024));
  sum_in_place<<<blocks, kThreads, 0, stream>>>(addends, first, n, to);
  BATON_CUDA_CHECK(cudaGetLastError(), "{} sums", n);
}
template void sum_of_ranks(cudaStream_t, const RankAddends&, int64_t, int64_t, float*);
template void sum_of_ranks(cudaStream_t, const RankAddends&, int64_t, int64_t, bf16*);

}  // namespace baton::comm::cuda
