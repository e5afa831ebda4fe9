// numpy.random's legacy generator, so that a run here draws the same arrivals and lengths as the field's Python
// benchmark with the same seed (numpy/random/mtrand.pyx and legacy-distributions.c; the generator is MT19937, Matsumoto
// and Nishimura 1998).
#pragma once

#include <cmath>
#include <cstdint>
#include <random>

namespace baton::bench {

class NumpyRandom {
 public:
  explicit NumpyRandom(uint32_t seed) : engine_(seed) {}

  // random_sample(): uniform in [0, 1) with 53 bits.
  double uniform() {
    const uint32_t a = engine_() >> 5, b = engine_() >> 6;
    return (a * 67108864.0 + b) / 9007199254740992.0;
  }
  // exponential(scale)
  double exponential(double scale) { return -std::log(1.0 - uniform()) * scale; }
  // randint(low, high): [low, high), high - low <= 2^32. A range of one value draws nothing.
  int64_t randint(int64_t low, int64_t high) {
    const uint32_t range = static_cast<uint32_t>(high - low - 1);
    if (range == 0) return low;
    uint32_t mask = range;
    for (const int shift : {1, 2, 4, 8, 16}) mask |= mask >> shift;
    uint32_t value = 0;
    do {
      value = engine_() & mask;
    } while (value > range);
    return low + value;
  }

 private:
  std::mt19937 engine_;
};

}  // namespace baton::bench
