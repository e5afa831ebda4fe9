#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace baton::model {
namespace {

RopeScaling scaling(RopeScaling::Kind kind, double factor) {
  RopeScaling s;
  s.kind = kind;
  s.factor = factor;
  s.original_max_position = 4096;
  return s;
}

TEST(Rope, PlainAndLinear) {
  const auto plain = rope_inverse_frequencies({}, 10000, 8);
  const auto linear = rope_inverse_frequencies(scaling(RopeScaling::Kind::kLinear, 4), 10000, 8);
  ASSERT_EQ(plain.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_FLOAT_EQ(plain[i], static_cast<float>(std::pow(10.0, -static_cast<double>(i))));
    EXPECT_FLOAT_EQ(linear[i], plain[i] / 4);
  }
}

// Up to the model's own length, where contexts end, transformers scales nothing either.
TEST(Rope, DynamicScalesNothing) {
  EXPECT_EQ(rope_inverse_frequencies(scaling(RopeScaling::Kind::kDynamic, 4), 10000, 64),
            rope_inverse_frequencies({}, 10000, 64));
  EXPECT_EQ(rope_attention_factor(scaling(RopeScaling::Kind::kDynamic, 4)), 1);
}

TEST(Rope, Llama3KeepsFastWavesAndStretchesSlowOnes) {
  RopeScaling s = scaling(RopeScaling::Kind::kLlama3, 8);
  s.original_max_position = 8192;
  const auto plain = rope_inverse_frequencies({}, 500000, 128);
  const auto scaled = rope_inverse_frequencies(s, 500000, 128);
  int kept = 0, blended = 0, stretched = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * M_PI / plain[i];
    if (wavelength < 8192.0 / 4) {
      EXPECT_FLOAT_EQ(scaled[i], plain[i]);
      ++kept;
    } else if (wavelength > 8192.0) {
      EXPECT_FLOAT_EQ(scaled[i], plain[i] / 8);
      ++stretched;
    } else {
      EXPECT_GT(scaled[i], plain[i] / 8);
      EXPECT_LT(scaled[i], plain[i]);
      ++blended;
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(blended, 0);
  EXPECT_GT(stretched, 0);
}

TEST(Rope, YarnRampsBetweenTheTwoRotations) {
  // DeepSeek-V3's: over 64 dimensions the ramp goes from dimension 10 to 23.
  const RopeScaling s = scaling(RopeScaling::Kind::kYarn, 40);
  const auto plain = rope_inverse_frequencies({}, 10000, 64);
  const auto scaled = rope_inverse_frequencies(s, 10000, 64);
  for (size_t i = 0; i < plain.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - 10) / 13, 0.0, 1.0);
    EXPECT_NEAR(scaled[i], plain[i] * (1 - ramp) + plain[i] / 40 * ramp, plain[i] * 1e-6) << i;
  }
}

TEST(Rope, YarnFactors) {
  struct Case {
    double mscale, mscale_all_dim, attention, softmax;
  };
  const Case cases[] = {
      {0, 0, 1.368888, 1},             // plain yarn: 0.1 ln 40 + 1
      {1, 1, 1, 1.873854},             // DeepSeek-V3
      {0.707, 0.707, 1, 1.589622},     // DeepSeek-V2
      {1, 0.707, 1.085727, 1.589622},  // their quotient
  };
  for (const Case& c : cases) {
    RopeScaling s = scaling(RopeScaling::Kind::kYarn, 40);
    s.mscale = c.mscale;
    s.mscale_all_dim = c.mscale_all_dim;
    EXPECT_NEAR(rope_attention_factor(s), c.attention, 1e-5);
    EXPECT_NEAR(mla_softmax_factor(s), c.softmax, 1e-5);
    s.attention_factor = 3;
    EXPECT_EQ(rope_attention_factor(s), 3);
  }
  EXPECT_EQ(mla_softmax_factor({}), 1);
}

// transformers' formula: inv_freq = 1 / (factor * theta^(2i/dim)), sqrt(1 + ln(max / original) / ln(original)).
TEST(Rope, LongropeDividesEachPairByItsFactor) {
  RopeScaling s = scaling(RopeScaling::Kind::kLongrope, 32);
  s.dimension_factors = {1.0, 1.25, 7.5, 64};
  const auto scaled = rope_inverse_frequencies(s, 10000, 8);
  // 1, 0.1 / 1.25, 0.01 / 7.5, 0.001 / 64
  const double expected[] = {1, 0.08, 1.3333333333e-3, 1.5625e-5};
  ASSERT_EQ(scaled.size(), 4U);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(scaled[i], expected[i], expected[i] * 1e-6) << i;
  EXPECT_NEAR(rope_attention_factor(s), 1.190238, 1e-6);  // Phi-3-mini-128k: 4096 to 131072
  EXPECT_EQ(mla_softmax_factor(s), 1);
  s.attention_factor = 1.25;
  EXPECT_EQ(rope_attention_factor(s), 1.25);
  s.attention_factor.reset();
  s.factor = 1;
  EXPECT_EQ(rope_attention_factor(s), 1);
}

TEST(Rope, TableIsTheSameHoweverItGrows) {
  ModelConfig config;
  config.head_dim = 16;
  config.max_position = 1000;
  RopeTable table(config);
  RopeTable whole(config);
  std::vector<float> cos, sin, all_cos, all_sin;
  whole.gather(0, 1000, all_cos, all_sin);
  for (const int64_t begin : {0, 990, 3, 500}) table.gather(begin, 10, cos, sin);
  ASSERT_EQ(cos.size(), 4U * 10 * 8);
  size_t at = 0;
  for (const int64_t begin : {0, 990, 3, 500}) {
    for (int64_t i = begin * 8; i < (begin + 10) * 8; ++i, ++at) {
      EXPECT_EQ(cos[at], all_cos[static_cast<size_t>(i)]);
      EXPECT_EQ(sin[at], all_sin[static_cast<size_t>(i)]);
    }
  }
  EXPECT_FLOAT_EQ(all_sin[8 * 7], std::sin(7.0F));
}

}  // namespace
}  // namespace baton::model
