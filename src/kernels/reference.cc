#include "kernels/reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/paged_kv.h"
#include "sampling/token_weight.h"

namespace baton::kernels {
namespace {

float rounded(float v, Compute compute) { return compute == Compute::kBF16 ? tensor::to_float(tensor::to_bf16(v)) : v; }

float load(const std::byte* row, int i, tensor::DType dtype) {
  if (dtype == tensor::DType::kF32) {
    float v;
    std::memcpy(&v, row + 4 * i, 4);
    return v;
  }
  if (dtype == tensor::DType::kF8E4M3) return tensor::to_float(tensor::F8E4M3{static_cast<uint8_t>(row[i])});
  tensor::BF16 v;
  std::memcpy(&v, row + 2 * i, 2);
  return tensor::to_float(v);
}

void store(std::byte* row, int i, tensor::DType dtype, float value) {
  if (dtype == tensor::DType::kF32) {
    std::memcpy(row + 4 * i, &value, 4);
  } else if (dtype == tensor::DType::kF8E4M3) {
    row[i] = static_cast<std::byte>(tensor::to_f8e4m3(value).bits);
  } else {
    const tensor::BF16 v = tensor::to_bf16(value);
    std::memcpy(row + 2 * i, &v, 2);
  }
}

// One query over `tokens` keys and values given by functions (token, i) -> float.
template <typename Key, typename Value>
void attend(const float* q, int k_dim, int v_dim, int64_t tokens, float scale, Key key, Value value, float* out) {
  std::vector<double> score(static_cast<size_t>(tokens));
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t t = 0; t < tokens; ++t) {
    double dot = 0;
    for (int i = 0; i < k_dim; ++i) dot += static_cast<double>(q[i]) * key(t, i);
    score[t] = dot * scale;
    top = std::max(top, score[t]);
  }
  double sum = 0;
  for (double& s : score) sum += s = std::exp(s - top);
  for (int i = 0; i < v_dim; ++i) {
    double o = 0;
    for (int64_t t = 0; t < tokens; ++t) o += score[t] * value(t, i);
    out[i] = static_cast<float>(o / sum);
  }
}

}  // namespace

void linear_ref(const float* w, int64_t n, int64_t k, Compute compute, const float* x, int64_t x_stride, int64_t m,
                float* y, int64_t y_stride) {
  for (int64_t r = 0; r < m; ++r)
    for (int64_t c = 0; c < n; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i)
        sum += static_cast<double>(rounded(x[r * x_stride + i], compute)) * rounded(w[c * k + i], compute);
      y[r * y_stride + c] = static_cast<float>(sum);
    }
}

void rms_norm_ref(const float* x, int64_t x_stride, const float* weight, float eps, int64_t m, int64_t n, float* y,
                  int64_t y_stride) {
  for (int64_t r = 0; r < m; ++r) {
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[r * x_stride + i]) * x[r * x_stride + i];
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i) y[r * y_stride + i] = static_cast<float>(x[r * x_stride + i] * inverse * weight[i]);
  }
}

void rope_interleaved_ref(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim,
                          const float* cos, const float* sin) {
  for (int64_t r = 0; r < m; ++r)
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < dim / 2; ++i) {
        float* v = x + r * row_stride + h * head_stride;
        const float c = cos[r * (dim / 2) + i], s = sin[r * (dim / 2) + i];
        const float a = v[2 * i], b = v[2 * i + 1];
        v[2 * i] = a * c - b * s;
        v[2 * i + 1] = b * c + a * s;
      }
}

void rope_half_ref(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim, const float* cos,
                   const float* sin) {
  for (int64_t r = 0; r < m; ++r)
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < dim / 2; ++i) {
        float* v = x + r * row_stride + h * head_stride;
        const float c = cos[r * (dim / 2) + i], s = sin[r * (dim / 2) + i];
        const float a = v[i], b = v[i + dim / 2];
        v[i] = a * c - b * s;
        v[i + dim / 2] = b * c + a * s;
      }
}

void silu_mul_ref(const float* gate_up, int64_t m, int64_t n, float* y) {
  for (int64_t r = 0; r < m; ++r)
    for (int64_t i = 0; i < n; ++i) {
      const double gate = gate_up[r * 2 * n + i], up = gate_up[r * 2 * n + n + i];
      y[r * n + i] = static_cast<float>(gate / (1 + std::exp(-gate)) * up);
    }
}

