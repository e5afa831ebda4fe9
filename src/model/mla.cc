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
    std::vector<tensor::MatrixSlice> stacked;
    const auto stack = [&](const char* name, int n) -> Status {
      BATON_ASSIGN(stacked.emplace_back(), c.weights.linear(c.name(name), n, g.hidden, whole(n), whole(g.hidden)));
      return {};
    };
    if (const int columns = prepared_query(g, c.share.layout); columns > 0)
      BATON_TRY(stack(g.q_lora > 0 ? "self_attn.q_a_proj.weight" : "self_attn.q_proj.weight", columns));
    BATON_TRY(stack("self_attn.kv_a_proj_with_mqa.weight", g.kv_lora + g.qk_rope));
    p->down_ = c.backend.weight(stacked, c.compute);
    if (g.q_lora > 0) {
      BATON_ASSIGN(p->q_norm_, load_vector(c, "self_attn.q_a_layernorm.weight", g.q_lora, whole(g.q_lora)));
    }
    return std::unique_ptr<AttentionPreparation>(std::move(p));
  }

  void prepare(const RankStep& step, LongInterval rows, Activations& activations) const override {
    const int64_t m = rows.size();
    if (m == 0) return;
    kernels::Backend& ops = step.backend;
    ops.linear(*down_, activations.normed.row_range(rows.begin, m), activations.prepared.row_range(rows.begin, m));
    if (q_lora_ == 0) return;
    const kernels::Matrix q = activations.query.row_range(rows.begin, m);
    ops.rms_norm(q, q_norm_, kLatentEps, q);
  }

 private:
  int q_lora_ = 0;
  kernels::WeightPtr down_;  // (columns of Activations::prepared, hidden)
  kernels::Constants<float> q_norm_;
};

class MlaAttention final : public Attention {
 public:
  static Result<std::unique_ptr<Attention>> load(const LayerContext& c);
  void forward(const RankStep& step, const Activations& activations, const KvPool& pool, RankBuffers& scratch,
               const kernels::Matrix& partial) const override;

 private:
  Status load_up_projection(const LayerContext& c);
  // Of the rows of absorbed segments. q: (m, heads, qk); query: (m, heads, kv_lora + rope), whose rope part is made;
  // out: (m, heads * v_head).
  void attend_absorbed(kernels::Backend& ops, const kernels::Sequences& sequences, const kernels::PagedKv& kv,
                       const kernels::Heads& q, const kernels::Heads& query, RankBuffers& scratch,
                       const kernels::Matrix& out) const;

  int layer_ = 0, heads_ = 0, q_lora_ = 0, kv_lora_ = 0, nope_ = 0, rope_ = 0, v_head_ = 0;
  kernels::RopePairs rope_pairs_ = kernels::RopePairs::kInterleaved;
  bool shared_entries_ = false;  // gathered from several ranks
  float scale_ = 1;
  kernels::WeightPtr query_;  // (heads * qk, q_lora or hidden); null: queries are prepared
  kernels::Constants<float> kv_norm_;
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
  a->shared_entries_ = c.share.layout.attn_tp() > 1;
  const int qk = g.qk_nope + g.qk_rope;
  a->scale_ = static_cast<float>(mla_softmax_factor(g.rope) / std::sqrt(static_cast<double>(qk)));
  const Interval rows = scaled(c.share.query_heads, qk);
  if (g.q_lora > 0) {
    BATON_ASSIGN(a->query_, load_linear(c, "self_attn.q_b_proj.weight", g.heads * qk, g.q_lora, rows, whole(g.q_lora)));
  } else if (prepared_query(g, c.share.layout) == 0) {
    BATON_ASSIGN(a->query_, load_linear(c, "self_attn.q_proj.weight", g.heads * qk, g.hidden, rows, whole(g.hidden)));
  }
  BATON_ASSIGN(a->kv_norm_, load_vector(c, "self_attn.kv_a_layernorm.weight", g.kv_lora, whole(g.kv_lora)));
  BATON_TRY(a->load_up_projection(c));
  BATON_ASSIGN(a->output_, load_linear(c, "self_attn.o_proj.weight", g.hidden, g.heads * g.v_head, whole(g.hidden),
                                       scaled(c.share.query_heads, g.v_head)));
  return std::unique_ptr<Attention>(std::move(a));
}

void MlaAttention::attend_absorbed(kernels::Backend& ops, const kernels::Sequences& sequences,
                                   const kernels::PagedKv& kv, const kernels::Heads& q, const kernels::Heads& query,
                                   RankBuffers& scratch, const kernels::Matrix& out) const {
  if (q.rows == 0) return;
  const kernels::Matrix latent = scratch.latent.matrix(ops, ops.activations(), q.rows, int64_t{heads_} * kv_lora_);
  ops.linear_heads(*absorbed_key_, q.part(0, nope_), query.part(0, kv_lora_));
  ops.mla_attention(query, sequences, kv_lora_, kv, scale_, latent);
  ops.linear_heads(*absorbed_value_, latent.by_heads(heads_), out.by_heads(heads_));
}

void MlaAttention::forward(const RankStep& step, const Activations& activations, const KvPool& pool,
                           RankBuffers& scratch, const kernels::Matrix& partial) const {
  const int64_t m = step.group.rows.size();
  if (m == 0) return;
  kernels::Backend& ops = step.backend;
  const tensor::DType dtype = ops.activations();
  kernels::Matrix queries = step.of_group(activations.query);
  if (query_ != nullptr) {
    queries = scratch.query.matrix(ops, dtype, m, int64_t{heads_} * (nope_ + rope_));
    ops.linear(*query_, step.of_group(q_lora_ > 0 ? activations.query : activations.normed), queries);
  }
  const kernels::Heads q = queries.by_heads(heads_);
  const int64_t turned = step.group.rows.begin * (rope_ / 2),
                absorbed = step.group.absorbed_end - step.group.rows.begin;
  const kernels::Heads query =
      scratch.absorbed_query.matrix(ops, dtype, absorbed, int64_t{heads_} * (kv_lora_ + rope_)).by_heads(heads_);
  const kernels::Matrix attended = scratch.attention.matrix(ops, dtype, m, int64_t{heads_} * v_head_);
  const kernels::PagedKv kv = pool.view(layer_, step.pages);
  kernels::Matrix entries = step.of_group(activations.kv_entry);
  if (shared_entries_) {  // other ranks may still read this rank's
    const kernels::Matrix own = scratch.kv_entry.matrix(ops, dtype, m, entries.columns);
    ops.copy(entries.by_heads(1), own.by_heads(1));
    entries = own;
  }
  ops.write_latents(kv, step.all, entries, kv_norm_, kLatentEps, rope_pairs_, q.part(nope_, rope_),
                    query.part(kv_lora_, rope_), step.cos + turned, step.sin + turned);
  attend_absorbed(ops, step.absorbed, kv, q.first_rows(absorbed), query, scratch, attended.row_range(0, absorbed));
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
