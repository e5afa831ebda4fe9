#include "model/mla.h"

#include <cmath>

namespace baton::model {

using kernels::Linear;

namespace {

// The norms of the latents have an epsilon of their own, whatever rms_norm_eps says (modeling_deepseek.py of the
// published checkpoints, and Transformers).
constexpr float kLatentEps = 1e-6F;

void turn(bool interleaved, float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim,
          const StepBatch& batch, int64_t row) {
  const auto rope = interleaved ? kernels::rope_interleaved : kernels::rope_half;
  const int64_t half = dim / 2;
  rope(x, m, row_stride, heads, head_stride, dim, batch.cos.data() + row * half, batch.sin.data() + row * half);
}

class MlaPreparation final : public AttentionPreparation {
 public:
  static Result<std::unique_ptr<AttentionPreparation>> load(const LayerContext& c) {
    auto p = std::make_unique<MlaPreparation>();
    const ModelConfig& g = c.config;
    p->hidden_ = g.hidden;
    p->q_lora_ = g.q_lora;
    p->kv_lora_ = g.kv_lora;
    p->qk_rope_ = g.qk_rope;
    p->interleaved_ = g.rope_is_interleaved;
    if (g.q_lora > 0) {
      BATON_ASSIGN(p->q_down_,
                   load_linear(c, "self_attn.q_a_proj.weight", g.q_lora, g.hidden, whole(g.q_lora), whole(g.hidden)));
      BATON_ASSIGN(p->q_norm_, c.weights.vector(c.name("self_attn.q_a_layernorm.weight"), g.q_lora, whole(g.q_lora)));
    }
    const int entry = g.kv_lora + g.qk_rope;
    BATON_ASSIGN(p->kv_down_,
                 load_linear(c, "self_attn.kv_a_proj_with_mqa.weight", entry, g.hidden, whole(entry), whole(g.hidden)));
    BATON_ASSIGN(p->kv_norm_, c.weights.vector(c.name("self_attn.kv_a_layernorm.weight"), g.kv_lora, whole(g.kv_lora)));
    return std::unique_ptr<AttentionPreparation>(std::move(p));
  }

  void prepare(const StepBatch& batch, LongInterval rows, Activations& activations) const override {
    const int64_t m = rows.size();
    if (m == 0) return;
    const float* x = activations.normed.data() + rows.begin * hidden_;
    if (q_lora_ > 0) {
      float* q = activations.q_latent.data() + rows.begin * q_lora_;
      q_down_.apply(x, m, q);
      kernels::rms_norm(q, q_lora_, q_norm_.data(), kLatentEps, m, q_lora_, q, q_lora_);
    }
    const int64_t width = kv_lora_ + qk_rope_;
    float* entry = activations.kv_entry.data() + rows.begin * width;
    kv_down_.apply(x, m, entry);
    kernels::rms_norm(entry, width, kv_norm_.data(), kLatentEps, m, kv_lora_, entry, width);
    turn(interleaved_, entry + kv_lora_, m, width, 1, qk_rope_, qk_rope_, batch, rows.begin);
  }

 private:
  int hidden_ = 0, q_lora_ = 0, kv_lora_ = 0, qk_rope_ = 0;
  bool interleaved_ = true;
  Linear q_down_;   // (q_lora, hidden)
  Linear kv_down_;  // (kv_lora + qk_rope, hidden)
  std::vector<float> q_norm_, kv_norm_;
};

class MlaAttention final : public Attention {
 public:
  static Result<std::unique_ptr<Attention>> load(const LayerContext& c);
  void forward(const StepBatch& batch, const StepBatch::GroupRows& group, const Activations& activations,
               const KvPool& pool, RankBuffers& scratch, float* partial) const override;

 private:
  Status load_up_projection(const LayerContext& c);
  // q: (m, heads, qk) of the rows of absorbed segments; out: (m, heads, v_head).
  void attend_absorbed(int64_t m, std::span<const kernels::PagedRows> sequences, const kernels::PagedKv& kv,
                       const float* q, RankBuffers& scratch, float* out) const;

