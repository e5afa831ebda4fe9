#include "base/line_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/thread.h"

namespace baton {
namespace {

constexpr Duration kFarewell = std::chrono::milliseconds(333);
constexpr Duration kPause = std::chrono::milliseconds(50);  // between two looks at a reader that takes nothing

TimePoint now() { return std::chrono::steady_clock::now(); }

}  // namespace

UnhurriedOutput::UnhurriedOutput(int fd) : fd_(fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return;
  if (S_ISSOCK(status.st_mode)) kind_ = Kind::kSocket;
  if (!S_ISFIFO(status.st_mode) && !S_ISCHR(status.st_mode)) return;  // a file makes nobody wait
  const int again =
      open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | O_APPEND);
  if (again < 0) return;  // somebody else's: what poll() says must do
  fd_ = again;
  kind_ = Kind::kNonblocking;
  opened_ = true;
}

UnhurriedOutput::~UnhurriedOutput() {
  if (opened_) close(fd_);
}

ptrdiff_t UnhurriedOutput::write(std::string_view bytes) const {
  ssize_t n = 0;
  if (kind_ == Kind::kSocket) {
    n = ::send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  } else if (kind_ == Kind::kNonblocking) {
    n = ::write(fd_, bytes.data(), bytes.size());
  } else {
    pollfd ready{fd_, POLLOUT, 0};
    if (poll(&ready, 1, 0) <= 0) return 0;
    n = ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), PIPE_BUF));  // so much there is room for
  }
  if (n >= 0) return n;
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
}

void UnhurriedOutput::wait(Duration timeout) const {
  pollfd ready{fd_, POLLOUT, 0};
  poll(&ready, 1, static_cast<int>(std::max(0.0, to_ms(timeout))));
}

bool UnhurriedOutput::write_within(std::string_view text, Duration timeout) const {
  const TimePoint give_up = now() + timeout;
  while (!text.empty()) {
    const ptrdiff_t n = write(text);
    if (n < 0) return false;
    text.remove_prefix(static_cast<size_t>(n));
    if (n > 0) continue;
    if (now() >= give_up) return false;
    wait(std::min(kPause, give_up - now()));
  }
  return true;
}

struct LineWriter::State {
  State(int fd, size_t limit) : out(fd), bytes_max(limit), thread([this] { run(); }) {}

  void run();
  void write(std::string_view bytes, std::unique_lock<std::mutex>* lock);
  void tell_gap();

  const UnhurriedOutput out;
  const size_t bytes_max;
  mutable std::mutex mutex;  // of what follows
  mutable std::condition_variable changed;
  std::string queue;      // whole lines
  size_t in_writing = 0;  // bytes that were taken from the queue and not written yet
  uint64_t dropped = 0;   // lines
  uint64_t gap = 0;       // of these, those that the text does not tell of yet
  bool closing = false;
  TimePoint give_up = TimePoint::max();
  std::thread thread;
};

LineWriter::LineWriter(int fd, size_t bytes_max) : state_(std::make_unique<State>(fd, bytes_max)) {}

LineWriter::~LineWriter() {
  {
    std::lock_guard lock(state_->mutex);
    state_->closing = true;
    state_->give_up = now() + kFarewell;
  }
  state_->changed.notify_all();
  state_->thread.join();
}

void LineWriter::put(std::string_view line) {
  State& s = *state_;
  {
    std::lock_guard lock(s.mutex);
    // After a gap half of the room must be free: one gap, not one for every line that just fits.
    const size_t room = s.gap > 0 ? s.bytes_max / 2 : s.bytes_max;
    if (s.queue.size() + s.in_writing + line.size() > room) {
      ++s.dropped;
      ++s.gap;
      return;
    }
    s.tell_gap();
    s.queue += line;
  }
  s.changed.notify_all();
}

bool LineWriter::flush(Duration timeout) const {
  std::unique_lock lock(state_->mutex);
  return state_->changed.wait_for(lock, timeout, [&] { return state_->queue.empty() && state_->in_writing == 0; });
}

uint64_t LineWriter::dropped() const {
  std::lock_guard lock(state_->mutex);
  return state_->dropped;
}

void LineWriter::State::tell_gap() {
  if (gap == 0) return;
  queue += fmt::format("[{} lines are missing here: nobody read them in time]\n", gap);
  gap = 0;
}

void LineWriter::State::run() {
  name_thread("baton-log");
  sigset_t all;  // a reader that is gone is an error of write(), not a signal; the others are for other threads
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  std::unique_lock lock(mutex);
  while (true) {
    changed.wait(lock, [&] { return closing || !queue.empty(); });
    if (queue.empty()) return;
    const std::string bytes = std::exchange(queue, {});
    in_writing = bytes.size();
    write(bytes, &lock);
    in_writing = 0;
    if (queue.empty()) tell_gap();
    changed.notify_all();
  }
}

void LineWriter::State::write(std::string_view bytes, std::unique_lock<std::mutex>* lock) {
  while (!bytes.empty()) {
    lock->unlock();
    const ptrdiff_t n = out.write(bytes);
    if (n == 0) out.wait(kPause);
    lock->lock();
    if (n < 0 || (n == 0 && now() >= give_up)) {
      dropped += static_cast<uint64_t>(std::ranges::count(bytes, '\n'));
      return;
    }
    bytes.remove_prefix(static_cast<size_t>(n));
    in_writing = bytes.size();
  }
}

}  // namespace baton
