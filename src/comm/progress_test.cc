#include "comm/progress.h"

#include <gtest/gtest.h>

#include <thread>

namespace baton::comm {
namespace {

// Whoever has waited sees what was written before: TSan holds the order against it.
TEST(Progress, WhoWaitsForACountSeesWhatWasWrittenBefore) {
  constexpr uint64_t kSteps = 2000;
  Progress forth(2), back(2);
  uint64_t value = 0;
  std::thread other([&] {
    for (uint64_t step = 1; step <= kSteps; ++step) {
      ASSERT_TRUE(forth.await(step).ok());
      EXPECT_EQ(value, 2 * step - 1);
      ++value;
      back.raise();
    }
  });
  for (uint64_t step = 1; step <= kSteps; ++step) {
    ++value;
    forth.raise();
    ASSERT_TRUE(back.await(step).ok());
    EXPECT_EQ(value, 2 * step);
  }
  other.join();
  EXPECT_EQ(forth.reached(), kSteps);
}

TEST(Progress, AnAbortEndsWaitsForWhatIsNotReached) {
  Progress progress(2);
  progress.raise();
  std::thread waits([&] {
    const Status ended = progress.await(2);
    ASSERT_FALSE(ended.ok());
    EXPECT_EQ(ended.error().message, "first");
  });
  progress.abort(Error{ErrorCode::kCancelled, "first"});
  waits.join();
  progress.abort(Error{ErrorCode::kCancelled, "second"});
  EXPECT_TRUE(progress.await(1).ok());
  EXPECT_EQ(progress.await(3).error().message, "first");
}

}  // namespace
}  // namespace baton::comm
