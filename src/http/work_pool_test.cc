#include "http/work_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>

namespace baton::http {
namespace {

using namespace std::chrono_literals;

constexpr size_t kLarge = WorkPool::kSmallBytes + 1;

// However much large work there is, small work finds a thread.
TEST(WorkPool, SmallWorkDoesNotWaitForLargeWork) {
  for (const int threads : {2, 4}) {
    std::promise<void> release;
    const std::shared_future<void> released = release.get_future().share();
    std::atomic<int> large{0};
    std::promise<void> small;
    WorkPool pool(threads);
    for (int i = 0; i < 8; ++i) {
      ASSERT_TRUE(pool.submit(kLarge, [&] {
        ++large;
        released.wait();
      }));
    }
    ASSERT_TRUE(pool.submit(1, [&] { small.set_value(); }));
    EXPECT_EQ(small.get_future().wait_for(20s), std::future_status::ready);
    EXPECT_LT(large, threads);
    release.set_value();
    pool.stop();
  }
}

// And however much small work there is, large work is begun.
TEST(WorkPool, LargeWorkGoesFirstWhereItMay) {
  std::promise<void> release, large;
  const std::shared_future<void> released = release.get_future().share();
  WorkPool pool(2);
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(pool.submit(1, [&] { released.wait(); }));
  std::atomic<int> small{0};
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(pool.submit(1, [&] { ++small; }));
  ASSERT_TRUE(pool.submit(kLarge, [&] { large.set_value(); }));
  release.set_value();
  EXPECT_EQ(large.get_future().wait_for(20s), std::future_status::ready);
}

TEST(WorkPool, WhatWaitsIsBounded) {
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  WorkPool pool(2);
  const auto wait = [&] { released.wait(); };
  std::promise<void> begun;
  ASSERT_TRUE(pool.submit(kLarge, [&] {
    begun.set_value();
    released.wait();
  }));
  begun.get_future().wait();
  EXPECT_TRUE(pool.submit(2 * WorkPool::kQueuedBytesMax, wait));  // one of any size, or it could never be done
  EXPECT_FALSE(pool.submit(kLarge, wait));
  EXPECT_FALSE(pool.submit(1, wait));
  release.set_value();
}

// What was queued is dropped with what it holds, what runs is waited for, and nothing is taken any more.
TEST(WorkPool, StopDropsWhatWaits) {
  const auto held = std::make_shared<int>(7);
  std::promise<void> begun, release;
  std::atomic<int> done{0};
  WorkPool pool(2);
  ASSERT_TRUE(pool.submit(kLarge, [&] {
    begun.set_value();
    release.get_future().wait();
    ++done;
  }));
  begun.get_future().wait();
  ASSERT_TRUE(pool.submit(kLarge, [&, held] { ++done; }));
  auto stopped = std::async(std::launch::async, [&] { pool.stop(); });
  // It has stopped when it takes nothing for a while: a queue that is only full is empty again at once.
  for (int refused = 0; refused < 200;) {
    refused = pool.submit(0, [] {}) ? 0 : refused + 1;
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  release.set_value();
  stopped.get();
  EXPECT_EQ(done, 1);
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_FALSE(pool.submit(1, [] {}));
}

}  // namespace
}  // namespace baton::http
