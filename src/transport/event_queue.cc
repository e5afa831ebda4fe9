#include "transport/event_queue.h"

#include <iterator>

namespace baton::transport {

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

}  // namespace baton::transport
