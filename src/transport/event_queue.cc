#include "transport/event_queue.h"

#include <sys/eventfd.h>

#include <iterator>

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

void EventQueue::push(TransferEvent event) {
  std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
  if (events_.size() == 1) ready_.wake();
}

void EventQueue::drain(std::vector<TransferEvent>* out) {
  std::lock_guard lock(mutex_);
  if (events_.empty()) return;
  ready_.clear();
  out->insert(out->end(), std::make_move_iterator(events_.begin()), std::make_move_iterator(events_.end()));
  events_.clear();
}

}  // namespace baton
