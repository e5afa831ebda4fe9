#include "handoff/resolver.h"

#include <utility>

#include "base/thread.h"

namespace baton::handoff {

HostResolver::HostResolver(std::function<void()> wake, LookUp look_up)
    : wake_(std::move(wake)), look_up_(std::move(look_up)) {
  if (!look_up_)
    look_up_ = [](const std::string& host, uint16_t port) { return make_address(host, port, /*lookup=*/true); };
  thread_ = std::thread([this] {
    name_thread("baton-resolver");
    while (!questions_.closed()) {
      for (const Question& question : questions_.wait_drain(std::chrono::seconds(3600))) {
        answers_.push_always({question.host, question.port, look_up_(question.host, question.port)});
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

}  // namespace baton::handoff
