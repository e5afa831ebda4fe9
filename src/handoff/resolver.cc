#include "handoff/resolver.h"

#include <utility>

#include "base/thread.h"

namespace baton {

HostResolver::HostResolver(std::function<void()> wake) : wake_(std::move(wake)) {
  thread_ = std::thread([this] {
    name_thread("baton-resolver");
    while (!questions_.closed()) {
      for (const Question& question : questions_.wait_drain(std::chrono::seconds(3600))) {
        answers_.push_always(
            {question.host, question.port, make_address(question.host, question.port, /*lookup=*/true)});
        wake_();
      }
    }
  });
}

HostResolver::~HostResolver() {
  questions_.close();
  thread_.join();
}

void HostResolver::ask(const std::string& host, uint16_t port) {
  Result<SocketAddress> numeric = make_address(host, port, /*lookup=*/false);
  if (numeric) {
    answers_.push_always({host, port, std::move(numeric)});
    wake_();
  } else if (!questions_.try_push({host, port})) {
    answers_.push_always({host, port, error(ErrorCode::kResourceExhausted, "too many host names are being looked up")});
    wake_();
  }
}

}  // namespace baton
