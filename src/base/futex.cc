#include "base/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

namespace baton {

static_assert(sizeof(FutexWord) == sizeof(uint32_t) && FutexWord::is_always_lock_free);

void futex_wait(const FutexWord& word, uint32_t old) {
  // The kernel compares once more, so a change in between is not slept over; EINTR and EAGAIN look again.
  while (word.load(std::memory_order_acquire) == old)
    ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
}

void futex_wake_all(const FutexWord& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace baton
