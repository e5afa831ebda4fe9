// A descriptor that makes another thread's poll or epoll_wait return. Thread safe.
#pragma once

#include "base/fd.h"

namespace baton {

class WakeFd {
 public:
  WakeFd();  // needs one descriptor; without one the program ends
  void wake() const;
  void clear() const;
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

}  // namespace baton
