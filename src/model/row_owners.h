// Which rank of a stage owns which rows of a batch.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/comm.h"
#include "model/step_batch.h"

namespace baton::model {

// The rows of a DP group are cut over its ranks. Since ranks and rows are both numbered group by group, the rows of a
// group's ranks are one run of bounds.
struct RowOwners {
  std::vector<int64_t> rows;  // (tp + 1): rank r owns rows [rows[r], rows[r + 1])
  // (tp + 1): of the rows whose logits are wanted, in the order of the batch, rank r owns [logits[r], logits[r + 1]).
  std::vector<int64_t> logits;

  void cut(const StepBatch& batch, int attn_tp);
  // Of the steps that differ in nothing that sizes or cuts what a rank computes, if all their rows are decode's.
  [[nodiscard]] uint64_t shape(int64_t logits_rows) const;
  [[nodiscard]] LongInterval of(int tp_rank) const {
    return {rows[static_cast<size_t>(tp_rank)], rows[static_cast<size_t>(tp_rank) + 1]};
  }
  [[nodiscard]] comm::RowBounds of_group(int dp_rank, int attn_tp) const {
    return comm::RowBounds(rows).subspan(static_cast<size_t>(dp_rank * attn_tp), static_cast<size_t>(attn_tp) + 1);
  }
};

}  // namespace baton::model
