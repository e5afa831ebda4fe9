// How long a chunk takes compared with another; only ratios matter.
#pragma once

#include <cstdint>

namespace baton::scheduler {

// A token costs `token`, and `token_context` more for every token before it: attention grows with the context, all else
// does not.
struct CostModel {
  double token = 1;
  // Of DeepSeek-R1 with absorbed MLA: 17 GFLOP of attention for each 1000 tokens of context, 71 GFLOP of all else.
  double token_context = 2.4e-4;

  // Of tokens [begin, begin + count): the sum of token + token_context * position.
  [[nodiscard]] double chunk(int64_t begin, int64_t count) const {
    const auto n = static_cast<double>(count);
    return n * (token + token_context * (static_cast<double>(begin) + (n - 1) / 2));
  }
  // The largest count in [0, limit] with chunk(begin, count) <= cost.
  [[nodiscard]] int64_t tokens_within(double cost, int64_t begin, int64_t limit) const {
    int64_t low = 0, high = limit;
    while (low < high) {
      const int64_t middle = low + (high - low + 1) / 2;
      if (chunk(begin, middle) <= cost) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }
};

}  // namespace baton::scheduler
