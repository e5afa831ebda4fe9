#include "http/work_pool.h"

#include <algorithm>

#include "base/thread.h"

namespace baton::http {

WorkPool::WorkPool(int threads) {
  if (threads == 0) return;
  for (int i = 0; i < std::max(threads, 2); ++i) threads_.emplace_back([this, i] { run(i == 0); });
}

WorkPool::~WorkPool() { stop(); }

bool WorkPool::submit(size_t bytes, std::function<void()> work) {
  if (threads_.empty()) {
    work();
    return true;
  }
  {
    std::lock_guard lock(mutex_);
    const bool full = queued_bytes_ + bytes > kQueuedBytesMax && queued_bytes_ > 0;  // one of any size is taken
    if (stopping_ || full || small_.size() + large_.size() >= kQueuedMax) return false;
    queued_bytes_ += bytes;
    (bytes <= kSmallBytes ? small_ : large_).push_back({bytes, std::move(work)});
  }
  changed_.notify_all();
  return true;
}

void WorkPool::run(bool small_only) {
  name_thread("baton-text");
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || !small_.empty() || (!small_only && !large_.empty()); });
    if (stopping_) return;
    // Large work first where it may be done, or a stream of small work would put it off for ever.
    std::deque<Job>& from = !small_only && !large_.empty() ? large_ : small_;
    Job job = std::move(from.front());
    from.pop_front();
    queued_bytes_ -= job.bytes;
    lock.unlock();
    job.work();
    job.work = nullptr;  // what it holds goes unlocked
    lock.lock();
  }
}

void WorkPool::stop() {
  std::deque<Job> dropped_small, dropped_large;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped_small.swap(small_);
    dropped_large.swap(large_);
    queued_bytes_ = 0;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

}  // namespace baton::http
