#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "kernels/kernel_testing.h"
#include "kernels/kernels.h"
#include "kernels/reference.h"

namespace baton::kernels {
namespace {

struct Choice {
  std::vector<int32_t> expert;
  std::vector<float> weight;
};

Choice choose(Routing moe, const std::vector<float>& logits, const std::vector<float>& bias = {},
              bool scale_normalized = true) {
  moe.scale_normalized = scale_normalized;
  Choice c{std::vector<int32_t>(static_cast<size_t>(moe.experts_per_token)),
           std::vector<float>(static_cast<size_t>(moe.experts_per_token))};
  route(moe, logits.data(), bias.empty() ? nullptr : bias.data(), 1, c.expert.data(), c.weight.data());
  return c;
}

Routing config(Routing::Score score, Routing::TopK topk, int groups, int kept, bool normalize) {
  Routing m;
  m.experts = 8;
  m.experts_per_token = 2;
  m.score = score;
  m.topk = topk;
  m.groups = groups;
  m.groups_kept = kept;
  m.normalize = normalize;
  m.routed_scale = 2.5;
  return m;
}

// Logarithms of probabilities that sum to one, so that softmax gives them back.
std::vector<float> logs(const std::vector<float>& p) {
  std::vector<float> l;
  l.reserve(p.size());
  for (const float x : p) l.push_back(std::log(x));
  return l;
}

TEST(Route, Table) {
  using Score = Routing::Score;
  using TopK = Routing::TopK;
  const std::vector<float> p{0.05F, 0.20F, 0.19F, 0.18F, 0.30F, 0.02F, 0.04F, 0.02F};
  // Logits of sigmoid scores: 0.9 0.1 | 0.6 0.6 | 0.5 0.2 | 0.3 0.3
  std::vector<float> logit;
  for (const float s : {0.9F, 0.1F, 0.6F, 0.6F, 0.5F, 0.2F, 0.3F, 0.3F}) logit.push_back(std::log(s / (1 - s)));
  const auto one_choice = [](Score score, TopK topk) {
    Routing m = config(score, topk, 1, 1, true);
    m.experts_per_token = 1;
    return m;
  };
  struct Case {
    const char* what;
    Routing moe;
    std::vector<float> logits, bias;
    bool scale_normalized;
    std::vector<int32_t> expert;
    std::vector<float> weight;
  };
  const Case cases[] = {
      {"softmax", config(Score::kSoftmax, TopK::kGreedy, 1, 1, false), logs(p), {}, true, {4, 1}, {0.75F, 0.5F}},
      {"softmax, normalized",
       config(Score::kSoftmax, TopK::kGreedy, 1, 1, true),
       logs(p),
       {},
       true,
       {4, 1},
       {1.5F, 1.0F}},
      {"V2 does not scale what it normalizes",
       config(Score::kSoftmax, TopK::kGreedy, 1, 1, true),
       logs(p),
       {},
       false,
       {4, 1},
       {0.6F, 0.4F}},
      {"a single choice is normalized too", one_choice(Score::kSoftmax, TopK::kGreedy), logs(p), {}, true, {4}, {2.5F}},
      {"but not by V2", one_choice(Score::kSoftmax, TopK::kGreedy), logs(p), {}, false, {4}, {0.75F}},
      {"a single choice of V3",
       one_choice(Score::kSigmoid, TopK::kNoauxTc),
       logit,
       std::vector<float>(8, 0.0F),
       true,
       {0},
       {2.5F}},
      // Groups of two by their best: {0.20, 0.19, 0.30, 0.04}; one is kept.
      {"group limited",
       config(Score::kSoftmax, TopK::kGroupLimited, 4, 1, false),
       logs(p),
       {},
       true,
       {4, 5},
       {0.75F, 0.05F}},
      // Groups by the sum of both: {1.0, 1.2, 0.7, 0.6}.
      {"noaux_tc",
       config(Score::kSigmoid, TopK::kNoauxTc, 4, 1, true),
       logit,
       std::vector<float>(8, 0.0F),
       true,
       {2, 3},
       {1.25F, 1.25F}},
      // The bias chooses, but does not weigh.
      {"noaux_tc with bias",
       config(Score::kSigmoid, TopK::kNoauxTc, 4, 1, false),
       logit,
       {0, 0, 0, 0, 0, 0, 0.5F, 0.6F},
       true,
       {7, 6},
       {0.75F, 0.75F}},
      {"noaux_tc, groups whose scores are negative stay out",
       config(Score::kSigmoid, TopK::kNoauxTc, 4, 1, false),
       logit,
       {-2, -2, -2, -2, -2, -2, -1.5F, -1.4F},
       true,
       {7, 6},
       {0.75F, 0.75F}},
  };
  for (const Case& c : cases) {
    const Choice got = choose(c.moe, c.logits, c.bias, c.scale_normalized);
    EXPECT_EQ(got.expert, c.expert) << c.what;
    for (size_t i = 0; i < got.weight.size(); ++i) EXPECT_NEAR(got.weight[i], c.weight[i], 1e-5F) << c.what;
  }
}

RC_GTEST_PROP(Route, IsDistinctInsideKeptGroupsAndNormalized, ()) {
  Routing moe = config(Routing::Score::kSigmoid, Routing::TopK::kNoauxTc, 4, 2, true);
  moe.experts = 16;
  moe.experts_per_token = *rc::gen::inRange(2, 9);
  std::vector<float> logits, bias;
  for (int i = 0; i < moe.experts; ++i) {
    logits.push_back(static_cast<float>(*rc::gen::inRange(-500, 500)) / 100);
    bias.push_back(static_cast<float>(*rc::gen::inRange(-100, 100)) / 100);
  }
  const Choice c = choose(moe, logits, bias);
  std::set<int32_t> experts(c.expert.begin(), c.expert.end());
  std::set<int32_t> groups;
  float sum = 0;
  for (const int32_t e : c.expert) groups.insert(e / 4);
  for (const float w : c.weight) sum += w;
  RC_ASSERT(experts.size() == c.expert.size());
  RC_ASSERT(groups.size() <= 2U);
  RC_ASSERT(std::abs(sum - 2.5F) < 1e-4F);
}

TEST(Route, EqualsReference) {
  constexpr int64_t kRows = 9;
  for (const auto score : {Routing::Score::kSoftmax, Routing::Score::kSigmoid})
    for (const auto topk : {Routing::TopK::kGreedy, Routing::TopK::kGroupLimited, Routing::TopK::kNoauxTc})
      for (const bool normalize : {false, true})
        for (const bool scale_normalized : {false, true}) {
          Routing routing = config(score, topk, 4, 2, normalize);
          routing.experts = 16;
          routing.experts_per_token = 3;
          routing.scale_normalized = scale_normalized;
          const auto logits = random_floats(kRows * 16, 1), bias = random_floats(16, 2);
          const float* b = topk == Routing::TopK::kNoauxTc ? bias.data() : nullptr;
          std::vector<int32_t> expert(kRows * 3), expected(kRows * 3);
          std::vector<float> weight(kRows * 3), expected_weight(kRows * 3), weighed(kRows * 3);
          route(routing, logits.data(), b, kRows, expert.data(), weight.data());
          route_ref(routing, logits.data(), b, kRows, expected.data(), expected_weight.data());
          EXPECT_EQ(expert, expected);
          expect_close(weight, expected_weight, 1e-5);
          for (int64_t r = 0; r < kRows; ++r)
            weigh_experts(routing, logits.data() + r * 16, expert.data() + r * 3, weighed.data() + r * 3);
          EXPECT_EQ(weighed, weight);
        }
}

TEST(Experts, EqualReferenceForThoseThatAreLocal) {
  constexpr int64_t kRows = 11, kHidden = 24, kWidth = 20;
  constexpr int kChoices = 3, kFirst = 2, kCount = 4;  // of eight; expert 5 is chosen by nobody
  const auto gate_up = random_floats(kCount * 2 * kWidth * kHidden, 1);
  const auto down = random_floats(kCount * kHidden * kWidth, 2);
  const auto x = random_floats(kRows * kHidden, 3), weight = random_floats(kRows * kChoices, 4);
  std::vector<int32_t> expert;
  for (int64_t i = 0; i < kRows; ++i)
    for (const int e : {7, 2, 0, 4, 3, 6, 1}) {
      if (expert.size() < static_cast<size_t>((i + 1) * kChoices)) expert.push_back(static_cast<int32_t>((e + i) % 5));
    }
  std::vector<Linear> linears;
  for (int e = 0; e < kCount; ++e) {
    const auto own_gate_up = std::span(gate_up).subspan(e * 2 * kWidth * kHidden, 2 * kWidth * kHidden);
    const auto own_down = std::span(down).subspan(e * kHidden * kWidth, kHidden * kWidth);
    linears.emplace_back(tensor::slice_of(own_gate_up, 2 * kWidth, kHidden), Compute::kF32);
    linears.emplace_back(tensor::slice_of(own_down, kHidden, kWidth), Compute::kF32);
  }
  std::vector<ExpertLayers> local;
  for (int e = 0; e < kCount; ++e) local.push_back({&linears[2 * e], &linears[2 * e + 1]});
  auto expected = random_floats(kRows * kHidden, 5), actual = expected;
  experts_ref(x.data(), kRows, kHidden, expert.data(), weight.data(), kChoices, kFirst, kCount, kWidth, gate_up.data(),
              down.data(), expected.data());
  experts(x.data(), kRows, kHidden, expert.data(), weight.data(), kChoices, kFirst, local, actual.data());
  expect_close(actual, expected, 1e-5);
  // A rank without experts adds nothing.
  const auto before = actual;
  experts(x.data(), kRows, kHidden, expert.data(), weight.data(), kChoices, kFirst, {}, actual.data());
  EXPECT_EQ(actual, before);
}

}  // namespace
}  // namespace baton::kernels
