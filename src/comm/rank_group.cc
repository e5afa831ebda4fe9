#include "comm/rank_group.h"

#include <utility>

#include "base/check.h"

namespace baton::comm {

RankGroup::RankGroup(int ranks) : ranks_(static_cast<size_t>(ranks)), wait_(ranks) {
  BATON_CHECK(ranks >= 1, "a group of {} ranks", ranks);
  for (Pointers& e : exchanges_) e.resize(static_cast<size_t>(ranks));
}

Error RankGroup::failure() const {
  std::lock_guard lock(mutex_);
  return failure_.value_or(Error{ErrorCode::kCancelled, "the group was aborted"});
}

void RankGroup::abort(Error failure) {
  {
    std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::move(failure);
  }
  // The flag goes first: whoever sees the phase move, or reads the new phase before waiting for it to move, sees the
  // flag too.
  aborted_.store(true, std::memory_order_release);
  phase_.fetch_add(1, std::memory_order_acq_rel);
  futex_wake_all(phase_);
}

Status RankGroup::barrier() {
  const uint32_t phase = phase_.load(std::memory_order_acquire);
  if (aborted()) return failure();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size())) {
    // Nobody arrives again before the phase moves, so the count may be reset first.
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_acq_rel);
    if (size() > 1) futex_wake_all(phase_);
  } else {
    wait_.while_equal(phase_, phase);
  }
  if (aborted()) return failure();
  return {};
}

RankGroup::Pointers& RankGroup::next_exchange(int rank) {
  BATON_CHECK(rank >= 0 && rank < size(), "rank {} of {}", rank, size());
  return exchanges_[ranks_[static_cast<size_t>(rank)].operations++ % 2];
}

Result<std::span<const float* const>> RankGroup::all_gather(int rank, const float* mine) {
  // Each collective has a barrier, so a rank that writes the exchange of two collectives ago knows that everybody has
  // left it.
  Pointers& exchange = next_exchange(rank);
  exchange[static_cast<size_t>(rank)] = mine;
  BATON_TRY(barrier());
  return std::span<const float* const>(exchange);
}

}  // namespace baton::comm
