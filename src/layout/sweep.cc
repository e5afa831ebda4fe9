#include "layout/sweep.h"

#include <algorithm>

namespace baton::layout {

namespace {

// `within`, cut at every border that the sources' intervals have inside it.
std::vector<Interval> cut(Interval within, const std::vector<PageShape>& sources, Interval PageShape::*dimension) {
  std::vector<int> borders{within.begin, within.end};
  for (const PageShape& source : sources) {
    for (const int border : {(source.*dimension).begin, (source.*dimension).end}) {
      if (within.contains(border)) borders.push_back(border);
    }
  }
  std::sort(borders.begin(), borders.end());
  borders.erase(std::unique(borders.begin(), borders.end()), borders.end());
  std::vector<Interval> parts;
  for (size_t i = 0; i + 1 < borders.size(); ++i) parts.push_back({borders[i], borders[i + 1]});
  return parts;
}

std::vector<int> holders(Interval layers, Interval heads, const std::vector<PageShape>& sources) {
  std::vector<int> found;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (intersect(sources[i].layers, layers) == layers && intersect(sources[i].heads, heads) == heads) {
      found.push_back(static_cast<int>(i));
    }
  }
  return found;
}

// The cells of one band of layers.
std::vector<Cell> sweep_heads(Interval layers, const PageShape& destination, const std::vector<PageShape>& sources) {
  std::vector<Cell> row;
  for (const Interval heads : cut(destination.heads, sources, &PageShape::heads)) {
    std::vector<int> found = holders(layers, heads, sources);
    BATON_CHECK(!found.empty(), "no source holds layers {}..{} of heads {}..{}", layers.begin, layers.end, heads.begin,
                heads.end);
    if (!row.empty() && row.back().sources == found) {
      row.back().heads.end = heads.end;
    } else {
      row.push_back({layers, heads, std::move(found)});
    }
  }
  return row;
}

}  // namespace

std::vector<Cell> sweep(const PageShape& destination, const std::vector<PageShape>& sources) {
  std::vector<Cell> cells;
  size_t above = 0;  // first cell of the band before
  for (const Interval layers : cut(destination.layers, sources, &PageShape::layers)) {
    std::vector<Cell> row = sweep_heads(layers, destination, sources);
    const bool same =
        std::equal(cells.begin() + static_cast<ptrdiff_t>(above), cells.end(), row.begin(), row.end(),
                   [](const Cell& a, const Cell& b) { return a.heads == b.heads && a.sources == b.sources; });
    if (same) {
      for (size_t i = above; i < cells.size(); ++i) cells[i].layers.end = layers.end;
    } else {
      above = cells.size();
      std::move(row.begin(), row.end(), std::back_inserter(cells));
    }
  }
  return cells;
}

}  // namespace baton::layout
