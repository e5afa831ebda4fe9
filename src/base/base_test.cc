#include <gtest/gtest.h>

#include <thread>

#include "base/futex.h"
#include "base/ids.h"
#include "base/queue.h"
#include "base/random.h"
#include "base/result.h"

namespace baton {
namespace {

Result<int> half(int n) {
  if (n % 2 != 0) return error(ErrorCode::kInvalidArgument, "{} is odd", n);
  return n / 2;
}

Result<int> quarter(int n) {
  BATON_ASSIGN(int h, half(n));
  return half(h);
}

TEST(Result, CarriesValueOrError) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_EQ(quarter(6).error().message, "3 is odd");
  EXPECT_EQ(quarter(5).error().code, ErrorCode::kInvalidArgument);
}

TEST(ResultDeathTest, ReadingTheAbsentSideStopsTheProgram) {
  EXPECT_DEATH((void)half(3).value(), "value\\(\\) of an error: 3 is odd");
  EXPECT_DEATH((void)half(4).error(), "error\\(\\) of a value");
}

TEST(CheckDeathTest, PrintsConditionAndDetail) {
  EXPECT_DEATH(BATON_CHECK(1 + 1 == 3, "sum {}", 2), "check failed: 1 \\+ 1 == 3: sum 2");
}

TEST(BoundedQueue, RefusesWhenFullAndKeepsOrder) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.try_push(1));
  EXPECT_TRUE(queue.try_push(2));
  EXPECT_FALSE(queue.try_push(3));
  EXPECT_EQ(queue.drain(), (std::vector<int>{1, 2}));
  EXPECT_TRUE(queue.try_push(4));
  queue.close();
  EXPECT_FALSE(queue.try_push(5));
  EXPECT_EQ(queue.drain(), (std::vector<int>{4}));
}

TEST(BoundedQueue, WakesAWaiter) {
  BoundedQueue<int> queue(8);
  std::thread producer([&] { ASSERT_TRUE(queue.try_push(7)); });
  std::vector<int> got;
  while (got.empty()) got = queue.wait_drain(std::chrono::seconds(10));
  EXPECT_EQ(got, (std::vector<int>{7}));
  producer.join();
}

TEST(Futex, SleepsThroughWakesWithoutAChange) {
  FutexWord word{1};
  std::atomic<bool> returned{false};
  std::thread waiter([&] {
    futex_wait(word, 1);
    returned = true;
  });
  for (int i = 0; i < 100; ++i) {
    futex_wake_all(word);
    EXPECT_FALSE(returned);
  }
  word = 2;
  futex_wake_all(word);
  waiter.join();
  futex_wait(word, 1);  // at once
}

TEST(Random, SameSeedSameSequenceAndBounded) {
  Random a(42), b(42);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(a.next(), b.next());
    EXPECT_LT(a.below(7), 7u);
    b.below(7);
    const double u = a.uniform();
    b.uniform();
    EXPECT_TRUE(u >= 0 && u < 1);
  }
  EXPECT_NE(draw_incarnation(), draw_incarnation());
  EXPECT_NE(draw_attempt().value(), 0u);
}

}  // namespace
}  // namespace baton
