#include "model/moe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "model/feed_forward.h"
#include "model/routing_reference.h"

namespace baton::model {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

void score(MoeConfig::Score kind, std::span<const float> logits, std::vector<float>& scores) {
  scores.assign(logits.begin(), logits.end());
  if (kind == MoeConfig::Score::kSigmoid) {
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
void limit_groups(const MoeConfig& moe, std::vector<float>& choice, std::vector<float>& group_score,
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
    const bool two = moe.topk == MoeConfig::TopK::kNoauxTc && width > 1;
    group_score[g] = two ? first + second : first;
  }
  best(group_score, moe.groups_kept, order);
  for (size_t g = 0; g < group_score.size(); ++g) {
    if (std::find(order.begin(), order.end(), static_cast<int32_t>(g)) != order.end()) continue;
    std::fill_n(choice.begin() + static_cast<int64_t>(g * width), width, kNever);
  }
}

void weigh(const MoeConfig& moe, bool scale_normalized, std::span<const float> scores, const int32_t* expert,
           float* weight) {
  float sum = 0;
  for (int i = 0; i < moe.experts_per_token; ++i) sum += weight[i] = scores[static_cast<size_t>(expert[i])];
  // A single choice is normalized too (its weight is then the scale alone), but for DeepSeek-V2.
  const bool normalize = moe.normalize && (scale_normalized || moe.experts_per_token > 1);
  float factor = static_cast<float>(moe.routed_scale);
  if (normalize) factor = (scale_normalized ? factor : 1.0F) / (sum + 1e-20F);
  for (int i = 0; i < moe.experts_per_token; ++i) weight[i] *= factor;
}

}  // namespace

void choose_experts(const MoeConfig& moe, bool scale_normalized, std::span<const float> logits,
                    std::span<const float> bias, int32_t* expert, float* weight) {
  thread_local std::vector<float> scores, choice, group_score;
  thread_local std::vector<int32_t> order;
  score(moe.score, logits, scores);
  choice = scores;
  for (size_t i = 0; i < bias.size(); ++i) choice[i] += bias[i];
  if (moe.topk != MoeConfig::TopK::kGreedy) limit_groups(moe, choice, group_score, order);
  best(choice, moe.experts_per_token, order);
  std::copy(order.begin(), order.end(), expert);
  weigh(moe, scale_normalized, scores, expert, weight);
}

void weigh_experts(const MoeConfig& moe, bool scale_normalized, std::span<const float> logits, const int32_t* expert,
                   float* weight) {
  std::vector<float> scores;
  score(moe.score, logits, scores);
  weigh(moe, scale_normalized, scores, expert, weight);
}

Result<std::unique_ptr<ExpertGate>> ExpertGate::load(const LayerContext& c) {
  auto gate = std::make_unique<ExpertGate>();
  gate->moe_ = c.config.moe;
  gate->scale_normalized_ = c.config.architecture != Architecture::kDeepseekV2;
  gate->hidden_ = c.config.hidden;
  gate->layer_ = c.layer;
  gate->reference_ = c.routing;
  const int experts = c.config.moe.experts;
  std::vector<float> w(static_cast<size_t>(experts) * static_cast<size_t>(c.config.hidden));
  BATON_TRY(c.weights.matrix(c.name("mlp.gate.weight"), experts, c.config.hidden, whole(experts),
                             whole(c.config.hidden), w.data()));
  gate->gate_ = kernels::Linear(w, experts, c.config.hidden, kernels::Compute::kF32);
  if (c.config.moe.topk == MoeConfig::TopK::kNoauxTc) {
    BATON_ASSIGN(gate->bias_, c.weights.vector(c.name("mlp.gate.e_score_correction_bias"), experts, whole(experts)));
  }
  return gate;
}

void ExpertGate::route(LongInterval rows, Activations& activations) const {
  if (rows.size() == 0) return;
  thread_local std::vector<float> buffer;
  const auto experts = static_cast<size_t>(moe_.experts);
  float* logits = room(buffer, rows.size() * moe_.experts);
  gate_.apply(activations.normed.data() + rows.begin * hidden_, rows.size(), logits);
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const std::span<const float> row(logits + (r - rows.begin) * moe_.experts, experts);
    int32_t* expert = activations.expert.data() + r * moe_.experts_per_token;
    float* weight = activations.expert_weight.data() + r * moe_.experts_per_token;
    choose_experts(moe_, scale_normalized_, row, bias_, expert, weight);
    if (reference_ == nullptr) continue;
    const std::span<int32_t> chosen(expert, static_cast<size_t>(moe_.experts_per_token));
    if (reference_->meet(layer_, r, row, chosen)) weigh_experts(moe_, scale_normalized_, row, expert, weight);
  }
}

