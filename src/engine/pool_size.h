// How many KV pages an instance gets.
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "layout/layout.h"

namespace baton::engine {

struct PoolWish {
  std::optional<int64_t> max_total_tokens;    // --max-total-tokens, of all DP groups together
  std::optional<double> mem_fraction_static;  // --mem-fraction-static, of available memory for both, (0, 1)
};

// Pages of each DP group, out of `available` bytes in which `weights` have to fit too. Without a wish: as many as hold
// 65536 tokens, but at most a quarter of the memory.
// kInvalidArgument: a wish that is out of range, or more than is available; kResourceExhausted: not one page fits.
// Messages say needed, available and the flags.
Result<int> pages_per_group(const layout::Layout& layout, const layout::KvGeometry& geometry, int page_tokens,
                            const PoolWish& wish, uint64_t available, uint64_t weights);

}  // namespace baton::engine