void axpy_ref(int64_t n, float a, const float* x, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

void route_ref(const Routing& routing, const float* logits, const float* bias, int64_t m, int32_t* expert,
               float* weight) {
  const int n = routing.experts, k = routing.experts_per_token, width = n / routing.groups;
  for (int64_t r = 0; r < m; ++r) {
    std::vector<double> score(n), choice(n);
    double sum = 0;
    for (int e = 0; e < n; ++e) sum += std::exp(static_cast<double>(logits[r * n + e]));
    for (int e = 0; e < n; ++e) {
      const double logit = logits[r * n + e];
      score[e] = routing.score == Routing::Score::kSigmoid ? 1 / (1 + std::exp(-logit)) : std::exp(logit) / sum;
      choice[e] = score[e] + (bias != nullptr ? bias[e] : 0);
    }
    // The number of the first largest value that is not taken.
    const auto take = [](const std::vector<double>& values, std::vector<bool>& taken) {
      int best = -1;
      for (int i = 0; i < static_cast<int>(values.size()); ++i)
        if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
      taken[best] = true;
      return best;
    };
    std::vector<bool> taken(n, false);
    if (routing.topk != Routing::TopK::kGreedy) {
      std::vector<double> group(routing.groups);
      for (int g = 0; g < routing.groups; ++g) {
        std::vector<double> members(choice.begin() + g * width, choice.begin() + (g + 1) * width);
        std::sort(members.rbegin(), members.rend());
        group[g] = members[0] + (routing.topk == Routing::TopK::kNoauxTc && width > 1 ? members[1] : 0);
      }
      std::vector<bool> kept(routing.groups, false);
      for (int i = 0; i < routing.groups_kept; ++i) take(group, kept);
      for (int e = 0; e < n; ++e) taken[e] = !kept[e / width];
    }
    double total = 0;
    for (int i = 0; i < k; ++i) total += score[expert[r * k + i] = take(choice, taken)];
    const bool normalize = routing.normalize && (routing.scale_normalized || k > 1);
    const double scale = normalize && !routing.scale_normalized ? 1 : routing.routed_scale;
    for (int i = 0; i < k; ++i)
      weight[r * k + i] = static_cast<float>(score[expert[r * k + i]] * scale / (normalize ? total : 1));
  }
}

void experts_ref(const float* x, int64_t rows, int64_t hidden, const int32_t* expert, const float* weight, int choices,
                 int first, int count, int64_t width, const float* gate_up, const float* down, float* y) {
  for (int64_t r = 0; r < rows; ++r)
    for (int c = 0; c < choices; ++c) {
      const int e = expert[r * choices + c] - first;
      if (e < 0 || e >= count) continue;
      std::vector<float> both(2 * width), activated(width), out(hidden);
      linear_ref(gate_up + e * 2 * width * hidden, 2 * width, hidden, Compute::kF32, x + r * hidden, hidden, 1,
                 both.data(), 2 * width);
      silu_mul_ref(both.data(), 1, width, activated.data());
      linear_ref(down + e * hidden * width, hidden, width, Compute::kF32, activated.data(), width, 1, out.data(),
                 hidden);
      axpy_ref(hidden, weight[r * choices + c], out.data(), y + r * hidden);
    }
}

void write_kv_ref(const PagedKv& table, std::span<const PagedRows> sequences, int heads, const float* k,
                  int64_t k_row_stride, const float* v, int64_t v_row_stride) {
  for (const PagedRows& s : sequences)
    for (int64_t r = 0; r < s.tokens; ++r)
      for (int h = 0; h < heads; ++h) {
        const PagedKv kv = s.own(table);
        for (int i = 0; i < kv.k_dim; ++i)
          store(k_row(kv, s.begin + r, h), i, kv.dtype, k[(s.row + r) * k_row_stride + h * kv.k_dim + i]);
        for (int i = 0; i < kv.v_dim; ++i)
          store(v_row(kv, s.begin + r, h), i, kv.dtype, v[(s.row + r) * v_row_stride + h * kv.v_dim + i]);
      }
}

void read_kv_ref(const PagedKv& kv, int64_t begin, int64_t m, int head, float* k, float* v) {
  for (int64_t r = 0; r < m; ++r) {
    for (int i = 0; i < kv.k_dim; ++i) k[r * kv.k_dim + i] = load(k_row(kv, begin + r, head), i, kv.dtype);
    for (int i = 0; i < kv.v_dim; ++i) v[r * kv.v_dim + i] = load(v_row(kv, begin + r, head), i, kv.dtype);
  }
}

void gqa_attention_ref(const float* q, int64_t q_row_stride, std::span<const PagedRows> sequences, int q_heads,
                       const int* kv_head_of, const PagedKv& table, float scale, float* out) {
  for (const PagedRows& s : sequences)
    for (int64_t r = 0; r < s.tokens; ++r)
      for (int h = 0; h < q_heads; ++h) {
        const PagedKv kv = s.own(table);
        attend(
            q + (s.row + r) * q_row_stride + h * kv.k_dim, kv.k_dim, kv.v_dim, s.begin + r + 1, scale,
            [&](int64_t t, int i) { return load(k_row(kv, t, kv_head_of[h]), i, kv.dtype); },
            [&](int64_t t, int i) { return load(v_row(kv, t, kv_head_of[h]), i, kv.dtype); },
            out + ((s.row + r) * q_heads + h) * kv.v_dim);
      }
}

void mla_attention_ref(const float* q, std::span<const PagedRows> sequences, int heads, int lora, const PagedKv& table,
                       float scale, float* out) {
  for (const PagedRows& s : sequences)
    for (int64_t r = 0; r < s.tokens; ++r)
      for (int h = 0; h < heads; ++h) {
        const PagedKv kv = s.own(table);
        const auto latent = [&](int64_t t, int i) { return load(k_row(kv, t, 0), i, kv.dtype); };
        const int64_t at = (s.row + r) * heads + h;
        attend(q + at * kv.k_dim, kv.k_dim, lora, s.begin + r + 1, scale, latent, latent, out + at * lora);
      }
}

void mla_expanded_attention_ref(const float* q, std::span<const PagedRows> sequences, const float* key,
                                const float* value, int heads, int nope, int rope, int v_dim, const PagedKv& table,
                                float scale, float* out) {
  const int qk = nope + rope, lora = table.k_dim - rope;
  for (const PagedRows& s : sequences) {
    const PagedKv kv = s.own(table);
    const auto latent = [&](int64_t t, int i) { return load(k_row(kv, t, 0), i, kv.dtype); };
    for (int h = 0; h < heads; ++h) {
      const auto up = [&](const float* w, int64_t t) {  // w: a row of a weight
        double sum = 0;
        for (int i = 0; i < lora; ++i) sum += static_cast<double>(w[i]) * latent(t, i);
        return static_cast<float>(sum);
      };
      std::vector<float> k, v;  // of the head, (context, qk) and (context, v_dim)
      for (int64_t t = 0; t < s.begin + s.tokens; ++t) {
        for (int i = 0; i < nope; ++i) k.push_back(up(key + (int64_t{h} * nope + i) * lora, t));
        for (int i = 0; i < rope; ++i) k.push_back(latent(t, lora + i));
        for (int i = 0; i < v_dim; ++i) v.push_back(up(value + (int64_t{h} * v_dim + i) * lora, t));
      }
      for (int64_t r = 0; r < s.tokens; ++r) {
        const int64_t at = (s.row + r) * heads + h;
        attend(
            q + at * qk, qk, v_dim, s.begin + r + 1, scale, [&](int64_t t, int i) { return k[t * qk + i]; },
            [&](int64_t t, int i) { return v[t * v_dim + i]; }, out + at * v_dim);
      }
    }
  }
}

void attention_block_ref(const float* q, int64_t begin, int64_t m, int heads, int qk_dim, int v_dim, const float* k,
                         const float* v, int64_t block_begin, int64_t n, float scale, float* acc, float* row_max,
                         float* row_sum) {
  for (int64_t r = 0; r < m; ++r)
    for (int h = 0; h < heads; ++h) {
      const int64_t row = r * heads + h;
      // Token by token, the recurrence of Milakov and Gimelshein 2018.
      for (int64_t t = 0; t < n && block_begin + t <= begin + r; ++t) {
        double score = 0;
        for (int i = 0; i < qk_dim; ++i)
          score += static_cast<double>(q[row * qk_dim + i]) * k[(t * heads + h) * qk_dim + i];
        score *= scale;
        const float top = std::max(row_max[row], static_cast<float>(score));
        const double decay = std::exp(static_cast<double>(row_max[row]) - top), weight = std::exp(score - top);
        row_sum[row] = static_cast<float>(row_sum[row] * decay + weight);
        for (int i = 0; i < v_dim; ++i) {
          float& a = acc[row * v_dim + i];
          a = static_cast<float>(a * decay + weight * v[(t * heads + h) * v_dim + i]);
        }
        row_max[row] = top;
      }
    }
}

void attention_finish_ref(int64_t m, int heads, int v_dim, float* acc, const float* row_sum) {
  for (int64_t row = 0; row < m * heads; ++row)
    for (int i = 0; i < v_dim; ++i) acc[row * v_dim + i] /= row_sum[row];
}

namespace {

std::vector<float> edited(const float* logits, int64_t n, const sampling::RowDraw& draw,
                          std::span<const sampling::LogitEdit> edits) {
  using Kind = sampling::LogitEdit::Kind;
  std::vector<float> x(logits, logits + n);
  if (draw.barred != 0) std::fill(x.begin(), x.end(), -HUGE_VALF);
  for (int32_t e = draw.edits_begin; e < draw.edits_end; ++e) {
    const sampling::LogitEdit& edit = edits[static_cast<size_t>(e)];
    float& v = x.at(static_cast<size_t>(edit.token));
    if (edit.kind == Kind::kBias) v += edit.a;
    if (edit.kind == Kind::kAllow) v = logits[edit.token] + edit.a;
    if (edit.kind == Kind::kBar) v = -HUGE_VALF;
    if (edit.kind != Kind::kPenalise || v == -HUGE_VALF) continue;
    v = std::clamp(v > 0 ? v / edit.a : v * edit.a, -sampling::kPenalisedMax, sampling::kPenalisedMax) - edit.b;
  }
  return x;
}

}  // namespace

sampling::RowDrawn draw_ref(const float* logits, int64_t n, const sampling::RowDraw& draw,
                            std::span<const sampling::LogitEdit> edits) {
  const std::vector<float> x = edited(logits, n, draw, edits);
  sampling::RowDrawn drawn;
  drawn.raw_best = *std::max_element(logits, logits + n);
  drawn.sound = std::all_of(logits, logits + n, [](float v) { return v < HUGE_VALF; }) ? 1 : 0;
  const auto best = std::max_element(x.begin(), x.end());
  drawn.possible = drawn.sound != 0 && *best > -HUGE_VALF ? 1 : 0;
  if (drawn.sound == 0 || drawn.raw_best == -HUGE_VALF) return drawn;
  for (int64_t i = 0; i < n && draw.rates != 0; ++i)
    drawn.raw_total += sampling::weight_of(logits[i], drawn.raw_best, 1);
  if (drawn.possible == 0) return drawn;
  drawn.token = static_cast<int32_t>(best - x.begin());
  if (draw.greedy == 0) {
    const auto weight = [&](int32_t t) {
      return sampling::weight_of(x[static_cast<size_t>(t)], *best, draw.inverse_temperature);
    };
    uint64_t total = 0, mass = 0;
    std::vector<int32_t> order;
    for (int32_t t = 0; t < n; ++t) {
      total += weight(t);
      if (weight(t) >= draw.least_weight) order.push_back(t);
    }
    if (draw.cuts != 0) {
      std::stable_sort(order.begin(), order.end(),
                       [&](int32_t a, int32_t b) { return x[static_cast<size_t>(a)] > x[static_cast<size_t>(b)]; });
      const uint64_t most =
          draw.top_p >= 1 ? UINT64_MAX : static_cast<uint64_t>(draw.top_p * static_cast<double>(total));
      size_t kept = 0;
      while (kept < order.size() && kept < draw.count_max && (kept == 0 || mass < most)) mass += weight(order[kept++]);
      order.resize(kept);
    } else {
      for (const int32_t t : order) mass += weight(t);
    }
    uint64_t left = std::min(static_cast<uint64_t>(draw.uniform * static_cast<double>(mass)), mass - 1);
    for (const int32_t t : order) {
      drawn.token = t;
      if (left < weight(t)) break;
      left -= weight(t);
    }
  }
  drawn.logit = logits[drawn.token];
  return drawn;
}

void uniform_bf16_ref(uint64_t key, int64_t first, int64_t count, float scale, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t z = static_cast<uint32_t>(first + i) * 0x9e3779b9u + static_cast<uint32_t>(key);
    z = (z ^ z >> 16) * 0x7feb352du;
    z ^= static_cast<uint32_t>(key >> 32);
    z = (z ^ z >> 15) * 0x846ca68bu;
    z ^= z >> 16;
    out[i] = tensor::to_bf16(static_cast<float>(static_cast<int32_t>(z)) * (scale * 0x1p-31f)).bits;
  }
}

}  // namespace baton::kernels
