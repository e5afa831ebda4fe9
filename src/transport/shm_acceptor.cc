#include "transport/shm_acceptor.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/byte_io.h"
#include "base/log.h"

namespace baton::shm {
namespace {

constexpr size_t kConnectionsMax = 2 * kWriters;

}  // namespace

Acceptor::Acceptor(UniqueFd listener, Incarnation self, WindowOwner* windows, int epoll)
    : listener_(std::move(listener)), self_(self), windows_(windows), epoll_(epoll) {
  watch(listener_.get(), EPOLLIN, true);
}

void Acceptor::watch(int fd, uint32_t interest, bool add) const {
  epoll_event event{};
  event.events = interest;
  event.data.fd = fd;
  const int code = ::epoll_ctl(epoll_, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event);
  BATON_CHECK(code == 0, "epoll_ctl of descriptor {}: {}", fd, errno_text());
}

void Acceptor::add_region(UniqueFd slab, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  slabs_.push_back({std::move(slab), bytes});
}

bool Acceptor::on_fd(int fd) {
  if (fd == listener_.get()) {
    accept_all();
    return true;
  }
  const auto it = connections_.find(fd);
  if (it == connections_.end()) return false;
  Status handled = on_readable(it->second);
  if (handled) handled = send_pending(it->second);
  if (handled) return true;
  if (handled.error().code != ErrorCode::kUnavailable)
    log_warning("shm transport: writer refused: {}", handled.error().message);
  if (it->second.row && handled.error().code != ErrorCode::kUnavailable) {
    // It may still be copying: say goodbye and wait for its own close.
    ::shutdown(fd, SHUT_WR);
    return true;
  }
  if (it->second.row) windows_->remove_writer(*it->second.row);
  connections_.erase(it);
  return true;
}

void Acceptor::accept_all() {
  for (;;) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) return;
    if (connections_.size() >= kConnectionsMax) continue;
    const int number = fd.get();
    watch(number, EPOLLIN, true);
    connections_[number].socket = std::move(fd);
  }
}

Status Acceptor::on_readable(Connection& connection) {
  for (;;) {
    BATON_ASSIGN(const Received received, receive_message(connection.socket.get()));
    if (received.bytes.empty()) return {};
    if (connection.row) return error(ErrorCode::kCorrupt, "a second request of {} bytes", received.bytes.size());
    BATON_ASSIGN(const AttachRequest request, decode_request(as_span(received.bytes)));
    BATON_TRY(let_in(connection, request));
  }
}

Status Acceptor::let_in(Connection& connection, const AttachRequest& request) {
  const auto refuse = [&](const Error& why) -> Status {
    BATON_TRY(send_message(connection.socket.get(),
                           encode(OwnerMessage{.kind = OwnerMessage::Kind::kRefuse, .detail = why.message}), -1));
    return why;
  };
  if (request.owner != self_) {
    return refuse(error(ErrorCode::kIncompatible, "incarnation {} is stale: the process at this address is another one",
                        request.owner.to_string()));
  }
  Result<UniqueFd> process = peer_process(connection.socket.get());
  if (!process) return refuse(process.error());
  Result<uint32_t> row = windows_->add_writer(std::move(process).value());
  if (!row) return refuse(row.error());
  connection.row = *row;
  connection.writer = request.writer;
  return {};
}

Status Acceptor::send_pending(Connection& connection) {
  if (!connection.row) return {};
  std::lock_guard lock(mutex_);
  while (connection.sent <= slabs_.size()) {
    OwnerMessage message{.kind = OwnerMessage::Kind::kAccept,
                         .writer = *connection.row,
                         .regions = static_cast<uint32_t>(slabs_.size()),
                         .detail = {}};
    int fd = windows_->fd();
    if (connection.sent > 0) {
      const Slab& slab = slabs_[connection.sent - 1];
      message = {.kind = OwnerMessage::Kind::kRegion, .bytes = slab.bytes, .detail = {}};
      fd = slab.fd.get();
    }
    BATON_ASSIGN(const bool sent, send_message(connection.socket.get(), encode(message), fd));
    watch(connection.socket.get(), sent ? EPOLLIN : EPOLLIN | EPOLLOUT, false);
    if (!sent) return {};
    ++connection.sent;
  }
  return {};
}

void Acceptor::announce() {
  // A failed send shows as a hang-up in the next round.
  for (auto& [fd, connection] : connections_) (void)send_pending(connection);
}

void Acceptor::dismiss(const Incarnation& writer) {
  for (auto& [fd, connection] : connections_) {
    if (connection.row && connection.writer == writer) ::shutdown(fd, SHUT_WR);
  }
}

}  // namespace baton::shm
