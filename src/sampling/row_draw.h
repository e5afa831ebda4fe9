// How one token is drawn, without the request it is for: what a device needs to draw it. vocabulary_sampler.h says what
// it means.
#pragma once

#include <cstdint>
#include <vector>

namespace baton::sampling {

struct RowWanted;  // recipe.h

// What is done to one token's logit x before the draw. Edits of equal order are of different tokens, or the same.
struct LogitEdit {
  enum class Kind : int32_t { kBias, kAllow, kPenalise, kBar };
  int32_t token = 0;
  Kind kind = Kind::kBias;
  // kBias: x += a. kAllow: the raw logit + a. kPenalise: a divides a positive x and multiplies any other, then b is
  // subtracted.
  float a = 0, b = 0;
};
// What a penalty may make of a logit: far beyond every model's, and two of them still have a difference.
inline constexpr float kPenalisedMax = 1e30F;

struct RowDraw {
  int32_t greedy = 1;  // 1: the best is taken
  float inverse_temperature = 0;
  int32_t barred = 0;                                                           // 1: every token that no edit allows
  int32_t edits_begin = 0, edits_end = 0, penalties_begin = 0, bars_begin = 0;  // of the batch's: in three turns
  int32_t cuts = 0;           // 1: top_k or top_p; what is kept is then drawn from in the order of weights, else of ids
  int32_t rates = 0;          // 1: raw_total is wanted
  uint64_t least_weight = 1;  // of a token that min_p keeps
  uint64_t count_max = 0;     // top_k
  double top_p = 1;           // >= 1: all
  double uniform = 0;         // where the draw falls, in [0, 1)
};

// What was drawn.
struct RowDrawn {
  int32_t token = 0;
  float logit = 0;         // its raw one
  float raw_best = 0;      // of the row
  int32_t sound = 1;       // 0: a raw logit is NaN or +inf; token is 0
  int32_t possible = 1;    // 0: no token has a logit, or all are barred; token is 0
  uint64_t raw_total = 0;  // the sum of weight_of(raw logit, raw_best, 1), if RowDraw::rates
};

// The edits of the row, in their order, behind those that are there, and the draw itself. The row is drawn.
[[nodiscard]] RowDraw draw_of(const RowWanted& wanted, std::vector<LogitEdit>* edits);

}  // namespace baton::sampling
