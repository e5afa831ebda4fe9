#include "handoff/tombstones.h"

#include <gtest/gtest.h>

namespace baton::handoff {
namespace {

using namespace std::chrono_literals;

EndCause cause(const std::string& message) { return {AttemptOutcome::kFailed, "peer", message}; }

TEST(Tombstones, TheHalfThatWasAwaitedHearsWhy) {
  Tombstones stones(10, 10s);
  const TimePoint now{};
  stones.bury(AttemptId(1), cause("left"), true, now);
  EXPECT_FALSE(stones.dig_up(AttemptId(2), true));
  EXPECT_EQ(stones.dig_up(AttemptId(1), true)->message, "left");
  EXPECT_FALSE(stones.dig_up(AttemptId(1), true)) << "once";
  stones.bury(AttemptId(1), cause("left"), true, now);
  EXPECT_FALSE(stones.dig_up(AttemptId(1), false)) << "the id is used again";
  EXPECT_EQ(stones.size(), 0u);
}

TEST(Tombstones, BoundedInNumberTimeAndBytesWhoeverBuries) {
  Tombstones stones(3, 10s);
  TimePoint now{};
  for (uint64_t i = 1; i <= 4; ++i) stones.bury(AttemptId(i), cause(std::string(4096, 'x')), true, now);
  EXPECT_EQ(stones.size(), 3u);
  EXPECT_FALSE(stones.dig_up(AttemptId(1), true));
  EXPECT_EQ(stones.dig_up(AttemptId(4), true)->message.size(), 256u);
  // Buried and dug up in turn, an attempt leaves nothing behind.
  for (int i = 0; i < 100000; ++i) {
    stones.bury(AttemptId(9), cause("again"), true, now);
    EXPECT_TRUE(stones.dig_up(AttemptId(9), true));
  }
  EXPECT_EQ(stones.size(), 2u);
  now += 5s;
  stones.bury(AttemptId(2), cause("later"), true, now);  // lives from now on
  now += 6s;
  stones.expire(now);
  EXPECT_EQ(stones.size(), 1u);
  EXPECT_EQ(stones.dig_up(AttemptId(2), true)->message, "later");
}

}  // namespace
}  // namespace baton::handoff
