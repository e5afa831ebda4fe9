#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_steps.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h
#include <algorithm>
#include <cmath>
#include <limits>

#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/attention_steps.h"
#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/product.h"

HWY_BEFORE_NAMESPACE();
namespace baton::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using TagF = hn::ScalableTag<float>;
using VecF = hn::Vec<TagF>;

// Scores that a row may not see become -inf, whose exponential is 0.
HWY_INLINE VecF masked_score(TagF d, VecF score, VecF visible, int token) {
  const auto hidden = hn::Set(d, -std::numeric_limits<float>::infinity());
  return hn::IfThenElse(hn::Lt(hn::Set(d, static_cast<float>(token)), visible), score, hidden);
}

// A row that has seen nothing yet has maximum -inf, and -inf - -inf is no number: its reference point is 0.
HWY_INLINE VecF finite_or_zero(TagF d, VecF v) {
  return hn::IfThenElse(hn::Gt(v, hn::Set(d, -std::numeric_limits<float>::infinity())), v, hn::Zero(d));
}

bool softmax_columns(const SoftmaxBlock& b) {
  const TagF d;
  const hn::Rebind<uint32_t, TagF> du;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  bool decays = false;
  for (int64_t c = 0; c < b.columns; c += lanes) {
    const VecF old_max = hn::LoadU(d, b.row_max + c), visible = hn::LoadU(d, b.visible + c);
    VecF top = old_max;
    for (int t = 0; t < b.tokens; ++t) {
      float* at = b.scores + t * b.columns + c;
      VecF score = hn::LoadU(d, at);
      if (b.masked) {
        score = masked_score(d, score, visible, t);
        hn::StoreU(score, d, at);
      }
      top = hn::Max(top, score);
    }
    const VecF base = finite_or_zero(d, top);
    const VecF decay = hn::Exp(d, hn::Sub(old_max, base));
    decays = decays || !hn::AllTrue(d, hn::Eq(decay, hn::Set(d, 1.0f)));
    VecF sum = hn::Zero(d);
    for (int t = 0; t < b.tokens; ++t) {
      float* at = b.scores + t * b.columns + c;
      const VecF p = hn::Exp(d, hn::Sub(hn::LoadU(d, at), base));
      sum = hn::Add(sum, p);
      if (b.pairs == nullptr) {
        hn::StoreU(p, d, at);
      } else {
        uint32_t* pair = b.pairs + t / 2 * b.columns + c;
        const auto bits = bf16_bits(d, p);
        hn::StoreU(t % 2 == 0 ? bits : hn::Or(hn::LoadU(du, pair), hn::ShiftLeft<16>(bits)), du, pair);
      }
    }
    hn::StoreU(top, d, b.row_max + c);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, b.row_sum + c), decay, sum), d, b.row_sum + c);
    hn::StoreU(decay, d, b.decay + c);
  }
  return decays;
}

void scale_floats(const float* x, int64_t count, float factor, float* out) {
  const TagF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const VecF f = hn::Set(d, factor);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, x + i), f), d, out + i);
  for (; i < count; ++i) out[i] = x[i] * factor;
}

template <int R, typename T>
HWY_INLINE void score_tokens(const DirectRun& run, const T* HWY_RESTRICT k, const float* HWY_RESTRICT q, int64_t k_dim,
                             float* HWY_RESTRICT scores) {
  const TagF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int t = 0; t < run.tokens; ++t, k += run.k_stride) {
    VecF sum[R];
    BATON_UNROLL
    for (int r = 0; r < R; ++r) sum[r] = hn::Zero(d);
    for (int64_t i = 0; i < k_dim; i += lanes) {
      const VecF key = load_floats(d, k + i);
      BATON_UNROLL
      for (int r = 0; r < R; ++r) sum[r] = hn::MulAdd(hn::LoadU(d, q + r * k_dim + i), key, sum[r]);
    }
    BATON_UNROLL
    for (int r = 0; r < R; ++r) scores[r * kBlockTokens + t] = hn::GetLane(hn::SumOfLanes(d, sum[r]));
  }
}

// V vectors of acc stay in registers while the tokens pass.
template <int R, int V, typename T>
HWY_INLINE void value_columns(const DirectRun& run, const T* HWY_RESTRICT v, const float* HWY_RESTRICT p, int64_t v_dim,
                              float* HWY_RESTRICT acc) {
  const TagF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  VecF sum[R][V];
  BATON_UNROLL
  for (int r = 0; r < R; ++r) {
    BATON_UNROLL
    for (int i = 0; i < V; ++i) sum[r][i] = hn::LoadU(d, acc + r * v_dim + i * lanes);
  }
  for (int t = 0; t < run.tokens; ++t, v += run.v_stride) {
    BATON_UNROLL
    for (int i = 0; i < V; ++i) {
      const VecF value = load_floats(d, v + i * lanes);
      BATON_UNROLL
      for (int r = 0; r < R; ++r) sum[r][i] = hn::MulAdd(hn::Set(d, p[r * kBlockTokens + t]), value, sum[r][i]);
    }
  }
  BATON_UNROLL
  for (int r = 0; r < R; ++r) {
    BATON_UNROLL
    for (int i = 0; i < V; ++i) hn::StoreU(sum[r][i], d, acc + r * v_dim + i * lanes);
  }
}

