// Finished posts on their way to poll(). Thread safe.
#pragma once

#include <mutex>
#include <vector>

#include "base/wake_fd.h"
#include "transport/transport.h"

namespace baton::transport {

// Finished posts, and a descriptor that is readable while there are some.
class EventQueue {
 public:
  void push(TransferEvent event);
  // Appends what is there, in order, and makes the descriptor quiet.
  void drain(std::vector<TransferEvent>* out);
  [[nodiscard]] int fd() const { return ready_.fd(); }

 private:
  WakeFd ready_;
  std::mutex mutex_;
  std::vector<TransferEvent> events_;
};

}  // namespace baton::transport
