#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_steps.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_steps.h"
#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/product.h"

HWY_BEFORE_NAMESPACE();
namespace baton::kernels::HWY_NAMESPACE {

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

// e^x for x <= 0, relative error below 2e-7; 0 below -87. x = n ln 2 + r, e^r by its Taylor polynomial of degree 7 (|r|
// <= ln 2 / 2).
HWY_INLINE VecF exp_negative(TagF d, VecF x) {
  const hn::Rebind<int32_t, TagF> di;
  const VecF n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504f)));
  const VecF r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x));
  VecF e = hn::Set(d, 1.0f / 5040);
  e = hn::MulAdd(e, r, hn::Set(d, 1.0f / 720));
  e = hn::MulAdd(e, r, hn::Set(d, 1.0f / 120));
  e = hn::MulAdd(e, r, hn::Set(d, 1.0f / 24));
  e = hn::MulAdd(e, r, hn::Set(d, 1.0f / 6));
  e = hn::MulAdd(e, r, hn::Set(d, 0.5f));
  e = hn::MulAdd(e, r, hn::Set(d, 1.0f));
  e = hn::MulAdd(e, r, hn::Set(d, 1.0f));
  const auto shifted = hn::Add(hn::BitCast(di, e), hn::ShiftLeft<23>(hn::ConvertTo(di, n)));
  return hn::IfThenElseZero(hn::Gt(x, hn::Set(d, -87.0f)), hn::BitCast(d, shifted));
}

// Masks a column of scores where its rows may not see, and returns the maximum with `top`.
HWY_INLINE VecF masked_maximum(TagF d, const SoftmaxBlock& b, int64_t c, VecF top) {
  const VecF visible = hn::LoadU(d, b.visible + c);
  for (int t = 0; t < b.tokens; ++t) {
    float* at = b.scores + t * b.columns + c;
    const VecF score = masked_score(d, hn::LoadU(d, at), visible, t);
    hn::StoreU(score, d, at);
    top = hn::Max(top, score);
  }
  return top;
}

// Replaces a column of scores by exp(score - base); returns the sum.
HWY_INLINE VecF exponentials(TagF d, const SoftmaxBlock& b, int64_t c, VecF base) {
  VecF sum = hn::Zero(d);
  for (int t = 0; t < b.tokens; ++t) {
    float* at = b.scores + t * b.columns + c;
    const VecF p = exp_negative(d, hn::Sub(hn::LoadU(d, at), base));
    sum = hn::Add(sum, p);
    hn::StoreU(p, d, at);
  }
  return sum;
}

// The same into pairs of bfloat16. Probabilities are in [0, 1], so adding half a unit rounds them.
HWY_INLINE VecF exponential_pairs(TagF d, const SoftmaxBlock& b, int64_t c, VecF base) {
  const hn::Rebind<uint32_t, TagF> du;
  const auto half = hn::Set(du, 0x8000u), high = hn::Set(du, 0xffff0000u);
  VecF sum = hn::Zero(d);
  for (int t = 0; t < b.tokens; t += 2) {
    const float* at = b.scores + t * b.columns + c;
    const VecF even = exp_negative(d, hn::Sub(hn::LoadU(d, at), base));
    sum = hn::Add(sum, even);
    auto pair = hn::ShiftRight<16>(hn::Add(hn::BitCast(du, even), half));
    if (t + 1 < b.tokens) {
      const VecF odd = exp_negative(d, hn::Sub(hn::LoadU(d, at + b.columns), base));
      sum = hn::Add(sum, odd);
      pair = hn::Or(pair, hn::And(hn::Add(hn::BitCast(du, odd), half), high));
    }
    hn::StoreU(pair, du, b.pairs + t / 2 * b.columns + c);
  }
  return sum;
}

bool softmax_columns(const SoftmaxBlock& b) {
  const TagF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  bool decays = false;
  for (int64_t c = 0; c < b.columns; c += lanes) {
    const VecF old_max = hn::LoadU(d, b.row_max + c);
    VecF top = old_max;
    if (b.masked)
      top = masked_maximum(d, b, c, top);
    else
      for (int t = 0; t < b.tokens; ++t) top = hn::Max(top, hn::LoadU(d, b.scores + t * b.columns + c));
    const VecF base = finite_or_zero(d, top);
    const VecF decay = exp_negative(d, hn::Sub(old_max, base));
    decays = decays || !hn::AllTrue(d, hn::Eq(decay, hn::Set(d, 1.0f)));
    const VecF sum = b.pairs != nullptr ? exponential_pairs(d, b, c, base) : exponentials(d, b, c, base);
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
  if (run.dtype == tensor::DType::kBF16)
    scores_of<uint16_t>(run, q, rows, k_dim, scores);
  else if (run.dtype == tensor::DType::kF8E4M3)
    scores_of<uint8_t>(run, q, rows, k_dim, scores);
  else
    scores_of<float>(run, q, rows, k_dim, scores);
}

void values_of_run(const DirectRun& run, const float* p, int rows, int64_t v_dim, float* acc) {
  if (run.dtype == tensor::DType::kBF16)
    values_of<uint16_t>(run, p, rows, v_dim, acc);
  else if (run.dtype == tensor::DType::kF8E4M3)
    values_of<uint8_t>(run, p, rows, v_dim, acc);
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
    const VecF p = exp_negative(d, hn::Sub(hn::LoadU(d, scores + t), base));
    hn::StoreU(p, d, scores + t);
    sum = hn::Add(sum, p);
  }
  const float decay = std::exp(row_max - new_max);
  row_max = new_max;
  row_sum = row_sum * decay + hn::GetLane(hn::SumOfLanes(d, sum));
  return decay;
}

}  // namespace baton::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace baton::kernels {
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

}  // namespace baton::kernels

#endif  // HWY_ONCE
