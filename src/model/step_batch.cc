#include "model/step_batch.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace baton::model {

MlaPath choose_mla_path(const ModelConfig& config, int64_t begin, int64_t m) {
  const auto context = static_cast<double>(begin + m);
  const auto rows = static_cast<double>(m);
  const double pairs = rows * static_cast<double>(begin) + rows * (rows + 1) / 2;
  const double up = static_cast<double>(config.kv_lora) * (config.qk_nope + config.v_head);
  const double absorbed = pairs * (2.0 * config.kv_lora + config.qk_rope) + rows * up;
  const double expanded = pairs * (config.qk_nope + config.qk_rope + config.v_head) + context * up;
  return absorbed <= expanded ? MlaPath::kAbsorbed : MlaPath::kExpanded;
}

LongInterval row_part(LongInterval range, int parts, int i) {
  const int64_t base = range.size() / parts;
  const int64_t larger = range.size() % parts;
  const int64_t begin = range.begin + i * base + std::min<int64_t>(i, larger);
  return {begin, begin + base + (i < larger ? 1 : 0)};
}

void StepBatch::build(const kv::StepPlan& plan, std::span<const sampling::RowsWanted> rows_wanted,
                      const ModelConfig& config, int dp, MlaPath path, RopeTable& rope, const StepBatch* before) {
  tokens.clear();
  logits_row.clear();
  cos.clear();
  sin.clear();
  segments.clear();
  pages.clear();
  groups.assign(static_cast<size_t>(dp), GroupRows{});
  rows = 0;
  logits_rows = 0;

  first_row.clear();
  last_row.clear();
  for (const kv::Segment& s : plan.segments) {
    first_row.push_back(static_cast<size_t>(logits_rows));
    logits_rows += s.logits_rows;
    last_row.push_back(static_cast<size_t>(std::max<int64_t>(1, logits_rows) - 1));
  }
  wanted.assign(static_cast<size_t>(logits_rows), {});
  recipes.clear();
  for (size_t i = 0; i < rows_wanted.size(); ++i) {
    if (rows_wanted[i].recipe == nullptr) continue;
    const auto count = static_cast<size_t>(plan.segments[i].logits_rows);
    sampling::want_rows(rows_wanted[i], std::span(wanted).subspan(first_row[i], count));
    recipes.push_back(rows_wanted[i].recipe);
  }

  const auto absorbs = [&](const kv::Segment& s) {
    if (!config.is_mla()) return false;
    const auto m = static_cast<int64_t>(s.tokens.size());
    return (path == MlaPath::kAuto ? choose_mla_path(config, s.begin, m) : path) == MlaPath::kAbsorbed;
  };
  is_decode = std::ranges::all_of(
      plan.segments, [&](const kv::Segment& s) { return s.tokens.size() == 1 && (!config.is_mla() || absorbs(s)); });
  // By group, absorbed ones first, else as they were planned: counted, not sorted.
  const auto kind = [&](const kv::Segment& s) { return 2 * static_cast<size_t>(s.dp_rank) + (absorbs(s) ? 0 : 1); };
  kind_begin.assign(2 * static_cast<size_t>(dp) + 1, 0);
  for (const kv::Segment& s : plan.segments) ++kind_begin[kind(s) + 1];
  std::partial_sum(kind_begin.begin(), kind_begin.end(), kind_begin.begin());
  order.resize(plan.segments.size());
  for (size_t i = 0; i < plan.segments.size(); ++i) order[kind_begin[kind(plan.segments[i])]++] = i;

  auto next = order.begin();
  for (int g = 0; g < dp; ++g) {
    GroupRows& group = groups[static_cast<size_t>(g)];
    group.segments_begin = group.segments_absorbed_end = segments.size();
    group.rows.begin = rows;
    group.absorbed_end = rows;
    for (; next != order.end() && plan.segments[*next].dp_rank == g; ++next) {
      const kv::Segment& s = plan.segments[*next];
      const auto m = static_cast<int64_t>(s.tokens.size());
      segments.push_back({rows - group.rows.begin, s.begin, m, static_cast<int64_t>(pages.size())});
      pages.insert(pages.end(), s.pages.begin(), s.pages.end());
      tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
      if (s.drawn_by >= 0) tokens.back() = -1 - static_cast<int32_t>(before->last_row[static_cast<size_t>(s.drawn_by)]);
      for (int64_t t = 0; t < m; ++t) {
        const int64_t row = t - (m - s.logits_rows);
        logits_row.push_back(row < 0 ? -1 : static_cast<int64_t>(first_row[*next]) + row);
      }
      rope.gather(s.begin, m, cos, sin);
      rows += m;
      if (absorbs(s)) {
        group.segments_absorbed_end = segments.size();
        group.absorbed_end = rows;
      }
    }
    group.segments_end = segments.size();
    group.rows.end = rows;
  }
}

}  // namespace baton::model
