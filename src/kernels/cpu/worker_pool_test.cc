#include "kernels/cpu/worker_pool.h"

#include <gtest/gtest.h>

#include <array>

namespace baton::kernels {
namespace {

TEST(WorkerPool, RunsEveryPartOnceAndWaitsForAll) {
  for (const int helpers : {0, 1, 5}) {
    WorkerPool pool(helpers);
    ASSERT_EQ(pool.parts(), helpers + 1);
    std::array<int, 6> calls{};  // plain: run() orders the writes of one call before the next
    for (int i = 1; i <= 2000; ++i) {
      pool.run([&](int part) { ++calls[static_cast<size_t>(part)]; });
      for (int part = 0; part < 6; ++part) ASSERT_EQ(calls[static_cast<size_t>(part)], part <= helpers ? i : 0);
    }
  }
}

TEST(WorkerPool, EndsWhileHelpersSleepOrHaveNeverRun) {
  for (int i = 0; i < 50; ++i) WorkerPool pool(3);
}

}  // namespace
}  // namespace baton::kernels
