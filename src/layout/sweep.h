// The interval sweep of the planner: cuts a destination rank's layers x heads where the set of sources that hold them
// changes.
#pragma once

#include <vector>

#include "layout/layout.h"

namespace baton::layout {

struct Cell {
  Interval layers;
  Interval heads;
  std::vector<int> sources;  // every source rank that holds all of the cell, ascending; never empty
};

// Cells that cover `destination` exactly once, adjacent ones with equal sources merged, sorted by (layers.begin,
// heads.begin). Assumes no divisibility and no order of the sources; together they must hold every byte of the
// destination, checked.
[[nodiscard]] std::vector<Cell> sweep(const PageShape& destination, const std::vector<PageShape>& sources);

}  // namespace baton::layout
