#include "model/moe.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "model/feed_forward.h"
#include "model/routing_reference.h"

namespace baton::model {

Result<std::unique_ptr<ExpertGate>> ExpertGate::load(const LayerContext& c) {
  auto gate = std::make_unique<ExpertGate>();
  gate->moe_ = c.config.moe;
  gate->layer_ = c.layer;
  gate->reference_ = c.routing;
  const int experts = c.config.moe.experts;
  BATON_ASSIGN(const tensor::MatrixSlice weight, c.weights.matrix(c.name("mlp.gate.weight"), experts, c.config.hidden,
                                                                  whole(experts), whole(c.config.hidden)));
  gate->gate_ = c.backend.weight(weight, kernels::Compute::kF32);
  if (c.config.moe.topk == MoeConfig::TopK::kNoauxTc) {
    BATON_ASSIGN(gate->bias_, load_vector(c, "mlp.gate.e_score_correction_bias", experts, whole(experts)));
  }
  return gate;
}

void ExpertGate::route(kernels::Backend& backend, LongInterval rows, const Activations& activations,
                       RankBuffers& scratch) const {
  const int64_t m = rows.size();
  if (m == 0) return;
  const kernels::Matrix logits = scratch.gate_logits.matrix(backend, tensor::DType::kF32, m, moe_.experts);
  backend.linear(*gate_, activations.normed.row_range(rows.begin, m), logits);
  int32_t* expert = activations.expert + rows.begin * moe_.experts_per_token;
  float* weight = activations.expert_weight + rows.begin * moe_.experts_per_token;
  backend.route(moe_, logits, bias_, expert, weight);
  if (reference_ != nullptr) follow_reference(backend, logits, rows.begin, expert, weight);
}

void ExpertGate::norm_and_route(kernels::Backend& backend, const kernels::Matrix& sums,
                                const kernels::Constants<float>& norm, float eps, LongInterval rows,
                                const Activations& activations, RankBuffers& scratch) const {
  const int64_t m = rows.size();
  if (m == 0) return;
  const kernels::Matrix logits = scratch.gate_logits.matrix(backend, tensor::DType::kF32, m, moe_.experts);
  int32_t* expert = activations.expert + rows.begin * moe_.experts_per_token;
  float* weight = activations.expert_weight + rows.begin * moe_.experts_per_token;
  backend.add_norm_route(sums, activations.hidden, norm, eps, activations.normed.row_range(rows.begin, m), *gate_, moe_,
                         logits, bias_, expert, weight);
  if (reference_ != nullptr) follow_reference(backend, logits, rows.begin, expert, weight);
}

void ExpertGate::follow_reference(kernels::Backend& backend, const kernels::Matrix& logits, int64_t first_row,
                                  int32_t* expert, float* weight) const {
  const auto rows = static_cast<size_t>(logits.rows), experts = static_cast<size_t>(moe_.experts);
  const auto choices = static_cast<size_t>(moe_.experts_per_token);
  std::vector<float> scores(rows * experts), weights(rows * choices);
  std::vector<int32_t> chosen(rows * choices);
  const auto read = [&](const void* from, auto& to) { backend.read(from, std::as_writable_bytes(std::span(to))); };
  read(logits.data, scores);
  read(expert, chosen);
  read(weight, weights);
  for (size_t r = 0; r < rows; ++r) {
    const auto row = std::span<const float>(scores).subspan(r * experts, experts);
    const auto own = std::span(chosen).subspan(r * choices, choices);
    if (reference_->meet(layer_, first_row + static_cast<int64_t>(r), row, own))
      kernels::weigh_experts(moe_, row.data(), own.data(), weights.data() + r * choices);
  }
  backend.write(std::as_bytes(std::span(chosen)), expert);
  backend.write(std::as_bytes(std::span(weights)), weight);
}

namespace {

class MoeFfn final : public FeedForward {
 public:
  static Result<std::unique_ptr<FeedForward>> load(const LayerContext& c) {
    auto moe = std::make_unique<MoeFfn>();
    moe->choices_ = c.config.moe.experts_per_token;
    moe->first_ = c.share.experts.begin;
    const int width = c.config.moe.expert_ffn;
    BATON_ASSIGN(moe->shared_, GatedFfn::load(c, "mlp.shared_experts", c.config.moe.shared_experts * width,
                                              c.share.shared_ffn, false));
    std::vector<kernels::GatedWeights> local;
    for (int e = c.share.experts.begin; e < c.share.experts.end && !c.share.expert_ffn.empty(); ++e) {
      BATON_ASSIGN(GatedFfn expert,
                   GatedFfn::load(c, fmt::format("mlp.experts.{}", e), width, c.share.expert_ffn, false));
      local.push_back(expert.weights());
    }
    moe->local_ = c.backend.expert_set(std::move(local));
    return std::unique_ptr<FeedForward>(std::move(moe));
  }

  void forward(const RankStep& step, const Activations& activations, RankBuffers& scratch,
               const kernels::Matrix& partial) const override {
    if (partial.rows == 0) return;
    if (!shared_.empty() &&
        step.backend.shared_and_experts(shared_.weights(), *local_, first_, activations.normed, activations.expert,
                                        activations.expert_weight, choices_, partial))
      return;
    shared_.apply(step.backend, activations.normed, scratch, partial);
    step.backend.experts(*local_, first_, activations.normed, activations.expert, activations.expert_weight, choices_,
                         partial);
  }

 private:
  int choices_ = 0, first_ = 0;  // first_: of the rank's experts
  GatedFfn shared_;
  std::shared_ptr<const kernels::ExpertSet> local_;  // of the rank, or none if it has no columns of them
};

}  // namespace

Result<std::unique_ptr<FeedForward>> load_moe_ffn(const LayerContext& context) { return MoeFfn::load(context); }

}  // namespace baton::model
