#include "model/mla.h"

#include <cmath>

namespace baton::model {

namespace {

// The norms of the latents have an epsilon of their own, whatever rms_norm_eps says (modeling_deepseek.py of the
// published checkpoints, and Transformers).
constexpr float kLatentEps = 1e-6F;

class MlaPreparation final : public AttentionPreparation {
 public:
  static Result<std::unique_ptr<AttentionPreparation>> load(const LayerContext& c) {
    auto p = std::make_unique<MlaPreparation>();
    const ModelConfig& g = c.config;
    p->q_lora_ = g.q_lora;
    p->kv_lora_ = g.kv_lora;
    p->qk_rope_ = g.qk_rope;
    p->rope_pairs_ = rope_pairs(g);
    if (g.q_lora > 0) {
      BATON_ASSIGN(p->q_down_,
                   load_linear(c, "self_attn.q_a_proj.weight", g.q_lora, g.hidden, whole(g.q_lora), whole(g.hidden)));
      BATON_ASSIGN(p->q_norm_, load_vector(c, "self_attn.q_a_layernorm.weight", g.q_lora, whole(g.q_lora)));
    }
    const int entry = g.kv_lora + g.qk_rope;
    BATON_ASSIGN(p->kv_down_,
                 load_linear(c, "self_attn.kv_a_proj_with_mqa.weight", entry, g.hidden, whole(entry), whole(g.hidden)));
    BATON_ASSIGN(p->kv_norm_, load_vector(c, "self_attn.kv_a_layernorm.weight", g.kv_lora, whole(g.kv_lora)));
    return std::unique_ptr<AttentionPreparation>(std::move(p));
  }

  void prepare(const RankStep& step, LongInterval rows, Activations& activations) const override {
    const int64_t m = rows.size();
    if (m == 0) return;
    kernels::Backend& ops = step.backend;
    const kernels::Matrix x = activations.normed.row_range(rows.begin, m);
    if (q_lora_ > 0) {
      const kernels::Matrix q = activations.q_latent.row_range(rows.begin, m);
      ops.linear(*q_down_, x, q);
      ops.rms_norm(q, q_norm_, kLatentEps, q);
    }
    const kernels::Matrix entry = activations.kv_entry.row_range(rows.begin, m);
    const kernels::Matrix latent = entry.column_range(0, kv_lora_);
    ops.linear(*kv_down_, x, entry);
    ops.rms_norm(latent, kv_norm_, kLatentEps, latent);
    const int64_t turned = rows.begin * (qk_rope_ / 2);
    ops.rope(rope_pairs_, entry.column_range(kv_lora_, qk_rope_).by_heads(1), step.cos + turned, step.sin + turned);
  }

 private:
  int q_lora_ = 0, kv_lora_ = 0, qk_rope_ = 0;
  kernels::RopePairs rope_pairs_ = kernels::RopePairs::kInterleaved;
  kernels::WeightPtr q_down_;   // (q_lora, hidden)
  kernels::WeightPtr kv_down_;  // (kv_lora + qk_rope, hidden)
  kernels::Constants<float> q_norm_, kv_norm_;
};

class MlaAttention final : public Attention {
 public:
  static Result<std::unique_ptr<Attention>> load(const LayerContext& c);
  void forward(const RankStep& step, const Activations& activations, const KvPool& pool, RankBuffers& scratch,
               const kernels::Matrix& partial) const override;

 private:
  Status load_up_projection(const LayerContext& c);
  // q: (m, heads, qk) of the rows of absorbed segments; out: (m, heads * v_head).
  void attend_absorbed(kernels::Backend& ops, const kernels::Sequences& sequences, const kernels::PagedKv& kv,
                       const kernels::Heads& q, RankBuffers& scratch, const kernels::Matrix& out) const;

