// The calls that wait for workers, so that they end when there is nothing left to wait for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace baton::router {

// Thread safe.
class OpenCalls {
 public:
  // `worker`: the id of the one that is lost, 0 when the call itself must end. Called once at most, on the thread that
  // found out, and not after remove() has returned on that thread; must not block.
  using End = std::function<void(uint64_t worker, const Error& why)>;

  static constexpr TimePoint kNoDeadline = TimePoint::max();

  // The ids of the workers that the call waits for.
  uint64_t add(std::vector<uint64_t> workers, TimePoint deadline, End end);
  // The call has ended. Unknown ids, also of calls that were ended here, are no error.
  void remove(uint64_t call);

  // Ends every call that waits for this worker.
  void lose(uint64_t worker, const Error& why);
  // Ends every call whose time is up.
  void expire(TimePoint now);
  void end_all(const Error& why);

 private:
  struct Call {
    std::vector<uint64_t> workers;
    TimePoint deadline;
    End end;
  };
  // Out of the table, so that their ends are called unlocked.
  template <typename Condition>
  std::vector<Call> take(Condition condition);

  std::mutex mutex_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Call> calls_;
};

}  // namespace baton::router
