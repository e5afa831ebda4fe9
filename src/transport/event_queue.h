// Finished posts on their way to poll(), and the descriptors that wake. Thread safe.
#pragma once

#include <mutex>
#include <vector>

#include "transport/fd.h"
#include "transport/transport.h"

namespace baton {

// A descriptor to wake a thread that sleeps in epoll.
class WakeFd {
 public:
  WakeFd();
  void wake() const;
  void clear() const;
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

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

}  // namespace baton