  int layer_ = 0, heads_ = 0, q_lora_ = 0, kv_lora_ = 0, nope_ = 0, rope_ = 0, v_head_ = 0;
  kernels::RopePairs rope_pairs_ = kernels::RopePairs::kInterleaved;
  float scale_ = 1;
  kernels::WeightPtr query_;     // (heads * qk, q_lora or hidden)
  kernels::WeightPtr key_up_;    // (heads * qk_nope, kv_lora)
  kernels::WeightPtr value_up_;  // (heads * v_head, kv_lora)
  // The halves of kv_b_proj as the absorbed path applies them, by heads.
  kernels::WeightPtr absorbed_key_;    // (kv_lora, qk_nope) each: W_UK transposed, applied to queries
  kernels::WeightPtr absorbed_value_;  // (v_head, kv_lora) each: W_UV, applied to attended latents
  kernels::WeightPtr output_;          // (hidden, heads * v_head)
};

Status MlaAttention::load_up_projection(const LayerContext& c) {
  const int height = nope_ + v_head_;
  const auto rows_of_head = [&](Interval rows) {
    return c.weights.linear(c.name("self_attn.kv_b_proj.weight"), c.config.heads * height, kv_lora_, rows,
                            whole(kv_lora_));
  };
  std::vector<tensor::MatrixSlice> keys, values, transposed;
  for (int h = c.share.query_heads.begin; h < c.share.query_heads.end; ++h) {
    const int first = h * height;
    BATON_ASSIGN(keys.emplace_back(), rows_of_head({first, first + nope_}));
    BATON_ASSIGN(values.emplace_back(), rows_of_head({first + nope_, first + height}));
    transposed.push_back(keys.back().transpose());
  }
  absorbed_key_ = c.backend.head_weights(transposed, c.compute);
  absorbed_value_ = c.backend.head_weights(values, c.compute);
  key_up_ = c.backend.weight(keys, c.compute);
  value_up_ = c.backend.weight(values, c.compute);
  return {};
}

Result<std::unique_ptr<Attention>> MlaAttention::load(const LayerContext& c) {
  auto a = std::make_unique<MlaAttention>();
  const ModelConfig& g = c.config;
  a->layer_ = c.layer;
  a->heads_ = c.share.query_heads.size();
  a->q_lora_ = g.q_lora;
  a->kv_lora_ = g.kv_lora;
  a->nope_ = g.qk_nope;
  a->rope_ = g.qk_rope;
  a->v_head_ = g.v_head;
  a->rope_pairs_ = rope_pairs(g);
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

void MlaAttention::attend_absorbed(kernels::Backend& ops, const kernels::Sequences& sequences,
                                   const kernels::PagedKv& kv, const kernels::Heads& q, RankBuffers& scratch,
                                   const kernels::Matrix& out) const {
  if (q.rows == 0) return;
  const tensor::DType dtype = ops.activations();
  const int64_t entry = kv_lora_ + rope_;
  const kernels::Matrix queries = scratch.absorbed_query.matrix(ops, dtype, q.rows, heads_ * entry);
  const kernels::Heads query = queries.by_heads(heads_);
  const kernels::Matrix latent = scratch.latent.matrix(ops, dtype, q.rows, int64_t{heads_} * kv_lora_);
  ops.linear_heads(*absorbed_key_, q.part(0, nope_), query.part(0, kv_lora_));
  ops.copy(q.part(nope_, rope_), query.part(kv_lora_, rope_));
  ops.mla_attention(query, sequences, kv_lora_, kv, scale_, latent);
  ops.linear_heads(*absorbed_value_, latent.by_heads(heads_), out.by_heads(heads_));
}

void MlaAttention::forward(const RankStep& step, const Activations& activations, const KvPool& pool,
                           RankBuffers& scratch, const kernels::Matrix& partial) const {
  const int64_t m = step.group.rows.size();
  if (m == 0) return;
  kernels::Backend& ops = step.backend;
  const tensor::DType dtype = ops.activations();
  const kernels::Matrix queries = scratch.query.matrix(ops, dtype, m, int64_t{heads_} * (nope_ + rope_));
  const kernels::Heads q = queries.by_heads(heads_);
  const kernels::Matrix& input = q_lora_ > 0 ? activations.q_latent : activations.normed;
  ops.linear(*query_, step.of_group(input), queries);
  const int64_t turned = step.group.rows.begin * (rope_ / 2);
  ops.rope(rope_pairs_, q.part(nope_, rope_), step.cos + turned, step.sin + turned);

  const kernels::Matrix attended = scratch.attention.matrix(ops, dtype, m, int64_t{heads_} * v_head_);
  const kernels::PagedKv kv = pool.view(layer_, step.pages);
  ops.write_kv(kv, step.all, step.of_group(activations.kv_entry).by_heads(1), {});
  const int64_t absorbed = step.group.absorbed_end - step.group.rows.begin;
  attend_absorbed(ops, step.absorbed, kv, q.first_rows(absorbed), scratch, attended.row_range(0, absorbed));
  const kernels::MlaExpansion up{key_up_.get(), value_up_.get(), heads_, nope_, rope_, v_head_};
  ops.mla_expanded_attention(q, step.expanded, up, kv, scale_, attended);
  ops.linear(*output_, attended, partial);
}

}  // namespace

Result<std::unique_ptr<AttentionPreparation>> load_mla_preparation(const LayerContext& context) {
  return MlaPreparation::load(context);
}
Result<std::unique_ptr<Attention>> load_mla_attention(const LayerContext& context) {
  return MlaAttention::load(context);
}

}  // namespace baton::model
