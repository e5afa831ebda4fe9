#include "model/row_owners.h"

#include <algorithm>

namespace baton::model {

void RowOwners::cut(const StepBatch& batch, int attn_tp) {
  rows.assign(1, 0);
  logits.assign(1, 0);
  for (const StepBatch::GroupRows& group : batch.groups) {
    for (int i = 0; i < attn_tp; ++i) {
      const LongInterval own = row_part(group.rows, attn_tp, i);
      rows.push_back(own.end);
      const auto wanted = std::count_if(batch.logits_row.begin() + own.begin, batch.logits_row.begin() + own.end,
                                        [](int64_t row) { return row >= 0; });
      logits.push_back(logits.back() + wanted);
    }
  }
}

}  // namespace baton::model
