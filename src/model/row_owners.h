// Which rank of a stage owns which rows of a batch.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/comm.h"
#include "model/step_batch.h"

namespace baton::model {

// The rows of a DP group are cut over its ranks. Since ranks and rows are both numbered group by group, the rows of a
// group's ranks are one run of bounds. Where a sum on every rank takes no longer than one that is cut, every rank has
// all rows, and there is nothing to gather.
struct RowOwners {
  std::vector<int64_t> rows;  // (tp + 1): rank r owns rows [rows[r], rows[r + 1])
  // (tp + 1): of the rows whose logits are wanted, in the order of the batch, rank r owns [logits[r], logits[r + 1]).
  std::vector<int64_t> logits;

  bool everywhere = false;  // every rank has all rows, whatever the bounds say; of one DP group

  void cut(const StepBatch& batch, int attn_tp);
  // Of the steps that differ in nothing that sizes or cuts what a rank computes, if all their rows are decode's.
  [[nodiscard]] uint64_t shape(int64_t logits_rows) const;
  [[nodiscard]] LongInterval of(int tp_rank) const { return part(rows, tp_rank); }
  [[nodiscard]] LongInterval logits_of(int tp_rank) const { return part(logits, tp_rank); }
  [[nodiscard]] comm::RowBounds of_group(int dp_rank, int attn_tp) const {
    return comm::RowBounds(rows).subspan(static_cast<size_t>(dp_rank * attn_tp), static_cast<size_t>(attn_tp) + 1);
  }

 private:
  [[nodiscard]] LongInterval part(const std::vector<int64_t>& bounds, int tp_rank) const {
    if (everywhere) return {bounds.front(), bounds.back()};
    return {bounds[static_cast<size_t>(tp_rank)], bounds[static_cast<size_t>(tp_rank) + 1]};
  }
};

}  // namespace baton::model
