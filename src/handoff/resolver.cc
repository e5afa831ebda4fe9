#include "handoff/resolver.h"

#include <netdb.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "base/thread.h"

namespace baton {
namespace {

Result<ControlAddress> look_up(const std::string& host, uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | flags;
  addrinfo* found = nullptr;
  const int rc = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (rc != 0) return error(ErrorCode::kUnavailable, "no address for the host {}: {}", host, ::gai_strerror(rc));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  ControlAddress address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.length = found->ai_addrlen;
  return address;
}

}  // namespace

HostResolver::HostResolver(std::function<void()> wake) : wake_(std::move(wake)) {
  thread_ = std::thread([this] {
    name_thread("baton-resolver");
    while (!questions_.closed()) {
      for (const Question& question : questions_.wait_drain(std::chrono::seconds(3600))) {
        answers_.push_always({question.host, question.port, look_up(question.host, question.port, 0)});
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
  Result<ControlAddress> numeric = look_up(host, port, AI_NUMERICHOST);
  if (numeric) {
    answers_.push_always({host, port, std::move(numeric)});
    wake_();
  } else if (!questions_.try_push({host, port})) {
    answers_.push_always({host, port, error(ErrorCode::kResourceExhausted, "too many host names are being looked up")});
    wake_();
  }
}

Result<UniqueFd> start_connect(const ControlAddress& address) {
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return error(ErrorCode::kUnavailable, "socket: {}", std::strerror(errno));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) != 0 &&
      errno != EINPROGRESS)
    return error(ErrorCode::kUnavailable, "{}", std::strerror(errno));
  return fd;
}

Status finish_connect(int fd) {
  int failure = 0;
  socklen_t length = sizeof(failure);
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &length) != 0) failure = errno;
  if (failure != 0) return error(ErrorCode::kUnavailable, "{}", std::strerror(failure));
  return {};
}

}  // namespace baton
