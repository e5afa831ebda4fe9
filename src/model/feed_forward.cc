#include "model/feed_forward.h"

#include <algorithm>

namespace baton::model {

Result<GatedFfn> GatedFfn::load(const LayerContext& c, const std::string& prefix, int width, Interval columns,
                                bool bias) {
  GatedFfn f;
  const int hidden = c.config.hidden;
  f.columns_ = columns.size();
  // The bias of `down` is one addend of the sum over ranks, so one rank has it.
  if (bias && c.share.tp_rank == 0) {
    BATON_ASSIGN(f.down_bias_, load_vector(c, prefix + ".down_proj.bias", hidden, whole(hidden)));
  }
  if (columns.empty()) return f;
  std::vector<tensor::MatrixSlice> halves;
  std::vector<float> gate_up_bias;
  for (const char* half : {"gate_proj", "up_proj"}) {
    const std::string name = c.name(fmt::format("{}.{}", prefix, half));
    BATON_ASSIGN(halves.emplace_back(), c.weights.linear(name + ".weight", width, hidden, columns, whole(hidden)));
    if (bias) {
      BATON_ASSIGN(const std::vector<float> b, c.weights.vector(name + ".bias", width, columns));
      gate_up_bias.insert(gate_up_bias.end(), b.begin(), b.end());
    }
  }
  f.weights_.gate_up = c.backend.weight(halves, c.compute);
  f.gate_up_bias_ = c.backend.constants(std::span<const float>(gate_up_bias));
  BATON_ASSIGN(f.weights_.down, load_linear(c, prefix + ".down_proj.weight", hidden, width, whole(hidden), columns));
  return f;
}

void GatedFfn::apply(kernels::Backend& ops, const kernels::Matrix& x, RankBuffers& scratch,
                     const kernels::Matrix& out) const {
  if (x.rows == 0) return;
  if (empty()) {
    ops.zero(out);
  } else {
    const kernels::Matrix gate_up = scratch.gate_up.matrix(ops, ops.activations(), x.rows, 2 * columns_);
    const kernels::Matrix activated = scratch.activated.matrix(ops, ops.activations(), x.rows, columns_);
    ops.linear(*weights_.gate_up, x, gate_up);
    if (!gate_up_bias_.empty()) ops.add_bias(gate_up_bias_, gate_up);
    ops.silu_mul(gate_up, activated);
    ops.linear(*weights_.down, activated, out);
  }
  if (!down_bias_.empty()) ops.add_bias(down_bias_, out);
}

namespace {

class DenseFfn final : public FeedForward {
 public:
  explicit DenseFfn(GatedFfn ffn) : ffn_(std::move(ffn)) {}
  void forward(const RankStep& step, const Activations& activations, RankBuffers& scratch,
               const kernels::Matrix& partial) const override {
    ffn_.apply(step.backend, activations.normed, scratch, partial);
  }

 private:
  GatedFfn ffn_;
};

}  // namespace

Result<std::unique_ptr<FeedForward>> load_dense_ffn(const LayerContext& c) {
  BATON_ASSIGN(GatedFfn ffn, GatedFfn::load(c, "mlp", c.config.ffn, c.share.ffn, c.config.mlp_bias));
  return std::unique_ptr<FeedForward>(new DenseFfn(std::move(ffn)));
}

}  // namespace baton::model
