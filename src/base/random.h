// Random numbers: a small seeded generator for repeatable choices, and the system's entropy for identities.
#pragma once

#include <cstdint>

#include "base/ids.h"

namespace baton {

// SplitMix64 (Steele, Lea, Flood 2014): every seed is good, the same seed gives the same sequence on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // Uniform in [0, bound); bound > 0.
  uint64_t below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * bound) >> 64);
  }
  // Uniform in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

 private:
  uint64_t state_;
};

// From the operating system. Thread safe.
[[nodiscard]] uint64_t entropy();
[[nodiscard]] Incarnation draw_incarnation();
// 63 bits, never 0.
[[nodiscard]] AttemptId draw_attempt();

}  // namespace baton
