// Half-open intervals of whole numbers.
#pragma once

#include <cstdint>

namespace baton {

// [begin, end)
template <typename Int>
struct IntervalOf {
  Int begin = 0;
  Int end = 0;
  [[nodiscard]] constexpr Int size() const { return end - begin; }
  [[nodiscard]] constexpr bool empty() const { return end <= begin; }
  [[nodiscard]] constexpr bool contains(Int i) const { return begin <= i && i < end; }
  constexpr bool operator==(const IntervalOf&) const = default;
};
using Interval = IntervalOf<int>;          // of layers, heads, ranks, experts
using LongInterval = IntervalOf<int64_t>;  // of rows, columns, tokens

template <typename Int>
[[nodiscard]] constexpr IntervalOf<Int> intersect(IntervalOf<Int> a, IntervalOf<Int> b) {
  const IntervalOf<Int> both{a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
  return both.empty() ? IntervalOf<Int>{} : both;
}

}  // namespace baton
