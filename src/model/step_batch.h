// A step plan laid out for the ranks: one row per token, the rows of a DP group together.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/interval.h"
#include "kernels/paged_kv.h"
#include "kv/step_plan.h"
#include "model/model_config.h"
#include "model/rope.h"
#include "sampling/recipe.h"

namespace baton::model {

// How MLA attends: over latents with the up-projections absorbed into queries and outputs, or over the expanded keys
// and values.
enum class MlaPath : uint8_t { kAuto, kAbsorbed, kExpanded };

// The cheaper path for m new tokens after `begin` cached ones. Multiply-adds of one head, with P = m * begin + m (m +
// 1) / 2 pairs:
//   absorbed: P * (2 kv_lora + qk_rope) + m * kv_lora * (qk_nope + v_head)
//   expanded: P * (qk_nope + qk_rope + v_head) + (begin + m) * kv_lora * (qk_nope + v_head)
// Decode (m = 1) is absorbed, a long prompt expanded.
[[nodiscard]] MlaPath choose_mla_path(const ModelConfig& config, int64_t begin, int64_t m);

// Part i of `range` cut into balanced parts.
[[nodiscard]] LongInterval row_part(LongInterval range, int parts, int i);

struct StepBatch {
  // Of one DP group; absorbed segments come first, so their rows are one run.
  struct GroupRows {
    size_t segments_begin = 0, segments_absorbed_end = 0, segments_end = 0;
    LongInterval rows;
    int64_t absorbed_end = 0;  // rows [rows.begin, absorbed_end) are of absorbed segments
  };
  int64_t rows = 0;
  int64_t logits_rows = 0;
  // Every segment is one token that attends as in decode: what is to be done depends on the batch's shape alone. A
  // prompt of one token may not be such.
  bool is_decode = false;
  std::vector<int32_t> tokens;               // (rows); -1 - i: answer i of the step before
  std::vector<int64_t> logits_row;           // (rows): where in the result's logits, or -1
  std::vector<float> cos, sin;               // (rows, rope half)
  std::vector<kernels::PagedRows> segments;  // their rows counted from the group's first
  std::vector<uint32_t> pages;               // of all segments, one after another: the block table
  std::vector<GroupRows> groups;             // (dp)

  [[nodiscard]] std::span<const kernels::PagedRows> all(const GroupRows& group) const {
    return std::span(segments).subspan(group.segments_begin, group.segments_end - group.segments_begin);
  }
  [[nodiscard]] std::span<const kernels::PagedRows> absorbed(const GroupRows& group) const {
    return std::span(segments).subspan(group.segments_begin, group.segments_absorbed_end - group.segments_begin);
  }
  [[nodiscard]] std::span<const kernels::PagedRows> expanded(const GroupRows& group) const {
    return std::span(segments).subspan(group.segments_absorbed_end, group.segments_end - group.segments_absorbed_end);
  }

  std::vector<size_t> first_row;            // (segments of the plan): where its rows begin in the result's logits
  std::vector<size_t> last_row;             // and the last of them
  std::vector<sampling::RowWanted> wanted;  // (logits_rows); the recipes live as long
  std::vector<std::shared_ptr<sampling::Recipe>> recipes;
  std::vector<size_t> order, kind_begin;  // build()'s own

  // Lays out `plan`; nothing of it is borrowed. `before`: the step before, whose answers Segment::drawn_by names; may
  // be null if none does. Capacity is kept between steps.
  void build(const kv::StepPlan& plan, std::span<const sampling::RowsWanted> rows_wanted, const ModelConfig& config,
             int dp, MlaPath path, RopeTable& rope, const StepBatch* before);
};

}  // namespace baton::model
