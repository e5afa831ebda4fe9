#include "transport/shm_acceptor.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/byte_io.h"
#include "base/log.h"

namespace baton::transport::shm {
namespace {

constexpr int kAcceptsMax = 64;  // of a turn

}  // namespace

Acceptor::Acceptor(UniqueFd listener, Incarnation self, Duration patience, WindowOwner* windows, int epoll)
    : listener_(std::move(listener)), self_(self), patience_(patience), windows_(windows), epoll_(epoll) {
  const bool watched = watch(listener_.fd(), EPOLLIN, true);
  BATON_CHECK(watched, "epoll_ctl: {}", errno_text());
}

// False: the system has no room for one more.
bool Acceptor::watch(int fd, uint32_t interest, bool add) const {
  epoll_event event{};
  event.events = interest;
  event.data.fd = fd;
  return ::epoll_ctl(epoll_, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) == 0;
}

void Acceptor::add_region(SharedRegion region) {
  std::lock_guard lock(mutex_);
  regions_.push_back(std::move(region));
}

bool Acceptor::on_fd(int fd) {
  if (fd == listener_.fd()) {
    accept_some();
    return true;
  }
  const auto it = connections_.find(fd);
  if (it == connections_.end()) return false;
  Status handled = on_readable(it->second);
  if (handled) handled = send_pending(it->second);
  if (handled) return true;
  if (handled.error().code != ErrorCode::kUnavailable)
    complaints_.warning(SteadyClock().now(), "shm transport: writer refused: " + handled.error().message);
  if (it->second.row && handled.error().code != ErrorCode::kUnavailable) {
    tell_to_go(it->second);
    return true;
  }
  if (it->second.row) windows_->remove_writer(*it->second.row);
  connections_.erase(it);
  return true;
}

// A writer that is attached may still be copying: its row is kept until it closes its end.
void Acceptor::tell_to_go(Connection& connection) {
  connection.leaving = true;
  ::shutdown(connection.socket.get(), SHUT_WR);
}

void Acceptor::accept_some() {
  const TimePoint now = SteadyClock().now();
  for (int i = 0; i < kAcceptsMax; ++i) {
    UniqueFd fd = listener_.accept(now);
    if (!fd.valid()) break;
    const Result<pid_t> process = peer_of_our_user(fd.get());
    if (!process) {
      complaints_.warning(now, "shm transport: connection closed: " + process.error().message);
      continue;
    }
    const int number = fd.get();
    if (!watch(number, EPOLLIN, true)) continue;
    Connection& connection = connections_[number];
    connection.socket = std::move(fd);
    connection.accepted = now;
    connection.arrival = ++arrivals_;
    connection.process = *process;
    const auto pending =
        std::count_if(connections_.begin(), connections_.end(), [](const auto& entry) { return !entry.second.row; });
    if (static_cast<size_t>(pending) > kPendingMax) connections_.erase(oldest_pending());
    if (connections_.contains(number)) on_fd(number);  // its request is often here already
  }
  listening_ = !listener_.paused(now);
  if (!listening_) watch(listener_.fd(), 0, false);
}

std::map<int, Acceptor::Connection>::const_iterator Acceptor::oldest_pending() const {
  auto oldest = connections_.end();
  for (auto it = connections_.begin(); it != connections_.end(); ++it) {
    if (!it->second.row && (oldest == connections_.end() || it->second.arrival < oldest->second.arrival)) oldest = it;
  }
  return oldest;
}

void Acceptor::tick(TimePoint now) {
  if (!listening_ && !listener_.paused(now)) {
    listening_ = true;
    watch(listener_.fd(), EPOLLIN, false);
  }
  for (auto late = oldest_pending(); late != connections_.end() && late->second.accepted + patience_ <= now;
       late = oldest_pending()) {
    connections_.erase(late);
  }
}

TimePoint Acceptor::next_tick() const {
  const auto pending = oldest_pending();
  const TimePoint late = pending == connections_.end() ? TimePoint::max() : pending->second.accepted + patience_;
  return listening_ ? late : std::min(late, listener_.resume());
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
  // Full is no answer that stays true: the writer asks again with its next post.
  BATON_TRY(check_room(connection, request.writer));
  Result<UniqueFd> process = peer_process(connection.socket.get());
  if (!process) return refuse(process.error());
  Result<uint32_t> row = windows_->add_writer(std::move(process).value());
  if (!row) return row.error();
  connection.row = *row;
  connection.writer = request.writer;
  return {};
}

Status Acceptor::check_room(const Connection& connection, const Incarnation& writer) const {
  size_t rows = 0, of_writer = 0, of_process = 0;
  for (const auto& [fd, other] : connections_) {
    if (!other.row) continue;
    ++rows;
    of_writer += other.writer == writer ? 1 : 0;
    of_process += other.process == connection.process ? 1 : 0;
  }
  if (of_writer >= kRowsOfAWriter) {
    return error(ErrorCode::kResourceExhausted, "writer {} is attached {} times", writer.to_string(), of_writer);
  }
  if (of_process >= kRowsOfAProcess) {
    return error(ErrorCode::kResourceExhausted, "process {} is attached {} times", connection.process, of_process);
  }
  if (rows >= kWriters - kRowsReserved && !windows_->expects(writer)) {
    return error(ErrorCode::kResourceExhausted,
                 "{} writers are attached, and the other {} places are for those with a "
                 "window",
                 rows, kRowsReserved);
  }
  return {};
}

Status Acceptor::send_pending(Connection& connection) {
  if (!connection.row || connection.leaving) return {};
  std::lock_guard lock(mutex_);
  while (connection.sent <= regions_.size()) {
    OwnerMessage message{.kind = OwnerMessage::Kind::kAccept,
                         .writer = *connection.row,
                         .regions = static_cast<uint32_t>(regions_.size())};
    int fd = windows_->fd();
    if (connection.sent > 0) {
      const SharedRegion& region = regions_[connection.sent - 1];
      message = {.kind = OwnerMessage::Kind::kRegion, .bytes = region.bytes, .on_card = region.on_card};
      fd = region.slab.get();
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
    if (connection.row && connection.writer == writer) tell_to_go(connection);
  }
}

}  // namespace baton::transport::shm
