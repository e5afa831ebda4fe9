#include "comm/rank_group.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::comm {

RankGroup::RankGroup(int ranks)
    : ranks_(static_cast<size_t>(ranks)), mail_(static_cast<size_t>(ranks) * static_cast<size_t>(ranks)), wait_(ranks) {
  BATON_CHECK(ranks >= 1, "a group of {} ranks", ranks);
  for (std::vector<Pointers>& e : exchanges_) e.resize(static_cast<size_t>(ranks));
}

Error RankGroup::failure() const {
  std::lock_guard lock(mutex_);
  return failure_.value_or(Error{ErrorCode::kCancelled, "the group was aborted"});
}

void RankGroup::abort(Error failure) {
  {
    std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::move(failure);
    for (std::atomic<uint32_t>* word : watched_) word->store(1, std::memory_order_release);
  }
  // The flag goes first: whoever sees the phase move, or reads the new phase before waiting for it to move, sees the
  // flag too.
  aborted_.store(true, std::memory_order_release);
  phase_.fetch_add(1, std::memory_order_acq_rel);
  futex_wake_all(phase_);
  // The same for those who wait for mail, without giving the turn to anybody.
  for (Mailbox& box : mail_) {
    box.turns.fetch_add(2, std::memory_order_acq_rel);
    futex_wake_all(box.turns);
  }
}

Status RankGroup::status() const {
  if (aborted()) return failure();
  return {};
}

void RankGroup::watch(std::atomic<uint32_t>& word) {
  std::lock_guard lock(mutex_);
  watched_.push_back(&word);
  if (failure_) word.store(1, std::memory_order_release);
}

void RankGroup::unwatch(std::atomic<uint32_t>& word) {
  std::lock_guard lock(mutex_);
  std::erase(watched_, &word);
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

Result<std::span<const RankGroup::Pointers>> RankGroup::exchange(int rank, const Pointers& mine) {
  BATON_CHECK(rank >= 0 && rank < size(), "rank {} of {}", rank, size());
  const auto at = static_cast<size_t>(rank);
  // Each collective has a barrier, so a rank that writes the exchange of two collectives ago knows that everybody has
  // left it. But for those of an aborted group, which hold nobody.
  if (aborted()) return failure();
  std::vector<Pointers>& exchange = exchanges_[ranks_[at].operations++ % 2];
  exchange[at] = mine;
  BATON_TRY(barrier());
  return std::span<const Pointers>(exchange);
}

RankGroup::Mailbox& RankGroup::mailbox(int from, int to) {
  BATON_CHECK(from >= 0 && from < size() && to >= 0 && to < size(), "from {} to {} of {}", from, to, size());
  return mail_[static_cast<size_t>(from) * ranks_.size() + static_cast<size_t>(to)];
}

Status RankGroup::wait_for(const Mailbox& box, bool full) const {
  for (;;) {
    const uint32_t turns = box.turns.load(std::memory_order_acquire);
    if (aborted()) return failure();
    if ((turns % 2 == 1) == full) return {};
    futex_wait(box.turns, turns);
  }
}

Status RankGroup::post(int from, int to, std::span<const std::byte> bytes) {
  Mailbox& box = mailbox(from, to);
  BATON_TRY(wait_for(box, false));
  box.bytes.assign(bytes.begin(), bytes.end());
  box.turns.fetch_add(1, std::memory_order_acq_rel);
  futex_wake_all(box.turns);
  return {};
}

Status RankGroup::fetch(int from, int to, std::span<std::byte> bytes) {
  return fetch(from, to, [&](std::span<const std::byte> sent) -> Status {
    BATON_CHECK(sent.size() == bytes.size(), "{} bytes sent, {} expected", sent.size(), bytes.size());
    std::copy(sent.begin(), sent.end(), bytes.begin());
    return {};
  });
}

Status RankGroup::fetch(int from, int to, const std::function<Status(std::span<const std::byte>)>& take) {
  Mailbox& box = mailbox(from, to);
  BATON_TRY(wait_for(box, true));
  BATON_TRY(take(box.bytes));
  box.turns.fetch_add(1, std::memory_order_acq_rel);
  futex_wake_all(box.turns);
  return {};
}

}  // namespace baton::comm
