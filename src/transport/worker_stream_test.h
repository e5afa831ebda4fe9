// A stream that works as a card's does: its copies run later, on a thread of its own, and only events say when. For
// memory of the processor.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"
#include "device/cpu_stream.h"

namespace baton::transport::testing {

// Holds back the work of the streams that it is given to. Thread safe.
class Valve {
 public:
  void shut() { set(false); }
  void open() { set(true); }
  // By a stream: until it is open.
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.wait(lock, [this] { return open_; });
    --waiting_;
  }
  [[nodiscard]] int waiting() const {
    std::lock_guard lock(mutex_);
    return waiting_;
  }

 private:
  void set(bool open) {
    {
      std::lock_guard lock(mutex_);
      open_ = open;
    }
    changed_.notify_all();
  }
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int waiting_ = 0;
};

class WorkerStream final : public device::Stream {
 public:
  explicit WorkerStream(std::shared_ptr<Valve> valve)
      : queue_(std::make_shared<Queue>()),
        worker_([queue = queue_, valve = std::move(valve)] { work(*queue, *valve); }) {}
  ~WorkerStream() override {
    queue_->push(nullptr);
    worker_.join();
  }

  void zero(const device::Memory&, std::span<const layout::Run>) override { BATON_CHECK(false, "nobody asks"); }
  void convert(const device::Memory&, tensor::DType, const device::Memory&, tensor::DType,
               std::span<const device::Conversion>) override {
    BATON_CHECK(false, "nobody asks");
  }
  void sum(const device::Memory&, std::span<const layout::WordRun>, const device::PageKeys&,
           device::WordSum*) override {
    BATON_CHECK(false, "nobody asks");
  }
  void copy(const device::Memory& from, const device::Memory& to, std::span<const layout::Copy> copies) override {
    queue_->push(
        [from, to, list = std::vector(copies.begin(), copies.end())] { device::CpuStream().copy(from, to, list); });
  }
  std::unique_ptr<device::Event> record() override { return std::make_unique<WorkerEvent>(queue_); }

 private:
  using Step = std::function<void()>;
  struct Queue {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Step> steps;  // an empty one ends the thread
    uint64_t asked = 0, done = 0;

    void push(Step step) {
      std::lock_guard lock(mutex);
      steps.push_back(std::move(step));
      ++asked;
      changed.notify_all();
    }
  };
  class WorkerEvent final : public device::Event {
   public:
    explicit WorkerEvent(std::shared_ptr<Queue> queue) : queue_(std::move(queue)) {
      std::lock_guard lock(queue_->mutex);
      at_ = queue_->asked;
    }
    [[nodiscard]] bool done() const override {
      std::lock_guard lock(queue_->mutex);
      return queue_->done >= at_;
    }
    void wait() override {
      std::unique_lock lock(queue_->mutex);
      queue_->changed.wait(lock, [this] { return queue_->done >= at_; });
    }

   private:
    std::shared_ptr<Queue> queue_;
    uint64_t at_ = 0;
  };

  static void work(Queue& queue, Valve& valve) {
    for (;;) {
      Step step;
      {
        std::unique_lock lock(queue.mutex);
        queue.changed.wait(lock, [&] { return !queue.steps.empty(); });
        step = std::move(queue.steps.front());
        queue.steps.pop_front();
      }
      if (step == nullptr) return;
      valve.pass();
      step();
      std::lock_guard lock(queue.mutex);
      ++queue.done;
      queue.changed.notify_all();
    }
  }

  std::shared_ptr<Queue> queue_;
  std::thread worker_;
};

inline device::StreamFactory worker_streams(std::shared_ptr<Valve> valve = std::make_shared<Valve>()) {
  return [valve](device::Home) { return std::make_unique<WorkerStream>(valve); };
}

}  // namespace baton::transport::testing
