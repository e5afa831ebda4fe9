// Host names to addresses without stopping the thread that asks: names other than numeric ones are looked up on a
// thread of their own, because getaddrinfo(3) may block for many seconds.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/queue.h"
#include "base/result.h"
#include "base/tcp_socket.h"

namespace baton::handoff {

class HostResolver {
 public:
  struct Answer {
    std::string host;
    uint16_t port = 0;
    Result<SocketAddress> address;
  };

  using LookUp = std::function<Result<SocketAddress>(const std::string& host, uint16_t port)>;
  // `wake` is called from the resolver's thread when an answer is there. `look_up` may block; by default
  // getaddrinfo(3).
  explicit HostResolver(std::function<void()> wake, LookUp look_up = {});
  ~HostResolver();

  // The answer is in a later answers(); numeric addresses are answered at once.
  void ask(const std::string& host, uint16_t port);
  [[nodiscard]] std::vector<Answer> answers() { return answers_.drain(); }

 private:
  struct Question {
    std::string host;
    uint16_t port;
  };
  std::function<void()> wake_;
  LookUp look_up_;
  BoundedQueue<Question> questions_{256};
  BoundedQueue<Answer> answers_{256};
  std::thread thread_;
};

}  // namespace baton::handoff
