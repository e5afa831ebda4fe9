#include "model/gqa.h"

#include <cmath>

namespace baton::model {

namespace {

class GqaAttention final : public Attention {
 public:
  static Result<std::unique_ptr<Attention>> load(const LayerContext& c);
  void forward(const StepBatch& batch, const StepBatch::GroupRows& group, const Activations& activations,
               const KvPool& pool, RankBuffers& scratch, float* partial) const override;

 private:
  Status load_qkv(const LayerContext& c);

  int layer_ = 0, hidden_ = 0, head_dim_ = 0, q_heads_ = 0, kv_heads_ = 0;
  bool interleaved_ = false;
  float eps_ = 0;
  kernels::Compute compute_ = kernels::Compute::kF32;
  std::vector<int> kv_head_of_;  // (q_heads): local
  kernels::Linear qkv_;          // ((q_heads + 2 kv_heads) * head_dim, hidden)
  kernels::Linear output_;       // (hidden, q_heads * head_dim)
  std::vector<float> qkv_bias_, output_bias_;
  std::vector<float> q_norm_, k_norm_;  // (head_dim)
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
  const int64_t n_all = static_cast<int64_t>(q_heads_ + 2 * kv_heads_) * head_dim_;
  float* all = room(c.staging, n_all * hidden_);
  float* at = all;
  for (const Part& part : parts) {
    const int n = part.heads * head_dim_;
    const Interval rows = scaled(part.local, head_dim_);
    BATON_TRY(c.weights.linear(c.name(fmt::format("{}.weight", part.name)), n, hidden_, rows, whole(hidden_), at));
    at += int64_t{rows.size()} * hidden_;
    if (c.config.attention_bias) {
      BATON_ASSIGN(const std::vector<float> b, c.weights.vector(c.name(fmt::format("{}.bias", part.name)), n, rows));
      qkv_bias_.insert(qkv_bias_.end(), b.begin(), b.end());
    }
  }
  qkv_ = kernels::Linear({all, static_cast<size_t>(n_all * hidden_)}, n_all, hidden_, compute_);
  return {};
}

Result<std::unique_ptr<Attention>> GqaAttention::load(const LayerContext& c) {
  auto a = std::make_unique<GqaAttention>();
  a->layer_ = c.layer;
  a->hidden_ = c.config.hidden;
  a->head_dim_ = c.config.head_dim;
  a->q_heads_ = c.share.query_heads.size();
  a->kv_heads_ = c.share.kv_heads.size();
  a->interleaved_ = c.config.rope_is_interleaved;
  a->eps_ = static_cast<float>(c.config.rms_eps);
  a->compute_ = c.compute;
  const int queries_per_kv = c.config.heads / c.config.kv_heads;
  for (int h = c.share.query_heads.begin; h < c.share.query_heads.end; ++h) {
    a->kv_head_of_.push_back(h / queries_per_kv - c.share.kv_heads.begin);
  }
  BATON_TRY(a->load_qkv(c));
  if (c.config.qk_norm) {
    BATON_ASSIGN(a->q_norm_, c.weights.vector(c.name("self_attn.q_norm.weight"), a->head_dim_, whole(a->head_dim_)));
    BATON_ASSIGN(a->k_norm_, c.weights.vector(c.name("self_attn.k_norm.weight"), a->head_dim_, whole(a->head_dim_)));
  }
  BATON_ASSIGN(a->output_, load_linear(c, "self_attn.o_proj.weight", a->hidden_, c.config.heads * a->head_dim_,
                                       whole(a->hidden_), scaled(c.share.query_heads, a->head_dim_)));
  if (c.config.attention_output_bias && c.share.at.attn_tp_rank == 0) {
    BATON_ASSIGN(a->output_bias_, c.weights.vector(c.name("self_attn.o_proj.bias"), a->hidden_, whole(a->hidden_)));
  }
  return std::unique_ptr<Attention>(std::move(a));
}

void GqaAttention::forward(const StepBatch& batch, const StepBatch::GroupRows& group, const Activations& activations,
                           const KvPool& pool, RankBuffers& scratch, float* partial) const {
  const int64_t m = group.rows.size();
  if (m == 0) return;
  const int64_t width = qkv_.n();
  const int64_t q_width = static_cast<int64_t>(q_heads_) * head_dim_;
  const int64_t k_width = static_cast<int64_t>(kv_heads_) * head_dim_;
  float* qkv = room(scratch.query, m * width);
  qkv_.apply(activations.normed.data() + group.rows.begin * hidden_, m, qkv);
  if (!qkv_bias_.empty()) kernels::add_bias(qkv_bias_.data(), m, width, qkv);
  if (!q_norm_.empty()) {
    kernels::rms_norm_heads(qkv, width, q_norm_.data(), eps_, m, q_heads_, head_dim_);
    kernels::rms_norm_heads(qkv + q_width, width, k_norm_.data(), eps_, m, kv_heads_, head_dim_);
  }
  // Keys follow the queries in each row, so one call turns both.
  const int64_t half = head_dim_ / 2;
  const auto rope = interleaved_ ? kernels::rope_interleaved : kernels::rope_half;
  rope(qkv, m, width, q_heads_ + kv_heads_, head_dim_, head_dim_, batch.cos.data() + group.rows.begin * half,
       batch.sin.data() + group.rows.begin * half);

  float* attended = room(scratch.attention, m * q_width);
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim_));
  const kernels::PagedKv kv = pool.view(layer_, batch.pages.data());
  const std::span<const kernels::PagedRows> sequences = batch.all(group);
  kernels::write_kv(kv, sequences, kv_heads_, qkv + q_width, width, qkv + q_width + k_width, width);
  kernels::gqa_attention(qkv, width, sequences, q_heads_, kv_head_of_.data(), kv, scale, compute_, attended);
  output_.apply(attended, m, partial);
  if (!output_bias_.empty()) kernels::add_bias(output_bias_.data(), m, hidden_, partial);
}

}  // namespace

Result<std::unique_ptr<Attention>> load_gqa_attention(const LayerContext& context) {
  return GqaAttention::load(context);
}

}  // namespace baton::model