template <int R, typename T>
HWY_INLINE void value_tokens(const DirectRun& run, const float* p, int64_t v_dim, float* acc) {
  constexpr int kVectors = HWY_MAX_BYTES >= 64 ? 4 : 2;
  const auto lanes = static_cast<int64_t>(hn::Lanes(TagF()));
  const auto* v = reinterpret_cast<const T*>(run.v);
  int64_t i = 0;
  for (; i + kVectors * lanes <= v_dim; i += kVectors * lanes)
    value_columns<R, kVectors>(run, v + i, p, v_dim, acc + i);
  for (; i < v_dim; i += lanes) value_columns<R, 1>(run, v + i, p, v_dim, acc + i);
}

template <typename T>
HWY_INLINE void scores_of(const DirectRun& run, const float* q, int rows, int64_t k_dim, float* scores) {
  const auto* k = reinterpret_cast<const T*>(run.k);
  switch (rows) {
    case 1:
      score_tokens<1>(run, k, q, k_dim, scores);
      break;
    case 2:
      score_tokens<2>(run, k, q, k_dim, scores);
      break;
    case 3:
      score_tokens<3>(run, k, q, k_dim, scores);
      break;
    default:
      score_tokens<4>(run, k, q, k_dim, scores);
      break;
  }
}

template <typename T>
HWY_INLINE void values_of(const DirectRun& run, const float* p, int rows, int64_t v_dim, float* acc) {
  switch (rows) {
    case 1:
      value_tokens<1, T>(run, p, v_dim, acc);
      break;
    case 2:
      value_tokens<2, T>(run, p, v_dim, acc);
      break;
    case 3:
      value_tokens<3, T>(run, p, v_dim, acc);
      break;
    default:
      value_tokens<4, T>(run, p, v_dim, acc);
      break;
  }
}

void scores_of_run(const DirectRun& run, const float* q, int rows, int64_t k_dim, float* scores) {
  if (run.kv_bf16)
    scores_of<uint16_t>(run, q, rows, k_dim, scores);
  else
    scores_of<float>(run, q, rows, k_dim, scores);
}

void values_of_run(const DirectRun& run, const float* p, int rows, int64_t v_dim, float* acc) {
  if (run.kv_bf16)
    values_of<uint16_t>(run, p, rows, v_dim, acc);
  else
    values_of<float>(run, p, rows, v_dim, acc);
}

// The scores are padded to a whole number of vectors by -inf, in place.
float softmax_scores(float* scores, int tokens, float& row_max, float& row_sum) {
  const TagF d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int padded = (tokens + lanes - 1) / lanes * lanes;
  std::fill(scores + tokens, scores + padded, -std::numeric_limits<float>::infinity());
  VecF top = hn::Set(d, row_max);
  for (int t = 0; t < padded; t += lanes) top = hn::Max(top, hn::LoadU(d, scores + t));
  const float new_max = hn::GetLane(hn::MaxOfLanes(d, top));
  const VecF base = hn::Set(d, new_max);
  VecF sum = hn::Zero(d);
  for (int t = 0; t < padded; t += lanes) {
    const VecF p = hn::Exp(d, hn::Sub(hn::LoadU(d, scores + t), base));
    hn::StoreU(p, d, scores + t);
    sum = hn::Add(sum, p);
  }
  const float decay = std::exp(row_max - new_max);
  row_max = new_max;
  row_sum = row_sum * decay + hn::GetLane(hn::SumOfLanes(d, sum));
  return decay;
}

}  // namespace baton::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace baton {
namespace {

HWY_EXPORT(softmax_columns);
HWY_EXPORT(scale_floats);
HWY_EXPORT(scores_of_run);
HWY_EXPORT(values_of_run);
HWY_EXPORT(softmax_scores);

}  // namespace

bool softmax_block(const SoftmaxBlock& block) { return HWY_DYNAMIC_DISPATCH(softmax_columns)(block); }

void decay_rows(float* acc, int64_t rows, int64_t columns, const float* decay) {
  for (int64_t r = 0; r < rows; ++r)
    if (decay[r] != 1) scale_row(acc + r * columns, columns, decay[r], acc + r * columns);
}

void direct_scores(const DirectRun& run, const float* q, int rows, int64_t k_dim, float* scores) {
  HWY_DYNAMIC_DISPATCH(scores_of_run)(run, q, rows, k_dim, scores);
}

void direct_values(const DirectRun& run, const float* p, int rows, int64_t v_dim, float* acc) {
  HWY_DYNAMIC_DISPATCH(values_of_run)(run, p, rows, v_dim, acc);
}

float softmax_row(float* scores, int tokens, float& row_max, float& row_sum) {
  return HWY_DYNAMIC_DISPATCH(softmax_scores)(scores, tokens, row_max, row_sum);
}

void scale_row(const float* x, int64_t count, float factor, float* out) {
  HWY_DYNAMIC_DISPATCH(scale_floats)(x, count, factor, out);
}

}  // namespace baton

#endif  // HWY_ONCE
