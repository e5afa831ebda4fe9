// Sums and gatherings among cards, by kernels alone: each rank pushes into the others' inboxes what they need of it,
// and waits in its own inbox for what the others push. No rank waits for a processor, so the kernels may be recorded,
// and one rank may launch what another repeats.
//
// 1. A block of a kernel meets the blocks of its number on the other ranks and no others. What it has done is a count
//    of rounds, in the inbox of its rank; the ranks' counts are equal, since all launch the same.
// 2. In each round every block sends something to every rank and waits for every rank. Who has seen a rank's round n
//    knows therefore that the kernels before that of round n are over there. Rounds take turns in an inbox, so that
//    what is written over has been read.
// 3. Small messages travel as lines of two words and the round's number beside each: what is there is whole, and one
//    way over the link is all that it takes. Large ones travel bare, with a flag behind each round of them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "comm/card_comm.h"

namespace baton::comm::cuda {

// The ranks' inboxes, as rank `rank` addresses them; zeroed before the first round.
struct ExchangeGroup {
  std::byte* inbox[kCardRanksMax];
  const uint32_t*
      aborted;  // a word of the processor's: once it is not 0, waits end and what was to come is unspecified
  int rank, ranks;
};
[[nodiscard]] size_t inbox_bytes(int ranks);

// Rank r has elements [first[r], first[r + 1]) of a buffer.
struct RankParts {
  int64_t first[kCardRanksMax + 1];
};

// The rank's part of values (all parts; T: float or bf16) becomes the sum over ranks, added up in their order in
// float32. Parts are of whole 4 bytes.
template <class T>
void push_reduce_scatter(cudaStream_t stream, const ExchangeGroup& group, T* values, const RankParts& parts);

// Buffers of rows that are divided alike.
struct GatheredRows {
  static constexpr int kMax = 4;
  std::byte* rows[kMax];
  int64_t row_bytes[kMax];  // whole 4 bytes
  int count;
};
// The others' rows are put beside the rank's own. parts: of rows.
void push_all_gather(cudaStream_t stream, const ExchangeGroup& group, const GatheredRows& buffers,
                     const RankParts& parts);

// residual (rows, width) += the sum over ranks of partial (rows, width), which is rounded to T first, on every rank;
// and normed = rms_norm(residual), if weight is not null: what a sum, the residual's addition and a gathering give.
[[nodiscard]] bool can_all_reduce_norm(int ranks, int64_t rows, int64_t row_bytes);
template <class T>
void push_all_reduce_norm(cudaStream_t stream, const ExchangeGroup& group, const T* partial, int64_t rows,
                          int64_t width, T* residual, const float* weight, float eps, T* normed);

// The sum of push_reduce_scatter() of what lies in all ranks' memory, when they have met. to (n): this rank's own, at
// element `first`.
struct RankAddends {
  const void* of_rank[kCardRanksMax];
  int ranks;
};
template <class T>
void sum_of_ranks(cudaStream_t stream, const RankAddends& addends, int64_t first, int64_t n, T* to);

}  // namespace baton::comm::cuda
