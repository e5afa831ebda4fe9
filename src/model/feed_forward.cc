#include "model/feed_forward.h"

#include <algorithm>

namespace baton::model {

Result<GatedFfn> GatedFfn::load(const LayerContext& c, const std::string& prefix, int width, Interval columns,
                                bool bias) {
  GatedFfn f;
  const int hidden = c.config.hidden;
  f.hidden_ = hidden;
  f.columns_ = columns.size();
  // The bias of `down` is one addend of the sum over ranks, so one rank has it.
  if (bias && c.share.tp_rank == 0) {
    BATON_ASSIGN(f.down_bias_, c.weights.vector(c.name(prefix + ".down_proj.bias"), hidden, whole(hidden)));
  }
  if (columns.empty()) return f;
  const int64_t half_size = int64_t{columns.size()} * hidden;
  float* both = room(c.staging, 2 * half_size);
  float* at = both;
  for (const char* half : {"gate_proj", "up_proj"}) {
    const std::string name = c.name(fmt::format("{}.{}", prefix, half));
    BATON_TRY(c.weights.linear(name + ".weight", width, hidden, columns, whole(hidden), at));
    at += half_size;
    if (bias) {
      BATON_ASSIGN(const std::vector<float> b, c.weights.vector(name + ".bias", width, columns));
      f.gate_up_bias_.insert(f.gate_up_bias_.end(), b.begin(), b.end());
    }
  }
  f.gate_up_ = kernels::Linear({both, static_cast<size_t>(2 * half_size)}, 2 * f.columns_, hidden, c.compute);
  BATON_ASSIGN(f.down_, load_linear(c, prefix + ".down_proj.weight", hidden, width, whole(hidden), columns));
  return f;
}

void GatedFfn::apply(const float* x, int64_t m, RankBuffers& scratch, float* out) const {
  if (m == 0) return;
  if (empty()) {
    std::fill(out, out + m * hidden_, 0.0F);
  } else {
    float* gate_up = room(scratch.gate_up, m * 2 * columns_);
    float* activated = room(scratch.activated, m * columns_);
    gate_up_.apply(x, m, gate_up);
    if (!gate_up_bias_.empty()) kernels::add_bias(gate_up_bias_.data(), m, 2 * columns_, gate_up);
    kernels::silu_mul(gate_up, m, columns_, activated);
    down_.apply(activated, m, out);
  }
  if (!down_bias_.empty()) kernels::add_bias(down_bias_.data(), m, hidden_, out);
}

namespace {

class DenseFfn final : public FeedForward {
 public:
  explicit DenseFfn(GatedFfn ffn) : ffn_(std::move(ffn)) {}
  void forward(int64_t rows, const Activations& activations, RankBuffers& scratch, float* partial) const override {
    ffn_.apply(activations.normed.data(), rows, scratch, partial);
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
