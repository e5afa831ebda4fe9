#include "base/wake_fd.h"

#include <sys/eventfd.h>

#include "base/check.h"

namespace baton {

WakeFd::WakeFd() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  BATON_CHECK(fd_.valid(), "eventfd: {}; raise the limit of open files", errno_text());
}

void WakeFd::wake() const {
  const uint64_t one = 1;
  // The only failure is a full counter, and then the descriptor is readable already.
  [[maybe_unused]] const ssize_t n = ::write(fd_.get(), &one, sizeof(one));
}

void WakeFd::clear() const {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = ::read(fd_.get(), &count, sizeof(count));
}

}  // namespace baton
