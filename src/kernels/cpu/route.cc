// The choice of experts, row by row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/kernels.h"

namespace baton::kernels {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

void score(Routing::Score kind, std::span<const float> logits, std::vector<float>& scores) {
  scores.assign(logits.begin(), logits.end());
  if (kind == Routing::Score::kSigmoid) {
    for (float& s : scores) s = 1.0F / (1.0F + std::exp(-s));
    return;
  }
  const float top = *std::max_element(scores.begin(), scores.end());
  float sum = 0;
  for (float& s : scores) sum += s = std::exp(s - top);
  for (float& s : scores) s /= sum;
}

// The `count` best of `values`, best first, equal ones by index.
void best(std::span<const float> values, int count, std::vector<int32_t>& order) {
  order.resize(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
    const float x = values[static_cast<size_t>(a)];
    const float y = values[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  });
  order.resize(static_cast<size_t>(count));
}

// Puts the experts of groups that are not kept out of the choice.
void limit_groups(const Routing& moe, std::vector<float>& choice, std::vector<float>& group_score,
                  std::vector<int32_t>& order) {
  const auto width = static_cast<size_t>(moe.experts / moe.groups);
  group_score.assign(static_cast<size_t>(moe.groups), 0.0F);
  for (size_t g = 0; g < group_score.size(); ++g) {
    float first = kNever;
    float second = kNever;
    for (size_t i = g * width; i < (g + 1) * width; ++i) {
      if (choice[i] > first) {
        second = first;
        first = choice[i];
      } else {
        second = std::max(second, choice[i]);
      }
    }
    const bool two = moe.topk == Routing::TopK::kNoauxTc && width > 1;
    group_score[g] = two ? first + second : first;
  }
  best(group_score, moe.groups_kept, order);
  for (size_t g = 0; g < group_score.size(); ++g) {
    if (std::find(order.begin(), order.end(), static_cast<int32_t>(g)) != order.end()) continue;
    std::fill_n(choice.begin() + static_cast<int64_t>(g * width), width, kNever);
  }
}

void weigh(const Routing& moe, std::span<const float> scores, const int32_t* expert, float* weight) {
  float sum = 0;
  for (int i = 0; i < moe.experts_per_token; ++i) sum += weight[i] = scores[static_cast<size_t>(expert[i])];
  // A single choice is normalized too (its weight is then the scale alone), but for DeepSeek-V2.
  const bool normalize = moe.normalize && (moe.scale_normalized || moe.experts_per_token > 1);
  float factor = static_cast<float>(moe.routed_scale);
  if (normalize) factor = (moe.scale_normalized ? factor : 1.0F) / (sum + 1e-20F);
  for (int i = 0; i < moe.experts_per_token; ++i) weight[i] *= factor;
}

}  // namespace

void route(const Routing& moe, const float* logits, const float* bias, int64_t m, int32_t* expert, float* weight) {
  thread_local std::vector<float> scores, choice, group_score;
  thread_local std::vector<int32_t> order;
  const auto experts = static_cast<size_t>(moe.experts);
  for (int64_t r = 0; r < m;
       ++r, logits += moe.experts, expert += moe.experts_per_token, weight += moe.experts_per_token) {
    score(moe.score, {logits, experts}, scores);
    choice = scores;
    for (size_t i = 0; bias != nullptr && i < experts; ++i) choice[i] += bias[i];
    if (moe.topk != Routing::TopK::kGreedy) limit_groups(moe, choice, group_score, order);
    best(choice, moe.experts_per_token, order);
    std::copy(order.begin(), order.end(), expert);
    weigh(moe, scores, expert, weight);
  }
}

void weigh_experts(const Routing& moe, const float* logits, const int32_t* expert, float* weight) {
  std::vector<float> scores;
  score(moe.score, {logits, static_cast<size_t>(moe.experts)}, scores);
  weigh(moe, scores, expert, weight);
}

}  // namespace baton::kernels
