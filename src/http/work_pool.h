// Threads for what takes too long for those that move bytes: JSON, chat templates, tokenizing.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace baton::http {

// Thread safe. Work on at most kSmallBytes always finds a thread that has nothing large to do: the first thread takes
// small work only.
class WorkPool {
 public:
  static constexpr size_t kSmallBytes = 64 << 10;
  static constexpr size_t kQueuedBytesMax = 64 << 20;
  static constexpr size_t kQueuedMax = 4096;

  // `threads`: 0 does the work in submit() itself, which is for tests; otherwise at least 2 are started.
  explicit WorkPool(int threads);
  ~WorkPool();  // stop()
  // `bytes`: how much there is to read, which its cost follows. False: kQueuedBytesMax or kQueuedMax wait already, or
  // the pool is stopping, and `work` will not be done.
  [[nodiscard]] bool submit(size_t bytes, std::function<void()> work);
  // Ends what is being done and drops what waits. Idempotent.
  void stop();

 private:
  struct Job {
    size_t bytes;
    std::function<void()> work;
  };
  void run(bool small_only);

  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<Job> small_, large_;
  size_t queued_bytes_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace baton::http
