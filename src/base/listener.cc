#include "base/listener.h"

#include <sys/socket.h>

namespace baton {

UniqueFd Listener::accept(TimePoint now) {
  for (;;) {
    UniqueFd fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd.valid()) return fd;
    // These say that a connection ended while it waited; another may be behind it.
    if (errno == ECONNABORTED || errno == EINTR || errno == EPROTO) continue;
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) resume_ = now + kPause;
    return fd;
  }
}

}  // namespace baton
