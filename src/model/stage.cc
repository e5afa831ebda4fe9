#include "model/stage.h"

#include <algorithm>

#include "model/feed_forward.h"
#include "model/gqa.h"
#include "model/mla.h"

namespace baton::model {

namespace {

// Rows of logits that a rank has at a time: a prompt whose logprobs are wanted has thousands.
constexpr int64_t kLogitsRows = 64;

}  // namespace

Stage::Stage(const layout::Layout& layout, const ModelConfig& config, int stage)
    : config_(config),
      interval_(layout::stage_layers(config.layers, layout.pp, stage)),
      all_(layout.tp),
      layers_(static_cast<size_t>(interval_.size())) {
  if (is_last()) {
    std::vector<Interval> shards;
    for (int r = 0; r < layout.tp; ++r) shards.push_back(rank_share(config, layout, stage * layout.tp + r).vocab);
    sampler_ = std::make_unique<sampling::VocabularySampler>(std::move(shards));
  }
  for (int g = 0; g < layout.dp; ++g) attention_groups_.push_back(std::make_unique<comm::RankGroup>(layout.attn_tp()));
}

void Stage::abort(const Error& failure) {
  all_.abort(failure);
  for (const auto& group : attention_groups_) group->abort(failure);
}

Status Stage::load_shared_layer(const LayerContext& c) {
  SharedLayer& shared = layers_[static_cast<size_t>(c.layer - interval_.begin)];
  const int hidden = config_.hidden;
  BATON_ASSIGN(shared.attention_norm, c.weights.vector(c.name("input_layernorm.weight"), hidden, whole(hidden)));
  BATON_ASSIGN(shared.ffn_norm, c.weights.vector(c.name("post_attention_layernorm.weight"), hidden, whole(hidden)));
  if (config_.is_mla()) {
    BATON_ASSIGN(shared.preparation, load_mla_preparation(c));
  }
  if (config_.layer_is_moe[static_cast<size_t>(c.layer)]) {
    BATON_ASSIGN(shared.gate, ExpertGate::load(c));
  }
  return {};
}

Status Stage::load_ends(const Weights& weights) {
  if (is_first()) {
    BATON_ASSIGN(embedding_, weights.rows("model.embed_tokens.weight", config_.vocab, config_.hidden));
  }
  if (is_last()) {
    BATON_ASSIGN(final_norm_, weights.vector("model.norm.weight", config_.hidden, whole(config_.hidden)));
  }
  return {};
}

Status Rank::load(const Weights& weights, RoutingReference* routing) {
  const Interval layers = stage_.layers();
  std::vector<float> staging;
  for (int i = layers.begin; i < layers.end; ++i) {
    // A model takes minutes to load: do not go on when another rank has failed.
    if (stage_.all().aborted()) return error(ErrorCode::kCancelled, "loading was given up");
    const LayerContext c{weights, config_, share_, compute_, i, routing, staging};
    if ((i - layers.begin) % share_.layout.tp == share_.tp_rank) BATON_TRY(stage_.load_shared_layer(c));
    Layer layer;
    BATON_ASSIGN(layer.attention, config_.is_mla() ? load_mla_attention(c) : load_gqa_attention(c));
    BATON_ASSIGN(layer.ffn, config_.layer_is_moe[static_cast<size_t>(i)] ? load_moe_ffn(c) : load_dense_ffn(c));
    layers_.push_back(std::move(layer));
  }
  if (share_.tp_rank == 0) BATON_TRY(stage_.load_ends(weights));
  if (stage_.is_last() && !share_.vocab.empty()) {
    const char* name = config_.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    const int64_t size = int64_t{share_.vocab.size()} * config_.hidden;
    float* w = room(staging, size);
    BATON_TRY(weights.matrix(name, config_.vocab, config_.hidden, share_.vocab, whole(config_.hidden), w));
    lm_head_ = kernels::Linear({w, static_cast<size_t>(size)}, share_.vocab.size(), config_.hidden, compute_);
  }
  return {};
}

void Rank::embed(const StepBatch& batch, LongInterval rows, std::span<const sampling::RowAnswer> before,
                 Activations& activations) const {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    int32_t token = batch.tokens[static_cast<size_t>(r)];
    if (token < 0) token = before[static_cast<size_t>(-1 - token)].token.id;
    stage_.embedding()(token, activations.hidden.data() + r * config_.hidden);
  }
}

namespace {

void norm_rows(const ModelConfig& config, const std::vector<float>& weight, LongInterval rows,
               Activations& activations) {
  const int64_t hidden = config.hidden;
  kernels::rms_norm(activations.hidden.data() + rows.begin * hidden, hidden, weight.data(),
                    static_cast<float>(config.rms_eps), rows.size(), hidden,
                    activations.normed.data() + rows.begin * hidden, hidden);
}

}  // namespace

void Rank::begin_attention(int layer, const StepBatch& batch, LongInterval rows, Activations& activations) const {
  const Stage::SharedLayer& shared = stage_.layer(layer);
  norm_rows(config_, shared.attention_norm, rows, activations);
  if (shared.preparation) shared.preparation->prepare(batch, rows, activations);
}

void Rank::begin_ffn(int layer, LongInterval rows, Activations& activations) const {
  const Stage::SharedLayer& shared = stage_.layer(layer);
  norm_rows(config_, shared.ffn_norm, rows, activations);
  if (shared.gate) shared.gate->route(rows, activations);
}

