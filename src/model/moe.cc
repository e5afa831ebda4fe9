#include "model/moe.h"

#include <algorithm>

#include "model/feed_forward.h"
#include "model/routing_reference.h"

namespace baton::model {

Result<std::unique_ptr<ExpertGate>> ExpertGate::load(const LayerContext& c) {
  auto gate = std::make_unique<ExpertGate>();
  gate->moe_ = c.config.moe;
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
  int32_t* expert = activations.expert.data() + rows.begin * moe_.experts_per_token;
  float* weight = activations.expert_weight.data() + rows.begin * moe_.experts_per_token;
  kernels::route(moe_, logits, bias_.empty() ? nullptr : bias_.data(), rows.size(), expert, weight);
  for (int64_t r = 0; reference_ != nullptr && r < rows.size(); ++r) {
    const std::span<const float> row(logits + r * moe_.experts, experts);
    const std::span<int32_t> chosen(expert + r * moe_.experts_per_token, static_cast<size_t>(moe_.experts_per_token));
    if (!reference_->meet(layer_, rows.begin + r, row, chosen)) continue;
    kernels::weigh_experts(moe_, row.data(), chosen.data(), weight + r * moe_.experts_per_token);
  }
}

namespace {

class MoeFfn final : public FeedForward {
 public:
  static Result<std::unique_ptr<FeedForward>> load(const LayerContext& c) {
    auto moe = std::make_unique<MoeFfn>();
    moe->hidden_ = c.config.hidden;
    moe->choices_ = c.config.moe.experts_per_token;
    moe->first_ = c.share.experts.begin;
    const int width = c.config.moe.expert_ffn;
    BATON_ASSIGN(moe->shared_, GatedFfn::load(c, "mlp.shared_experts", c.config.moe.shared_experts * width,
                                              c.share.shared_ffn, false));
    for (int e = c.share.experts.begin; e < c.share.experts.end && !c.share.expert_ffn.empty(); ++e) {
      BATON_ASSIGN(GatedFfn expert,
                   GatedFfn::load(c, fmt::format("mlp.experts.{}", e), width, c.share.expert_ffn, false));
      moe->local_.push_back(std::move(expert));
    }
    for (const GatedFfn& expert : moe->local_) moe->weights_.push_back(expert.weights());
    return std::unique_ptr<FeedForward>(std::move(moe));
  }

  void forward(int64_t rows, const Activations& activations, RankBuffers& scratch, float* partial) const override {
    if (rows == 0) return;
    const float* x = activations.normed.data();
    shared_.apply(x, rows, scratch, partial);
    kernels::experts(x, rows, hidden_, activations.expert.data(), activations.expert_weight.data(), choices_, first_,
                     weights_, partial);
  }

 private:
  int64_t hidden_ = 0;
  int choices_ = 0, first_ = 0;  // first_: of the rank's experts
  GatedFfn shared_;
  std::vector<GatedFfn> local_;                  // (experts of the rank), or none if it has no columns of them
  std::vector<kernels::ExpertWeights> weights_;  // the same
};

}  // namespace

Result<std::unique_ptr<FeedForward>> load_moe_ffn(const LayerContext& context) { return MoeFfn::load(context); }

}  // namespace baton::model
