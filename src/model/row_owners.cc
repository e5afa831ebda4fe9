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

uint64_t RowOwners::shape(int64_t logits_rows) const {
  // 64 bits of numbers that are not chosen by an enemy: of the shapes that a server meets no two are alike.
  uint64_t hash = static_cast<uint64_t>(logits_rows) * 2 + (everywhere ? 1 : 0);
  const auto mix = [&](int64_t v) {
    hash = (hash ^ static_cast<uint64_t>(v)) * 0x9e3779b97f4a7c15, hash ^= hash >> 29;
  };
  for (const int64_t bound : rows) mix(bound);
  for (const int64_t bound : logits) mix(bound);
  return hash;
}

}  // namespace baton::model