namespace {

class MoeFfn final : public FeedForward {
 public:
  static Result<std::unique_ptr<FeedForward>> load(const LayerContext& c) {
    auto moe = std::make_unique<MoeFfn>();
    moe->hidden_ = c.config.hidden;
    moe->choices_ = c.config.moe.experts_per_token;
    moe->experts_ = c.share.experts;
    const int width = c.config.moe.expert_ffn;
    BATON_ASSIGN(moe->shared_, GatedFfn::load(c, "mlp.shared_experts", c.config.moe.shared_experts * width,
                                              c.share.shared_ffn, false));
    for (int e = c.share.experts.begin; e < c.share.experts.end && !c.share.expert_ffn.empty(); ++e) {
      BATON_ASSIGN(GatedFfn expert,
                   GatedFfn::load(c, fmt::format("mlp.experts.{}", e), width, c.share.expert_ffn, false));
      moe->local_.push_back(std::move(expert));
    }
    return std::unique_ptr<FeedForward>(std::move(moe));
  }

  void forward(int64_t rows, const Activations& activations, RankBuffers& scratch, float* partial) const override {
    if (rows == 0) return;
    const float* x = activations.normed.data();
    shared_.apply(x, rows, scratch, partial);
    sort_by_expert(rows, activations, scratch);
    // Experts in ascending order: the order of the additions is always the same.
    for (size_t e = 0; e < local_.size(); ++e) {
      const std::vector<int64_t>& routed = scratch.routed[e];
      const auto m = static_cast<int64_t>(routed.size());
      if (m == 0) continue;
      float* input = room(scratch.expert_input, m * hidden_);
      float* output = room(scratch.expert_output, m * hidden_);
      for (int64_t i = 0; i < m; ++i) {
        const float* row = x + routed[static_cast<size_t>(i)] / choices_ * hidden_;
        std::copy(row, row + hidden_, input + i * hidden_);
      }
      local_[e].apply(input, m, scratch, output);
      for (int64_t i = 0; i < m; ++i) {
        const int64_t at = routed[static_cast<size_t>(i)];
        kernels::axpy(hidden_, activations.expert_weight[static_cast<size_t>(at)], output + i * hidden_,
                      partial + at / choices_ * hidden_);
      }
    }
  }

 private:
  void sort_by_expert(int64_t rows, const Activations& activations, RankBuffers& scratch) const {
    if (scratch.routed.size() < local_.size()) scratch.routed.resize(local_.size());
    for (std::vector<int64_t>& list : scratch.routed) list.clear();
    if (local_.empty()) return;
    for (int64_t at = 0; at < rows * choices_; ++at) {
      const int32_t e = activations.expert[static_cast<size_t>(at)];
      if (experts_.contains(e)) scratch.routed[static_cast<size_t>(e - experts_.begin)].push_back(at);
    }
  }

  int64_t hidden_ = 0, choices_ = 0;
  Interval experts_;
  GatedFfn shared_;
  std::vector<GatedFfn> local_;  // (experts of the rank), or none if it has no columns of them
};

}  // namespace

Result<std::unique_ptr<FeedForward>> load_moe_ffn(const LayerContext& context) { return MoeFfn::load(context); }

}  // namespace baton::model
