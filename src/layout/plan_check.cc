#include "layout/plan_check.h"

#include <algorithm>
#include <numeric>
#include <set>

namespace baton::layout {

namespace {

constexpr int kPeriodMax = 1 << 20;

bool inside(Interval inner, Interval outer) { return !inner.empty() && intersect(inner, outer) == inner; }

// How often each (layer, head, unit of a period) of one destination is written, from the fabric and in all.
class Marks {
 public:
  Marks(const PageShape& shape, int period)
      : shape_(shape),
        period_(period),
        counts_(static_cast<size_t>(shape.layers.size() * shape.heads.size()) * period) {}

  template <typename Slice>
  void add(const Slice& slice) {
    for_each(slice, [](int& count) { ++count; });
  }
  template <typename Slice>
  [[nodiscard]] bool covers(const Slice& slice) {
    bool all = true;
    for_each(slice, [&](const int& count) { all = all && count > 0; });
    return all;
  }
  // The first cell not written exactly once.
  [[nodiscard]] Status written_once(int destination) const {
    for (size_t i = 0; i < counts_.size(); ++i) {
      if (counts_[i] == 1) continue;
      const int unit = static_cast<int>(i) % period_;
      const int cell = static_cast<int>(i) / period_;
      return error(ErrorCode::kCorrupt, "destination {}, layer {}, head {}, unit {} of {}: {} writers, must be 1",
                   destination, shape_.layers.begin + cell / shape_.heads.size(),
                   shape_.heads.begin + cell % shape_.heads.size(), unit, period_, counts_[i]);
    }
    return {};
  }

 private:
  template <typename Slice, typename Action>
  void for_each(const Slice& slice, Action action) {
    for (int layer = slice.layers.begin; layer < slice.layers.end; ++layer) {
      for (int head = slice.heads.begin; head < slice.heads.end; ++head) {
        const int cell = (layer - shape_.layers.begin) * shape_.heads.size() + head - shape_.heads.begin;
        for (int unit = slice.stripe; unit < period_; unit += slice.stripes) {
          action(counts_[static_cast<size_t>(cell) * period_ + unit]);
        }
      }
    }
  }

  PageShape shape_;
  int period_;
  std::vector<int> counts_;  // (layer, head, unit)
};

template <typename Slice>
Status check_slice(const char* kind, const Slice& slice, int sources, int destinations, const Planner& planner,
                   bool source_is_destination) {
  if (slice.source < 0 || slice.source >= sources || slice.destination < 0 || slice.destination >= destinations) {
    return error(ErrorCode::kCorrupt, "{} {} -> {}: ranks out of {} -> {}", kind, slice.source, slice.destination,
                 sources, destinations);
  }
  const PageShape& from =
      source_is_destination ? planner.destination_shape(slice.source) : planner.source_shape(slice.source);
  const PageShape& to = planner.destination_shape(slice.destination);
  for (const PageShape* shape : {&from, &to}) {
    if (!inside(slice.layers, shape->layers) || !inside(slice.heads, shape->heads)) {
      return error(ErrorCode::kCorrupt, "{} {} -> {}: layers {}..{} of heads {}..{} are not held by {}", kind,
                   slice.source, slice.destination, slice.layers.begin, slice.layers.end, slice.heads.begin,
                   slice.heads.end, shape == &from ? "its source" : "its destination");
    }
  }
  const int unit_tokens = std::max(planner.prefill().page_tokens, planner.decode().page_tokens);
  if (slice.stripes < 1 || slice.stripe < 0 || slice.stripe >= slice.stripes || slice.unit_tokens != unit_tokens) {
    return error(ErrorCode::kCorrupt, "{} {} -> {}: stripe {} of {} in units of {} tokens (pages of {})", kind,
                 slice.source, slice.destination, slice.stripe, slice.stripes, slice.unit_tokens, unit_tokens);
  }
  return {};
}

Status check_links(const Planner& planner, const Plan& plan) {
  std::set<std::pair<int, int>> real;
  for (const Piece& piece : plan.pieces) real.emplace(piece.source, piece.destination);
  auto link = plan.links.begin();
  for (int s = 0; s < planner.source_ranks(); ++s) {
    for (int d = 0; d < planner.destination_ranks(); ++d) {
      const PageShape& from = planner.source_shape(s);
      const PageShape& to = planner.destination_shape(d);
      if (intersect(from.layers, to.layers).empty() || intersect(from.heads, to.heads).empty()) continue;
      const Plan::Link expected{s, d, real.contains({s, d})};
      if (link == plan.links.end() || *link != expected) {
        return error(ErrorCode::kCorrupt, "link {} -> {} should be listed as {}", s, d,
                     expected.real ? "real" : "dummy");
      }
      ++link;
    }
  }
  if (link != plan.links.end()) {
    return error(ErrorCode::kCorrupt, "link {} -> {} holds no common bytes", link->source, link->destination);
  }
  return {};
}

}  // namespace

Status check_plan(const Planner& planner, const Plan& plan) {
  const int sources = planner.source_ranks();
  const int destinations = planner.destination_ranks();
  int64_t period = 1;  // units after which the stripes repeat
  for (const Piece& piece : plan.pieces) {
    BATON_TRY(check_slice("piece", piece, sources, destinations, planner, false));
    period = std::lcm(period, int64_t{piece.stripes});
    if (period > kPeriodMax) return error(ErrorCode::kCorrupt, "stripes repeat only after {} units", period);
  }
  for (const LocalCopy& copy : plan.local_copies) {
    BATON_TRY(check_slice("local copy", copy, destinations, destinations, planner, true));
    if (period % copy.stripes != 0)
      return error(ErrorCode::kCorrupt, "local copy in {} stripes, pieces repeat after {}", copy.stripes, period);
  }

  std::vector<Marks> from_fabric;
  from_fabric.reserve(static_cast<size_t>(destinations));
  for (int d = 0; d < destinations; ++d)
    from_fabric.emplace_back(planner.destination_shape(d), static_cast<int>(period));
  for (const Piece& piece : plan.pieces) from_fabric[static_cast<size_t>(piece.destination)].add(piece);
  std::vector<Marks> all = from_fabric;
  for (const LocalCopy& copy : plan.local_copies) {
    if (!from_fabric[static_cast<size_t>(copy.source)].covers(copy)) {
      return error(ErrorCode::kCorrupt, "local copy {} -> {}: its source does not receive stripe {} of {}", copy.source,
                   copy.destination, copy.stripe, copy.stripes);
    }
    all[static_cast<size_t>(copy.destination)].add(copy);
  }
  for (int d = 0; d < destinations; ++d) BATON_TRY(all[static_cast<size_t>(d)].written_once(d));
  return check_links(planner, plan);
}

}  // namespace baton::layout
