#include "kernels/cpu/worker_pool.h"

#include <hwy/cache_control.h>

#include "base/check.h"
#include "base/thread.h"

namespace baton::kernels {
namespace {

constexpr int kSpins = 500;  // some microseconds: the gap between two products of one layer

void wait_while(const FutexWord& word, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    hwy::Pause();
  }
  futex_wait(word, old);
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
  futex_wake_all(generation_);
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::run(Job job, const void* context) {
  job_ = job;
  context_ = context;
  running_.store(static_cast<uint32_t>(threads_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  futex_wake_all(generation_);
  job(context, 0);
  for (uint32_t left = running_.load(std::memory_order_acquire); left != 0;
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
    if (running_.fetch_sub(1, std::memory_order_release) == 1) futex_wake_all(running_);
  }
}

}  // namespace baton::kernels
