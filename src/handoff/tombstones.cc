#include "handoff/tombstones.h"

#include <utility>

namespace baton::handoff {
namespace {
constexpr size_t kMessageBytesMax = 256;
}

void Tombstones::bury(AttemptId attempt, EndCause cause, bool awaits_request, TimePoint now) {
  if (const auto found = index_.find(attempt); found != index_.end()) {
    stones_.erase(found->second);
    index_.erase(found);
  }
  if (cause.message.size() > kMessageBytesMax) cause.message.resize(kMessageBytesMax);
  stones_.push_back({attempt, std::move(cause), awaits_request, now + life_});
  index_[attempt] = std::prev(stones_.end());
  if (stones_.size() <= max_) return;
  index_.erase(stones_.front().attempt);
  stones_.pop_front();
}

std::optional<EndCause> Tombstones::dig_up(AttemptId attempt, bool is_request) {
  const auto found = index_.find(attempt);
  if (found == index_.end()) return std::nullopt;
  const Stone stone = std::move(*found->second);
  stones_.erase(found->second);
  index_.erase(found);
  if (stone.awaits_request != is_request) return std::nullopt;  // the id is used again
  return stone.cause;
}

void Tombstones::expire(TimePoint now) {
  while (!stones_.empty() && stones_.front().expires <= now) {
    index_.erase(stones_.front().attempt);
    stones_.pop_front();
  }
}

}  // namespace baton::handoff
