#include "kernels/cpu/worker_pool.h"

#include <hwy/cache_control.h>

#include "base/check.h"
#include "base/thread.h"

namespace baton {
namespace {

constexpr int kSpins = 500;  // some microseconds: the gap between two products of one layer

template <typename T>
void wait_while(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    hwy::Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

WorkerPool::WorkerPool(int helpers) {
  BATON_CHECK(helpers >= 0, "helpers {}", helpers);
  threads_.reserve(static_cast<size_t>(helpers));
  for (int part = 1; part <= helpers; ++part) threads_.emplace_back([this, part] { help(part); });
}

WorkerPool::~WorkerPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::run(Job job, const void* context) {
  job_ = job;
  context_ = context;
  running_.store(static_cast<int32_t>(threads_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  job(context, 0);
  for (int32_t left = running_.load(std::memory_order_acquire); left != 0;
       left = running_.load(std::memory_order_acquire))
    wait_while(running_, left);
}

void WorkerPool::help(int part) {
  name_thread("baton-gemm");
  for (uint32_t seen = 0;;) {
    wait_while(generation_, seen);
    ++seen;  // run() waits for every helper, so generations arrive one at a time
    if (stop_.load(std::memory_order_relaxed)) return;
    job_(context_, part);
    running_.fetch_sub(1, std::memory_order_release);
    running_.notify_one();
  }
}

}  // namespace baton
