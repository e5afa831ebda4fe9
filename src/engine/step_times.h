// Where the host time of steps goes, for `./dev bench engine`.
#pragma once

#include <chrono>
#include <cstdint>

namespace baton::engine {

// Sums since the start. The clock is the machine's, whatever clock the engine has.
struct StepTimes {
  using Time = std::chrono::steady_clock::duration;
  uint64_t steps = 0;
  Time plan{};     // from the scheduler's turn to the call of the executor
  Time execute{};  // in the executor, laying out included
  Time take{};     // its result: counters, answers
  Time between{};  // commands, the role's peers, statistics; and waits, where nothing could be computed
};

// One thread. Each part ends where the next begins.
class StepTimer {
 public:
  void end(StepTimes::Time StepTimes::*part) {
    const auto now = std::chrono::steady_clock::now();
    times_.*part += now - last_;
    last_ = now;
  }
  void end_step() { ++times_.steps; }
  [[nodiscard]] const StepTimes& times() const { return times_; }

 private:
  StepTimes times_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace baton::engine
