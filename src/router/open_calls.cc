#include "router/open_calls.h"

#include <algorithm>

namespace baton::router {

uint64_t OpenCalls::add(std::vector<uint64_t> workers, TimePoint deadline, End end) {
  std::lock_guard lock(mutex_);
  const uint64_t id = next_id_++;
  calls_.emplace(id, Call{std::move(workers), deadline, std::move(end)});
  return id;
}

void OpenCalls::remove(uint64_t call) {
  Call removed;  // what its end holds may hold more than the lock should see go
  std::lock_guard lock(mutex_);
  const auto found = calls_.find(call);
  if (found == calls_.end()) return;
  removed = std::move(found->second);
  calls_.erase(found);
}

template <typename Condition>
std::vector<OpenCalls::Call> OpenCalls::take(Condition condition) {
  std::vector<Call> taken;
  std::lock_guard lock(mutex_);
  for (auto call = calls_.begin(); call != calls_.end();) {
    if (condition(call->second)) {
      taken.push_back(std::move(call->second));
      call = calls_.erase(call);
    } else {
      ++call;
    }
  }
  return taken;
}

void OpenCalls::lose(uint64_t worker, const Error& why) {
  for (const Call& call : take([&](const Call& c) { return std::ranges::find(c.workers, worker) != c.workers.end(); }))
    call.end(worker, why);
}

void OpenCalls::expire(TimePoint now) {
  for (const Call& call : take([&](const Call& c) { return c.deadline <= now; }))
    call.end(0, error(ErrorCode::kDeadlineExceeded, "the call took longer than the router's --request-timeout"));
}

void OpenCalls::end_all(const Error& why) {
  for (const Call& call : take([](const Call&) { return true; })) call.end(0, why);
}

}  // namespace baton::router