void Rank::end_stage(const StepBatch& batch, LongInterval rows, Activations& activations) const {
  if (!stage_.is_last()) return;
  const int64_t hidden = config_.hidden;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t to = batch.logits_row[static_cast<size_t>(r)];
    if (to < 0) continue;
    kernels::rms_norm(activations.hidden.data() + r * hidden, hidden, stage_.final_norm().data(),
                      static_cast<float>(config_.rms_eps), 1, hidden, activations.logits_input.data() + to * hidden,
                      hidden);
  }
}

void Rank::add_partials(std::span<const comm::RankGroup::Pointers> partials, int64_t first, LongInterval rows,
                        Activations& activations) {
  const int64_t n = rows.size() * config_.hidden;
  if (n == 0) return;
  const int64_t offset = (rows.begin - first) * config_.hidden;
  float* sum = room(sum_, n);
  std::copy_n(static_cast<const float*>(partials[0][0]) + offset, n, sum);
  for (size_t r = 1; r < partials.size(); ++r) {
    const float* part = static_cast<const float*>(partials[r][0]) + offset;
    for (int64_t i = 0; i < n; ++i) sum[i] += part[i];
  }
  kernels::axpy(n, 1.0F, sum, activations.hidden.data() + rows.begin * config_.hidden);
}

Status Rank::answer_rows(const StepBatch& batch, const Activations& activations, std::span<sampling::RowAnswer> answers,
                         float* kept) {
  sampling::VocabularySampler& sampler = stage_.sampler();
  const int64_t width = share_.vocab.size();
  const std::span<const sampling::RowWanted> all(batch.wanted);
  for (int64_t begin = 0; begin < batch.logits_rows; begin += kLogitsRows) {
    const int count = static_cast<int>(std::min(kLogitsRows, batch.logits_rows - begin));
    const auto rows = all.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    float* logits = room(logits_, count * width);
    if (!lm_head_.empty()) {
      lm_head_.apply(activations.logits_input.data() + begin * config_.hidden, count, logits);
      for (int64_t r = 0; kept != nullptr && r < count; ++r) {
        std::copy_n(logits + r * width, width, kept + (begin + r) * config_.vocab + share_.vocab.begin);
      }
    }
    if (std::all_of(rows.begin(), rows.end(), [](const auto& row) { return row.recipe == nullptr; })) continue;
    sampler.reserve(share_.tp_rank, static_cast<size_t>(count));
    // Every rank takes the same turns, since they depend on what is wanted alone.
    const auto on_all_rows = [&](auto call) -> Status {
      kernels::on_gemm_threads([&](int part, int parts) {
        const LongInterval some = row_part({0, count}, parts, part);
        (sampler.*call)(share_.tp_rank, rows, {static_cast<int>(some.begin), static_cast<int>(some.end)}, logits,
                        width);
      });
      return stage_.all().barrier();
    };
    BATON_TRY(on_all_rows(&sampling::VocabularySampler::find_best));
    if (sampling::VocabularySampler::needs_weights(rows)) BATON_TRY(on_all_rows(&sampling::VocabularySampler::weigh));
    if (sampling::VocabularySampler::needs_picks(rows)) BATON_TRY(on_all_rows(&sampling::VocabularySampler::pick));
    const LongInterval own = row_part({0, count}, share_.layout.tp, share_.tp_rank);
    sampler.finish(rows, {static_cast<int>(own.begin), static_cast<int>(own.end)},
                   answers.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)));
    if (begin + count < batch.logits_rows) BATON_TRY(stage_.all().barrier());
  }
  return {};
}

Status Rank::forward(const StepBatch& batch, Activations& activations, std::span<const sampling::RowAnswer> before,
                     std::span<sampling::RowAnswer> answers, float* kept) {
  const StepBatch::GroupRows& group = batch.groups[static_cast<size_t>(share_.at.dp_rank)];
  const int member = share_.at.attn_tp_rank;
  const LongInterval own = row_part(group.rows, share_.layout.attn_tp(), member);
  comm::RankGroup& attention_group = stage_.attention_group(share_.at.dp_rank);
  float* attention_partial = room(attention_partial_, group.rows.size() * config_.hidden);
  float* ffn_partial = room(ffn_partial_, batch.rows * config_.hidden);
  const Interval layers = stage_.layers();

  if (stage_.is_first()) embed(batch, own, before, activations);
  begin_attention(layers.begin, batch, own, activations);
  BATON_TRY(attention_group.barrier());
  for (int i = layers.begin; i < layers.end; ++i) {
    const Layer& layer = layers_[static_cast<size_t>(i - layers.begin)];
    layer.attention->forward(batch, group, activations, pool_, scratch_, attention_partial);
    BATON_ASSIGN(const auto attention_parts, attention_group.exchange(member, {attention_partial}));
    add_partials(attention_parts, group.rows.begin, own, activations);
    begin_ffn(i, own, activations);
    BATON_TRY(stage_.all().barrier());

    layer.ffn->forward(batch.rows, activations, scratch_, ffn_partial);
    BATON_ASSIGN(const auto ffn_parts, stage_.all().exchange(share_.tp_rank, {ffn_partial}));
    add_partials(ffn_parts, 0, own, activations);
    if (i + 1 < layers.end) {
      begin_attention(i + 1, batch, own, activations);
      BATON_TRY(attention_group.barrier());
    }
  }
  end_stage(batch, own, activations);
  if (!stage_.is_last()) return {};
  BATON_TRY(stage_.all().barrier());
  return answer_rows(batch, activations, answers, kept);
}

}  // namespace baton::model
