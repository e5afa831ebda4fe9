#include "comm/cuda/exchange.cuh"

namespace baton::comm::cuda {
namespace {

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

// A round is pushed while the one before it is on its way, and read after that. Who raises the flag of round n has read
// round n - 2, since its workers have; a worker that pushes round n + 1 has seen the flags of n - 1, so that n - 3 is
// read everywhere, which lay in the same slot. A kernel begins when those before it are over.

template <class Unit>
constexpr int64_t kSlotUnits = kSlotBytes / static_cast<int64_t>(sizeof(Unit));

// A round of a block has `units` of each part: block b in round t those from (t * blocks + b) * units on.
struct SlotRounds {
  int64_t blocks, units;
  int rounds;
  [[nodiscard]] __device__ int64_t first(int t) const {
    return (t * blocks + static_cast<int64_t>(blockIdx.x)) * units;
  }
  [[nodiscard]] __device__ int64_t count(const RankParts& parts, int rank, int t) const {
    return min(parts.first[rank + 1] - parts.first[rank] - first(t), units);
  }
};

template <class Push, class Take>
__device__ inline void go_rounds(const ExchangeGroup& g, int rounds, const Push& push, const Take& take) {
  const uint32_t first = rounds_done(g) + 1;
  const bool works = threadIdx.x < kWorkers;
  for (int t = 0; t <= rounds; ++t) {
    const uint32_t round = first + static_cast<uint32_t>(t);
    if (t < rounds) {
      if (works) push(t, round);
      __syncthreads();
      if (!works) raise_flags(g, round);
    }
    if (t == 0 || !works) continue;
    if (threadIdx.x < 32) await_flags(g, round - 1);
    asm volatile("bar.sync 1, %0;" ::"n"(kWorkers) : "memory");
    take(t - 1, round - 1);
  }
  finish_rounds(g, first + static_cast<uint32_t>(rounds) - 1);
}

// By the workers; past L1, which does not know what other cards write.
template <class Unit>
__device__ inline void copy_units(const Unit* from, int64_t n, Unit* to) {
  constexpr int kAhead = 4;
  for (int64_t u = threadIdx.x; u < n; u += kAhead * kWorkers) {
    Unit v[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (u + j * kWorkers < n) v[j] = __ldcg(from + u + j * kWorkers);
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (u + j * kWorkers < n) to[u + j * kWorkers] = v[j];
  }
}

// parts: of units.
template <class T, class Unit>
__global__ void __launch_bounds__(kThreads)
    reduce_scatter_slots(ExchangeGroup g, Unit* values, RankParts parts, SlotRounds plan) {
  begin_kernel();
  const auto push = [&](int t, uint32_t round) {
    for (int i = 1; i < g.ranks; ++i) {
      const int to = (g.rank + i) % g.ranks;
      copy_units<Unit>(values + parts.first[to] + plan.first(t), plan.count(parts, to, t),
                       reinterpret_cast<Unit*>(slot_of(g, to, round, g.rank)));
    }
  };
  const auto take = [&](int t, uint32_t round) {
    Unit* own = values + parts.first[g.rank] + plan.first(t);
    const int64_t n = plan.count(parts, g.rank, t);
    for (int64_t u = threadIdx.x; u < n; u += kWorkers) {
      UnitSums<T, Unit> sums;
      for (int r = 0; r < g.ranks; ++r)
        sums.add(r == g.rank ? own[u] : __ldcg(reinterpret_cast<const Unit*>(slot_of(g, g.rank, round, r)) + u));
      own[u] = sums.unit();
    }
  };
  go_rounds(g, plan.rounds, push, take);
}

template <class Unit>
__global__ void __launch_bounds__(kThreads)
    all_gather_slots(ExchangeGroup g, Unit* values, RankParts parts, SlotRounds plan) {
  begin_kernel();
  const auto push = [&](int t, uint32_t round) {
    for (int i = 1; i < g.ranks; ++i)
      copy_units<Unit>(values + parts.first[g.rank] + plan.first(t), plan.count(parts, g.rank, t),
                       reinterpret_cast<Unit*>(slot_of(g, (g.rank + i) % g.ranks, round, g.rank)));
  };
  const auto take = [&](int t, uint32_t round) {
    for (int i = 1; i < g.ranks; ++i) {
      const int from = (g.rank + i) % g.ranks;
      copy_units<Unit>(reinterpret_cast<const Unit*>(slot_of(g, g.rank, round, from)), plan.count(parts, from, t),
                       values + parts.first[from] + plan.first(t));
    }
  };
  go_rounds(g, plan.rounds, push, take);
}

// Whether everything begins and ends on 16 bytes. Addresses may differ from rank to rank, but for their last four bits:
// those depend on the parts, which are the same everywhere, and on buffers, which begin on 64 bytes.
bool in_sixteens(const void* values, const RankParts& parts, int ranks, int64_t element_bytes) {
  bool whole = reinterpret_cast<uintptr_t>(values) % 16 == 0;
  for (int r = 0; r <= ranks; ++r) whole = whole && parts.first[r] * element_bytes % 16 == 0;
  return whole;
}

// As many blocks as there is work for, rounds of equal size.
template <class Unit>
SlotRounds slot_rounds(const RankParts& parts, int ranks) {
  const int64_t n = std::max<int64_t>(largest_part(parts, ranks), 1);
  SlotRounds plan{};
  plan.blocks = std::min<int64_t>(ceil_div(n, kWorkers), kBlocksMax);
  plan.rounds = static_cast<int>(ceil_div(n, plan.blocks * kSlotUnits<Unit>));
  plan.units = ceil_div(n, plan.blocks * plan.rounds);
  return plan;
}

template <class T, class Unit>
void reduce_scatter_units(cudaStream_t stream, const ExchangeGroup& g, T* values, const RankParts& parts) {
  const RankParts units = scaled(parts, g.ranks, sizeof(T), sizeof(Unit));
  const SlotRounds plan = slot_rounds<Unit>(units, g.ranks);
  launch_kernel(stream, reduce_scatter_slots<T, Unit>, plan.blocks, g, reinterpret_cast<Unit*>(values), units, plan);
}
template <class Unit>
void all_gather_units(cudaStream_t stream, const ExchangeGroup& g, std::byte* rows, int64_t row_bytes,
                      const RankParts& parts) {
  const RankParts units = scaled(parts, g.ranks, row_bytes, sizeof(Unit));
  const SlotRounds plan = slot_rounds<Unit>(units, g.ranks);
  launch_kernel(stream, all_gather_slots<Unit>, plan.blocks, g, reinterpret_cast<Unit*>(rows), units, plan);
}

}  // namespace

template <class T>
void reduce_scatter_large(cudaStream_t stream, const ExchangeGroup& g, T* values, const RankParts& parts) {
  in_sixteens(values, parts, g.ranks, sizeof(T)) ? reduce_scatter_units<T, uint4>(stream, g, values, parts)
                                                 : reduce_scatter_units<T, uint32_t>(stream, g, values, parts);
}
template void reduce_scatter_large(cudaStream_t, const ExchangeGroup&, float*, const RankParts&);
template void reduce_scatter_large(cudaStream_t, const ExchangeGroup&, __nv_bfloat16*, const RankParts&);

void all_gather_large(cudaStream_t stream, const ExchangeGroup& g, std::byte* rows, int64_t row_bytes,
                      const RankParts& parts) {
  in_sixteens(rows, parts, g.ranks, row_bytes) ? all_gather_units<uint4>(stream, g, rows, row_bytes, parts)
                                               : all_gather_units<uint32_t>(stream, g, rows, row_bytes, parts);
}

}  // namespace baton::comm::cuda