  int layer_ = 0, hidden_ = 0, heads_ = 0, q_lora_ = 0, kv_lora_ = 0, nope_ = 0, rope_ = 0, v_head_ = 0;
  bool interleaved_ = true;
  float scale_ = 1;
  kernels::Compute compute_ = kernels::Compute::kF32;
  Linear query_;     // (heads * qk, q_lora or hidden)
  Linear key_up_;    // (heads * qk_nope, kv_lora)
  Linear value_up_;  // (heads * v_head, kv_lora)
  // (heads): the halves of kv_b_proj as the absorbed path applies them.
  std::vector<Linear> absorbed_key_;    // (kv_lora, qk_nope): W_UK transposed, applied to queries
  std::vector<Linear> absorbed_value_;  // (v_head, kv_lora): W_UV, applied to attended latents
  Linear output_;                       // (hidden, heads * v_head)
};

Status MlaAttention::load_up_projection(const LayerContext& c) {
  const int height = nope_ + v_head_;
  const float* w = room(c.staging, int64_t{heads_} * height * kv_lora_);
  BATON_TRY(c.weights.linear(c.name("self_attn.kv_b_proj.weight"), c.config.heads * height, kv_lora_,
                             scaled(c.share.query_heads, height), whole(kv_lora_), c.staging.data()));
  const auto lora = static_cast<size_t>(kv_lora_);
  const auto nope = static_cast<size_t>(nope_);
  const size_t value_size = static_cast<size_t>(v_head_) * lora;
  std::vector<float> keys, values;
  std::vector<float> transposed(lora * nope);
  for (int h = 0; h < heads_; ++h) {
    const float* key = w + static_cast<size_t>(h) * static_cast<size_t>(height) * lora;  // (qk_nope, kv_lora)
    const float* value = key + nope * lora;                                              // (v_head, kv_lora)
    keys.insert(keys.end(), key, value);
    values.insert(values.end(), value, value + value_size);
    for (size_t i = 0; i < nope; ++i) {
      for (size_t j = 0; j < lora; ++j) transposed[j * nope + i] = key[i * lora + j];
    }
    absorbed_key_.emplace_back(transposed, kv_lora_, nope_, compute_);
    absorbed_value_.emplace_back(std::span(value, value_size), v_head_, kv_lora_, compute_);
  }
  key_up_ = Linear(keys, static_cast<int64_t>(heads_) * nope_, kv_lora_, compute_);
  value_up_ = Linear(values, static_cast<int64_t>(heads_) * v_head_, kv_lora_, compute_);
  return {};
}

Result<std::unique_ptr<Attention>> MlaAttention::load(const LayerContext& c) {
  auto a = std::make_unique<MlaAttention>();
  const ModelConfig& g = c.config;
  a->layer_ = c.layer;
  a->hidden_ = g.hidden;
  a->heads_ = c.share.query_heads.size();
  a->q_lora_ = g.q_lora;
  a->kv_lora_ = g.kv_lora;
  a->nope_ = g.qk_nope;
  a->rope_ = g.qk_rope;
  a->v_head_ = g.v_head;
  a->interleaved_ = g.rope_is_interleaved;
  a->compute_ = c.compute;
  const int qk = g.qk_nope + g.qk_rope;
  a->scale_ = static_cast<float>(mla_softmax_factor(g.rope) / std::sqrt(static_cast<double>(qk)));
  const Interval rows = scaled(c.share.query_heads, qk);
  if (g.q_lora > 0) {
    BATON_ASSIGN(a->query_, load_linear(c, "self_attn.q_b_proj.weight", g.heads * qk, g.q_lora, rows, whole(g.q_lora)));
  } else {
    BATON_ASSIGN(a->query_, load_linear(c, "self_attn.q_proj.weight", g.heads * qk, g.hidden, rows, whole(g.hidden)));
  }
  BATON_TRY(a->load_up_projection(c));
  BATON_ASSIGN(a->output_, load_linear(c, "self_attn.o_proj.weight", g.hidden, g.heads * g.v_head, whole(g.hidden),
                                       scaled(c.share.query_heads, g.v_head)));
  return std::unique_ptr<Attention>(std::move(a));
}

void MlaAttention::attend_absorbed(int64_t m, std::span<const kernels::PagedRows> sequences, const kernels::PagedKv& kv,
                                   const float* q, RankBuffers& scratch, float* out) const {
  if (m == 0) return;
  const int64_t qk = nope_ + rope_;
  const int64_t entry = kv_lora_ + rope_;
  float* query = room(scratch.absorbed_query, m * heads_ * entry);
  float* latent = room(scratch.latent, m * heads_ * kv_lora_);
  kernels::linear_heads(absorbed_key_, q, heads_ * qk, qk, m, query, heads_ * entry, entry);
  kernels::copy_columns(q + nope_, qk, m * heads_, rope_, query + kv_lora_, entry);
  kernels::mla_attention(query, sequences, heads_, kv_lora_, kv, scale_, compute_, latent);
  kernels::linear_heads(absorbed_value_, latent, int64_t{heads_} * kv_lora_, kv_lora_, m, out,
                        int64_t{heads_} * v_head_, v_head_);
}

void MlaAttention::forward(const StepBatch& batch, const StepBatch::GroupRows& group, const Activations& activations,
                           const KvPool& pool, RankBuffers& scratch, float* partial) const {
  const int64_t m = group.rows.size();
  if (m == 0) return;
  const int64_t qk = nope_ + rope_;
  const int64_t entry = kv_lora_ + rope_;
  float* q = room(scratch.query, m * heads_ * qk);
  const float* input = q_lora_ > 0 ? activations.q_latent.data() + group.rows.begin * q_lora_
                                   : activations.normed.data() + group.rows.begin * hidden_;
  query_.apply(input, m, q);
  turn(interleaved_, q + nope_, m, heads_ * qk, heads_, qk, rope_, batch, group.rows.begin);

  float* attended = room(scratch.attention, m * heads_ * v_head_);
  const kernels::PagedKv kv = pool.view(layer_, batch.pages.data());
  kernels::write_kv(kv, batch.all(group), 1, activations.kv_entry.data() + group.rows.begin * entry, entry, nullptr, 0);
  attend_absorbed(group.absorbed_end - group.rows.begin, batch.absorbed(group), kv, q, scratch, attended);
  const kernels::MlaExpansion up{&key_up_, &value_up_, heads_, nope_, rope_, v_head_};
  kernels::mla_expanded_attention(q, batch.expanded(group), up, kv, scale_, compute_, attended);
  output_.apply(attended, m, partial);
}

}  // namespace

Result<std::unique_ptr<AttentionPreparation>> load_mla_preparation(const LayerContext& context) {
  return MlaPreparation::load(context);
}
Result<std::unique_ptr<Attention>> load_mla_attention(const LayerContext& context) {
  return MlaAttention::load(context);
}

}  // namespace baton::model
