#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace baton::model {

namespace {

double yarn_scale(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

// The dimension whose wave turns `rotations` times over the original context.
double yarn_dimension(double rotations, int dim, double theta, double context) {
  return dim * std::log(context / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
}

void scale_yarn(const RopeScaling& s, double theta, int dim, std::vector<double>& frequencies) {
  const auto context = static_cast<double>(s.original_max_position);
  double low = yarn_dimension(s.beta_fast, dim, theta, context);
  double high = yarn_dimension(s.beta_slow, dim, theta, context);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    // 0: a fast wave, kept; 1: a slow one, stretched.
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / s.factor * ramp + frequencies[i] * (1 - ramp);
  }
}

void scale_llama3(const RopeScaling& s, std::vector<double>& frequencies) {
  const auto context = static_cast<double>(s.original_max_position);
  for (double& f : frequencies) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength > context / s.low_freq_factor) {
      f /= s.factor;
    } else if (wavelength >= context / s.high_freq_factor) {
      const double smooth = (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      f = (1 - smooth) * f / s.factor + smooth * f;
    }
  }
}

}  // namespace

std::vector<float> rope_inverse_frequencies(const RopeScaling& scaling, double theta, int dim) {
  std::vector<double> frequencies(static_cast<size_t>(dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / dim);
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
    case RopeScaling::Kind::kDynamic:
      break;
    case RopeScaling::Kind::kLinear:
      for (double& f : frequencies) f /= scaling.factor;
      break;
    case RopeScaling::Kind::kLlama3:
      scale_llama3(scaling, frequencies);
      break;
    case RopeScaling::Kind::kYarn:
      scale_yarn(scaling, theta, dim, frequencies);
      break;
    case RopeScaling::Kind::kLongrope:
      for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= scaling.dimension_factors.at(i);
      break;
  }
  return {frequencies.begin(), frequencies.end()};
}

double rope_attention_factor(const RopeScaling& scaling) {
  if (scaling.kind == RopeScaling::Kind::kLongrope) {
    if (scaling.attention_factor) return *scaling.attention_factor;
    if (scaling.factor <= 1) return 1;
    return std::sqrt(1 + std::log(scaling.factor) / std::log(static_cast<double>(scaling.original_max_position)));
  }
  if (scaling.kind != RopeScaling::Kind::kYarn) return 1;
  if (scaling.attention_factor) return *scaling.attention_factor;
  if (scaling.mscale > 0 && scaling.mscale_all_dim > 0) {
    return yarn_scale(scaling.factor, scaling.mscale) / yarn_scale(scaling.factor, scaling.mscale_all_dim);
  }
  return yarn_scale(scaling.factor, 1);
}

double mla_softmax_factor(const RopeScaling& scaling) {
  if (scaling.kind != RopeScaling::Kind::kYarn || scaling.mscale_all_dim == 0) return 1;
  const double scale = yarn_scale(scaling.factor, scaling.mscale_all_dim);
  return scale * scale;
}

RopeTable::RopeTable(const ModelConfig& config)
    : inverse_frequencies_(
          rope_inverse_frequencies(config.rope, config.rope_theta, config.is_mla() ? config.qk_rope : config.head_dim)),
      attention_factor_(static_cast<float>(rope_attention_factor(config.rope))),
      max_position_(config.max_position) {}

void RopeTable::grow(int64_t positions) {
  const auto width = inverse_frequencies_.size();
  const auto have = static_cast<int64_t>(cos_.size() / width);
  if (positions <= have) return;
  BATON_CHECK(positions <= max_position_, "position {} of a model with {}", positions - 1, max_position_);
  const int64_t want = std::min(max_position_, std::max(positions, 2 * have));
  cos_.resize(static_cast<size_t>(want) * width);
  sin_.resize(static_cast<size_t>(want) * width);
  for (int64_t p = have; p < want; ++p) {
    for (size_t i = 0; i < width; ++i) {
      // The angle is rounded to float32, as it is where these models were trained.
      const float angle = static_cast<float>(p) * inverse_frequencies_[i];
      const size_t at = static_cast<size_t>(p) * width + i;
      cos_[at] = static_cast<float>(std::cos(static_cast<double>(angle))) * attention_factor_;
      sin_[at] = static_cast<float>(std::sin(static_cast<double>(angle))) * attention_factor_;
    }
  }
}

void RopeTable::gather(int64_t begin, int64_t n, std::vector<float>& cos, std::vector<float>& sin) {
  grow(begin + n);
  const int64_t width = half();
  cos.insert(cos.end(), cos_.begin() + begin * width, cos_.begin() + (begin + n) * width);
  sin.insert(sin.end(), sin_.begin() + begin * width, sin_.begin() + (begin + n) * width);
}

}  // namespace baton::model
