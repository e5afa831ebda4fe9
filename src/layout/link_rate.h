// How fast a link moves copies, by their length: points that were measured, and what lies between them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::layout {

class LinkRate {
 public:
  // "64K:346,1M:360": ascending lengths of a copy, in bytes or with K or M (powers of 1024), each with GB/s. Or the
  // name of a transport (cuda_ipc, shm, tcp) for what docs/BENCHMARKS.md has of it. kInvalidArgument for anything else.
  static Result<LinkRate> parse(std::string_view text);

  // Bytes a second: linear in the logarithm of the length between two points, constant per copy below the first (such
  // copies take as long as one of that length), constant above the last.
  [[nodiscard]] double at(uint64_t copy_bytes) const;

 private:
  struct Point {
    uint64_t copy_bytes = 0;
    double bytes_per_s = 0;
  };
  std::vector<Point> points_;
};

}  // namespace baton::layout
