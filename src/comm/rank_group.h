// Where the rank threads of one process meet. comm/thread_comm.h makes the operations of comm/comm.h of it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/futex.h"
#include "base/result.h"
#include "comm/comm.h"
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

  // Every rank gives a few pointers (null is allowed) and gets those of all, in rank order. Nothing is copied: the
  // pointed-to memory must stay as it is until a later collective tells its owner that the others have read it. The
  // span holds until this rank's next collective.
  using Pointers = std::array<const void*, Comm::kBuffersMax>;
  Result<std::span<const Pointers>> exchange(int rank, const Pointers& mine);

  // Of two ranks: one copies bytes into a mailbox, the other one out of it. post() waits while the mailbox is full,
  // fetch() while it is empty; both sides mean the same number of bytes. The mailbox is full until take() has returned.
  Status post(int from, int to, std::span<const std::byte> bytes);
  Status fetch(int from, int to, const std::function<Status(std::span<const std::byte>)>& take);
  Status fetch(int from, int to, std::span<std::byte> bytes);

  // Thread safe, also from threads that are no rank. The first error stays.
  void abort(Error failure);
  [[nodiscard]] bool aborted() const { return aborted_.load(std::memory_order_acquire); }
  // The error of abort(), once it was called.
  [[nodiscard]] Status status() const;
  // A word that abort() makes 1, now if it was called: for who waits where no thread can be woken. Until unwatch().
  void watch(std::atomic<uint32_t>& word);
  void unwatch(std::atomic<uint32_t>& word);

 private:
  // Of one rank, written by its thread only; on a cache line of its own.
  struct alignas(64) RankState {
    uint64_t operations = 0;  // collectives that exchange something, so far
  };
  struct Mailbox {
    FutexWord turns{0};  // odd: full. The thread whose turn it is owns `bytes`.
    std::vector<std::byte> bytes;
  };

  // Returns when the box is full, or empty.
  Status wait_for(const Mailbox& box, bool full) const;
  Mailbox& mailbox(int from, int to);
  [[nodiscard]] Error failure() const;

  std::vector<RankState> ranks_;
  // They take turns: a fast rank may begin the next collective while a slow one still reads the last one's.
  std::vector<Pointers> exchanges_[2];  // (ranks)
  std::vector<Mailbox> mail_;           // (from, to)
  ShortWait wait_;
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) FutexWord phase_{0};  // barriers completed; also moved by abort()
  std::atomic<bool> aborted_{false};
  mutable std::mutex mutex_;
  std::optional<Error> failure_;
  std::vector<std::atomic<uint32_t>*> watched_;
};

}  // namespace baton::comm
