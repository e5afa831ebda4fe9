// Collectives between the rank threads of one process. Memory is shared, so they hand pointers round instead of bytes.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/futex.h"
#include "base/result.h"
#include "comm/short_wait.h"

namespace baton::comm {

// A fixed number of ranks, one thread each, that call the same collectives in the same order.
//
// 1. Results never depend on timing: pointers come in rank order, so that who adds up what they point to does too.
// 2. What a rank wrote before a collective is visible to every rank after it.
// 3. After abort() every collective, begun or to come, returns the error that abort() was given, so a rank that fails
//    strands nobody. An aborted group stays aborted.
class RankGroup {
 public:
  // ranks >= 1.
  explicit RankGroup(int ranks);
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(ranks_.size()); }

  // Returns when all ranks have called it.
  Status barrier();

  // Every rank gives a pointer (null is allowed) and gets those of all, in rank order. Nothing is copied: the
  // pointed-to memory must stay as it is until a later collective tells its owner that the others have read it. The
  // span holds until this rank's next collective.
  Result<std::span<const float* const>> all_gather(int rank, const float* mine);

  // Thread safe, also from threads that are no rank. The first error stays.
  void abort(Error failure);
  [[nodiscard]] bool aborted() const { return aborted_.load(std::memory_order_acquire); }

 private:
  // Of one rank, written by its thread only; on a cache line of its own.
  struct alignas(64) RankState {
    uint64_t operations = 0;  // collectives that exchange something, so far
  };
  using Pointers = std::vector<const float*>;  // (ranks)

  Pointers& next_exchange(int rank);
  [[nodiscard]] Error failure() const;

  std::vector<RankState> ranks_;
  // They take turns: a fast rank may begin the next collective while a slow one still reads the last one's.
  Pointers exchanges_[2];
  ShortWait wait_;
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) FutexWord phase_{0};  // barriers completed; also moved by abort()
  std::atomic<bool> aborted_{false};
  mutable std::mutex mutex_;
  std::optional<Error> failure_;
};

}  // namespace baton::comm
