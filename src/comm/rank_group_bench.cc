// What it costs four ranks to meet, alone and while other programs want every core. The peer is std::barrier, which
// waits by std::atomic::wait; base/futex.h says what that does.
#include <benchmark/benchmark.h>

#include <atomic>
#include <barrier>
#include <thread>
#include <vector>

#include "base/check.h"
#include "comm/rank_group.h"

namespace baton::comm {
namespace {

constexpr int kRanks = 4;
constexpr int kMeetings = 30;  // of one token in a model of six layers, about

struct Ours {
  RankGroup group{kRanks};
  void meet() { BATON_CHECK(group.barrier().ok()); }
};
struct Std {
  std::barrier<> barrier{kRanks};
  void meet() { barrier.arrive_and_wait(); }
};

// Threads that compute without end.
class Neighbours {
 public:
  explicit Neighbours(int64_t n) {
    for (int64_t i = 0; i < n; ++i)
      threads_.emplace_back([this] {
        for (uint64_t work = 0; !stop_.load(std::memory_order_relaxed);) benchmark::DoNotOptimize(++work);
      });
  }
  ~Neighbours() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  Neighbours(const Neighbours&) = delete;
  Neighbours& operator=(const Neighbours&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

// One iteration is kMeetings barriers of ranks that do nothing between them; range(0) neighbours.
template <typename Meeting>
void BM_Barrier(benchmark::State& state) {
  Meeting meeting;
  std::atomic<bool> stop{false};
  std::vector<std::thread> ranks;
  for (int r = 1; r < kRanks; ++r) {
    ranks.emplace_back([&] {
      for (;;) {
        meeting.meet();
        if (stop.load(std::memory_order_relaxed)) return;
        for (int i = 1; i < kMeetings; ++i) meeting.meet();
      }
    });
  }
  const Neighbours neighbours(state.range(0));
  for (auto step : state) {
    for (int i = 0; i < kMeetings; ++i) meeting.meet();
  }
  stop = true;
  meeting.meet();
  for (std::thread& rank : ranks) rank.join();
}
BENCHMARK_TEMPLATE(BM_Barrier, Ours)
    ->ArgName("neighbours")
    ->Arg(0)
    ->Arg(2)
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();
BENCHMARK_TEMPLATE(BM_Barrier, Std)
    ->ArgName("neighbours")
    ->Arg(0)
    ->Arg(2)
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
}  // namespace baton::comm
