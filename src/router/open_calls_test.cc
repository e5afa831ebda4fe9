// Calls that end because the router has given up what they wait for.
#include "router/open_calls.h"

#include <gtest/gtest.h>

#include <vector>

namespace baton::router {
namespace {

using namespace std::chrono_literals;

const TimePoint kNow{1000s};
const Error kWhy = error(ErrorCode::kDeadlineExceeded, "silent");

struct Ended {
  int call;
  uint64_t worker;
  std::string why;
  bool operator==(const Ended&) const = default;
};

TEST(OpenCalls, ThoseOfALostWorkerEndOnce) {
  OpenCalls calls;
  std::vector<Ended> ended;
  const auto add = [&](int call, std::vector<uint64_t> workers) {
    return calls.add(std::move(workers), OpenCalls::kNoDeadline, [&ended, call](uint64_t worker, const Error& why) {
      ended.push_back({call, worker, why.message});
    });
  };
  add(1, {1, 2});
  const uint64_t second = add(2, {2, 3});
  add(3, {3, 4});
  calls.remove(second);
  calls.lose(2, kWhy);
  calls.lose(2, kWhy);
  EXPECT_EQ(ended, (std::vector<Ended>{{1, 2, "silent"}}));
  calls.lose(3, kWhy);
  EXPECT_EQ(ended.size(), 2U);
  calls.remove(second);  // again, and of one that ended: no error
}

TEST(OpenCalls, ThoseWhoseTimeIsUpEnd) {
  OpenCalls calls;
  std::vector<int> ended;
  for (int i = 1; i <= 3; ++i)
    calls.add({1}, kNow + i * 1s, [&ended, i](uint64_t worker, const Error&) {
      EXPECT_EQ(worker, 0U);
      ended.push_back(i);
    });
  calls.add({1}, OpenCalls::kNoDeadline, [&](uint64_t, const Error&) { ended.push_back(0); });
  calls.expire(kNow);
  EXPECT_TRUE(ended.empty());
  calls.expire(kNow + 2s);
  EXPECT_EQ(ended, (std::vector<int>{1, 2}));
}

// What ends a call may itself add or remove calls.
TEST(OpenCalls, AnEndMayUseTheTable) {
  OpenCalls calls;
  bool second = false;
  calls.add({1}, OpenCalls::kNoDeadline, [&](uint64_t, const Error&) {
    calls.add({1}, OpenCalls::kNoDeadline, [&](uint64_t, const Error&) { second = true; });
  });
  calls.lose(1, kWhy);
  EXPECT_FALSE(second);
  calls.lose(1, kWhy);
  EXPECT_TRUE(second);
}

}  // namespace
}  // namespace baton::router
