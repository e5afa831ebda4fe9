// Normalization, rotation and activation: one pass over the rows each.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h
#include <cmath>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace baton::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Four sums, added pairwise at the end: shorter rounding chains than one sum, and no latency to wait for.
float sum_of_squares(const float* HWY_RESTRICT x, int64_t n) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + lanes);
    const auto x2 = hn::LoadU(d, x + i + 2 * lanes), x3 = hn::LoadU(d, x + i + 3 * lanes);
    s0 = hn::MulAdd(x0, x0, s0);
    s1 = hn::MulAdd(x1, x1, s1);
    s2 = hn::MulAdd(x2, x2, s2);
    s3 = hn::MulAdd(x3, x3, s3);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

void rms_norm_rows(const float* x, int64_t x_stride, const float* HWY_RESTRICT weight, float eps, int64_t m, int64_t n,
                   float* y, int64_t y_stride) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < m; ++r, x += x_stride, y += y_stride) {
    const float inverse = 1 / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps);
    const auto factor = hn::Set(d, inverse);
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes)
      hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), factor), hn::LoadU(d, weight + i)), d, y + i);
    for (; i < n; ++i) y[i] = x[i] * inverse * weight[i];
  }
}

// One vector of pairs (2i, 2i + 1) after the other.
void rotate_interleaved(float* HWY_RESTRICT v, int half, const float* HWY_RESTRICT cos, const float* HWY_RESTRICT sin) {
  const hn::ScalableTag<float> d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (; i + lanes <= half; i += lanes) {
    hn::Vec<decltype(d)> a, b;
    hn::LoadInterleaved2(d, v + 2 * i, a, b);
    const auto c = hn::LoadU(d, cos + i), s = hn::LoadU(d, sin + i);
    hn::StoreInterleaved2(hn::NegMulAdd(b, s, hn::Mul(a, c)), hn::MulAdd(a, s, hn::Mul(b, c)), d, v + 2 * i);
  }
  for (; i < half; ++i) {
    const float a = v[2 * i], b = v[2 * i + 1];
    v[2 * i] = a * cos[i] - b * sin[i];
    v[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

void rotate_half(float* HWY_RESTRICT v, int half, const float* HWY_RESTRICT cos, const float* HWY_RESTRICT sin) {
  const hn::ScalableTag<float> d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (; i + lanes <= half; i += lanes) {
    const auto a = hn::LoadU(d, v + i), b = hn::LoadU(d, v + i + half);
    const auto c = hn::LoadU(d, cos + i), s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, v + i);
    hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), d, v + i + half);
  }
  for (; i < half; ++i) {
    const float a = v[i], b = v[i + half];
    v[i] = a * cos[i] - b * sin[i];
    v[i + half] = b * cos[i] + a * sin[i];
  }
}

void rope_rows_interleaved(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim,
                           const float* cos, const float* sin) {
  const int half = dim / 2;
  for (int64_t r = 0; r < m; ++r)
    for (int h = 0; h < heads; ++h)
      rotate_interleaved(x + r * row_stride + h * head_stride, half, cos + r * half, sin + r * half);
}

void rope_rows_half(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim, const float* cos,
                    const float* sin) {
  const int half = dim / 2;
  for (int64_t r = 0; r < m; ++r)
    for (int h = 0; h < heads; ++h)
      rotate_half(x + r * row_stride + h * head_stride, half, cos + r * half, sin + r * half);
}

void silu_mul_rows(const float* HWY_RESTRICT gate_up, int64_t m, int64_t n, float* HWY_RESTRICT y) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto one = hn::Set(d, 1.0f), most = hn::Set(d, 88.0f);  // exp(88) is the last whole decade of float32
  for (int64_t r = 0; r < m; ++r, gate_up += 2 * n, y += n) {
    const float *gate = gate_up, *up = gate_up + n;
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      const auto g = hn::LoadU(d, gate + i);
      const auto denominator = hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(g), most)));
      hn::StoreU(hn::Mul(hn::Div(g, denominator), hn::LoadU(d, up + i)), d, y + i);
    }
    for (; i < n; ++i) y[i] = gate[i] / (1 + std::exp(std::min(-gate[i], 88.0f))) * up[i];
  }
}

void axpy_row(int64_t n, float a, const float* HWY_RESTRICT x, float* HWY_RESTRICT y) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto factor = hn::Set(d, a);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i);
  for (; i < n; ++i) y[i] += a * x[i];
}

}  // namespace baton::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <functional>

#include "kernels/cpu/product.h"
#include "kernels/kernels.h"

namespace baton::kernels {
namespace {

HWY_EXPORT(rms_norm_rows);
HWY_EXPORT(rope_rows_interleaved);
HWY_EXPORT(rope_rows_half);
HWY_EXPORT(silu_mul_rows);
HWY_EXPORT(axpy_row);

}  // namespace

void rms_norm(const float* x, int64_t x_stride, const float* weight, float eps, int64_t m, int64_t n, float* y,
              int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(rms_norm_rows)(x, x_stride, weight, eps, m, n, y, y_stride);
}

void rope_interleaved(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim,
                      const float* cos, const float* sin) {
  HWY_DYNAMIC_DISPATCH(rope_rows_interleaved)(x, m, row_stride, heads, head_stride, dim, cos, sin);
}

void rope_half(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim, const float* cos,
               const float* sin) {
  HWY_DYNAMIC_DISPATCH(rope_rows_half)(x, m, row_stride, heads, head_stride, dim, cos, sin);
}

void silu_mul(const float* gate_up, int64_t m, int64_t n, float* y) {
  const auto rows = [=](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(silu_mul_rows)(gate_up + begin * 2 * n, end - begin, n, y + begin * n);
  };
  const auto part = [&](int at, int parts) { rows(m * at / parts, m * (at + 1) / parts); };
  constexpr int64_t kWork = 16;  // an exponential and a division, in multiplications
  if (kWork * m * n < kInlineWork)
    part(0, 1);
  else
    on_gemm_threads(std::ref(part));
}

void axpy(int64_t n, float a, const float* x, float* y) { HWY_DYNAMIC_DISPATCH(axpy_row)(n, a, x, y); }

void add_bias(const float* bias, int64_t m, int64_t n, float* y) {
  for (int64_t r = 0; r < m; ++r) HWY_DYNAMIC_DISPATCH(axpy_row)(n, 1, bias, y + r * n);
}

void rms_norm_heads(float* x, int64_t row_stride, const float* weight, float eps, int64_t m, int heads, int dim) {
  for (int64_t r = 0; r < m; ++r, x += row_stride)
    HWY_DYNAMIC_DISPATCH(rms_norm_rows)(x, dim, weight, eps, heads, dim, x, dim);
}

}  // namespace baton::kernels

#endif  // HWY_ONCE
