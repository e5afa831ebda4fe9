#include "model/gqa.h"

#include <cmath>

namespace baton::model {

namespace {

class GqaAttention final : public Attention {
 public:
  static Result<std::unique_ptr<Attention>> load(const LayerContext& c);
  void forward(const RankStep& step, const Activations& activations, const KvPool& pool, RankBuffers& scratch,
               const kernels::Matrix& partial) const override;

 private:
  Status load_qkv(const LayerContext& c);

  int layer_ = 0, hidden_ = 0, head_dim_ = 0, q_heads_ = 0, kv_heads_ = 0;
  kernels::RopePairs rope_pairs_ = kernels::RopePairs::kHalves;
  float eps_ = 0;
  kernels::KvHeadMap kv_head_map_;  // local
  kernels::WeightPtr qkv_;          // ((q_heads + 2 kv_heads) * head_dim, hidden)
  kernels::WeightPtr output_;       // (hidden, q_heads * head_dim)
  kernels::Constants<float> qkv_bias_, output_bias_;
  kernels::Constants<float> q_norm_, k_norm_;  // (head_dim)
};

Status GqaAttention::load_qkv(const LayerContext& c) {
  struct Part {
    const char* name;
    int heads;       // of the model
    Interval local;  // of this rank
  };
  const Part parts[] = {{"self_attn.q_proj", c.config.heads, c.share.query_heads},
                        {"self_attn.k_proj", c.config.kv_heads, c.share.kv_heads},
                        {"self_attn.v_proj", c.config.kv_heads, c.share.kv_heads}};
  std::vector<tensor::MatrixSlice> weights;
  std::vector<float> bias;
  for (const Part& part : parts) {
    const int n = part.heads * head_dim_;
    const Interval rows = scaled(part.local, head_dim_);
    BATON_ASSIGN(weights.emplace_back(),
                 c.weights.linear(c.name(fmt::format("{}.weight", part.name)), n, hidden_, rows, whole(hidden_)));
    if (c.config.attention_bias) {
      BATON_ASSIGN(const std::vector<float> b, c.weights.vector(c.name(fmt::format("{}.bias", part.name)), n, rows));
      bias.insert(bias.end(), b.begin(), b.end());
    }
  }
  qkv_ = c.backend.weight(weights, c.compute);
  qkv_bias_ = c.backend.constants(std::span<const float>(bias));
  return {};
}

Result<std::unique_ptr<Attention>> GqaAttention::load(const LayerContext& c) {
  auto a = std::make_unique<GqaAttention>();
  a->layer_ = c.layer;
  a->hidden_ = c.config.hidden;
  a->head_dim_ = c.config.head_dim;
  a->q_heads_ = c.share.query_heads.size();
  a->kv_heads_ = c.share.kv_heads.size();
  a->rope_pairs_ = rope_pairs(c.config);
  a->eps_ = static_cast<float>(c.config.rms_eps);
  const int queries_per_kv = c.config.heads / c.config.kv_heads;
  std::vector<int> kv_head_of;
  for (int h = c.share.query_heads.begin; h < c.share.query_heads.end; ++h) {
    kv_head_of.push_back(h / queries_per_kv - c.share.kv_heads.begin);
  }
  a->kv_head_map_ = c.backend.kv_head_map(kv_head_of, a->kv_heads_);
  BATON_TRY(a->load_qkv(c));
  if (c.config.qk_norm) {
    BATON_ASSIGN(a->q_norm_, load_vector(c, "self_attn.q_norm.weight", a->head_dim_, whole(a->head_dim_)));
    BATON_ASSIGN(a->k_norm_, load_vector(c, "self_attn.k_norm.weight", a->head_dim_, whole(a->head_dim_)));
  }
  BATON_ASSIGN(a->output_, load_linear(c, "self_attn.o_proj.weight", a->hidden_, c.config.heads * a->head_dim_,
                                       whole(a->hidden_), scaled(c.share.query_heads, a->head_dim_)));
  if (c.config.attention_output_bias && c.share.at.attn_tp_rank == 0) {
    BATON_ASSIGN(a->output_bias_, load_vector(c, "self_attn.o_proj.bias", a->hidden_, whole(a->hidden_)));
  }
  return std::unique_ptr<Attention>(std::move(a));
}

void GqaAttention::forward(const RankStep& step, const Activations& activations, const KvPool& pool,
                           RankBuffers& scratch, const kernels::Matrix& partial) const {
  const int64_t m = step.group.rows.size();
  if (m == 0) return;
  kernels::Backend& ops = step.backend;
  const tensor::DType dtype = ops.activations();
  const int64_t q_width = int64_t{q_heads_} * head_dim_, k_width = int64_t{kv_heads_} * head_dim_;
  const kernels::Matrix qkv = scratch.query.matrix(ops, dtype, m, q_width + 2 * k_width);
  const kernels::Heads q = qkv.column_range(0, q_width).by_heads(q_heads_);
  const kernels::Heads k = qkv.column_range(q_width, k_width).by_heads(kv_heads_);
  const kernels::Heads v = qkv.column_range(q_width + k_width, k_width).by_heads(kv_heads_);
  ops.linear(*qkv_, step.of_group(activations.normed), qkv);
  if (!qkv_bias_.empty()) ops.add_bias(qkv_bias_, qkv);
  if (!q_norm_.empty()) {
    ops.rms_norm_heads(q, q_norm_, eps_);
    ops.rms_norm_heads(k, k_norm_, eps_);
  }
  // Keys follow the queries in each row, so one call turns both.
  const int64_t turned = step.group.rows.begin * (head_dim_ / 2);
  ops.rope(rope_pairs_, qkv.column_range(0, q_width + k_width).by_heads(q_heads_ + kv_heads_), step.cos + turned,
           step.sin + turned);

  const kernels::Matrix attended = scratch.attention.matrix(ops, dtype, m, q_width);
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim_));
  const kernels::PagedKv kv = pool.view(layer_, step.pages);
  ops.write_kv(kv, step.all, k, v);
  ops.gqa_attention(q, step.all, kv_head_map_, kv, scale, attended);
  ops.linear(*output_, attended, partial);
  if (!output_bias_.empty()) ops.add_bias(output_bias_, partial);
}

}  // namespace

Result<std::unique_ptr<Attention>> load_gqa_attention(const LayerContext& context) {
  return GqaAttention::load(context);
}

}  // namespace baton::model
