#include "model/stage.h"

#include <algorithm>
#include <array>

#include "comm/thread_comm.h"
#include "model/feed_forward.h"
#include "model/gqa.h"
#include "model/mla.h"

namespace baton::model {

namespace {

// Rows of logits that a rank has at a time: a prompt whose logprobs are wanted has thousands.
constexpr int64_t kLogitsRows = 64;

}  // namespace

Stage::Stage(const layout::Layout& layout, const ModelConfig& config, int stage, const Pipelines& pipelines)
    : config_(config),
      interval_(layout::stage_layers(config.layers, layout.pp, stage)),
      all_(layout.tp),
      pipelines_(pipelines),
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
  for (const auto& pipeline : pipelines_) pipeline->abort(failure);
}

RankComms Stage::comms(const RankShare& share) {
  comm::RankGroup& attention = *attention_groups_[static_cast<size_t>(share.at.dp_rank)];
  comm::RankGroup& pipeline = *pipelines_[static_cast<size_t>(share.tp_rank)];
  return {.stage = std::make_unique<comm::ThreadComm>(all_, share.tp_rank),
          .attention = std::make_unique<comm::ThreadComm>(attention, share.at.attn_tp_rank),
          .pipeline = std::make_unique<comm::ThreadComm>(pipeline, share.at.pp_stage)};
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

void Rank::embed(const StepBatch& batch, LongInterval rows, std::span<const sampling::RowAnswer> before) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    int32_t token = batch.tokens[static_cast<size_t>(r)];
    if (token < 0) token = before[static_cast<size_t>(-1 - token)].token.id;
    stage_.embedding()(token, activations_.hidden.data() + (r - rows.begin) * config_.hidden);
  }
}

void Rank::norm(const std::vector<float>& weight, LongInterval rows) {
  const int64_t hidden = config_.hidden;
  kernels::rms_norm(activations_.hidden.data(), hidden, weight.data(), static_cast<float>(config_.rms_eps), rows.size(),
                    hidden, activations_.normed.data() + rows.begin * hidden, hidden);
}

namespace {

// A buffer whose rows are `width` values, from row `first` on.
template <typename T>
comm::RowBuffer rows_of(std::vector<T>& buffer, int64_t width, int64_t first) {
  return {buffer.data() + first * width, static_cast<size_t>(width) * sizeof(T)};
}

}  // namespace

Status Rank::begin_attention(int layer, const StepBatch& batch, LongInterval rows) {
  const Stage::SharedLayer& shared = stage_.layer(layer);
  norm(shared.attention_norm, rows);
  if (shared.preparation) shared.preparation->prepare(batch, rows, activations_);

  const comm::RowBounds bounds = owners_.of_group(share_.at.dp_rank, share_.layout.attn_tp());
  const auto all = [&](std::vector<float>& buffer, int64_t width) { return rows_of(buffer, width, bounds[0]); };
  Activations& a = activations_;
  if (!config_.is_mla()) return comms_.attention->all_gather(std::array{all(a.normed, config_.hidden)}, bounds);
  const comm::RowBuffer query = config_.q_lora > 0 ? all(a.q_latent, config_.q_lora) : all(a.normed, config_.hidden);
  return comms_.attention->all_gather(std::array{query, all(a.kv_entry, config_.kv_lora + config_.qk_rope)}, bounds);
}

Status Rank::begin_ffn(int layer, LongInterval rows) {
  const Stage::SharedLayer& shared = stage_.layer(layer);
  norm(shared.ffn_norm, rows);
  const comm::RowBuffer normed = rows_of(activations_.normed, config_.hidden, 0);
  if (!shared.gate) return comms_.stage->all_gather(std::array{normed}, owners_.rows);
  shared.gate->route(rows, activations_);
  const int64_t choices = config_.moe.experts_per_token;
  const std::array buffers{normed, rows_of(activations_.expert, choices, 0),
                           rows_of(activations_.expert_weight, choices, 0)};
  return comms_.stage->all_gather(buffers, owners_.rows);
}

Status Rank::end_stage(const StepBatch& batch, LongInterval rows) {
  const int64_t hidden = config_.hidden;
  if (!stage_.is_last()) {
    const auto size = static_cast<size_t>(rows.size() * hidden);
    return comms_.pipeline->send(comms_.pipeline->rank() + 1, std::span(activations_.hidden).first(size));
  }
  float* to = activations_.final_rows.data() + owners_.logits[static_cast<size_t>(share_.tp_rank)] * hidden;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    if (batch.logits_row[static_cast<size_t>(r)] < 0) continue;
    kernels::rms_norm(activations_.hidden.data() + (r - rows.begin) * hidden, hidden, stage_.final_norm().data(),
                      static_cast<float>(config_.rms_eps), 1, hidden, to, hidden);
    to += hidden;
  }
  BATON_TRY(comms_.stage->all_gather(std::array{rows_of(activations_.final_rows, hidden, 0)}, owners_.logits));
  const float* from = activations_.final_rows.data();
  for (const int64_t row : batch.logits_row) {
    if (row < 0) continue;
    std::copy_n(from, hidden, activations_.logits_input.data() + row * hidden);
    from += hidden;
  }
  return {};
}

void Rank::add_to_hidden(const float* sums, LongInterval rows) {
  kernels::axpy(rows.size() * config_.hidden, 1.0F, sums, activations_.hidden.data());
}

Status Rank::answer_rows(const StepBatch& batch, std::span<sampling::RowAnswer> answers, float* kept) {
  sampling::VocabularySampler& sampler = stage_.sampler();
  const int64_t width = share_.vocab.size();
  const std::span<const sampling::RowWanted> all(batch.wanted);
  for (int64_t begin = 0; begin < batch.logits_rows; begin += kLogitsRows) {
    const int count = static_cast<int>(std::min(kLogitsRows, batch.logits_rows - begin));
    const auto rows = all.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    float* logits = room(logits_, count * width);
    if (!lm_head_.empty()) {
      lm_head_.apply(activations_.logits_input.data() + begin * config_.hidden, count, logits);
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

Status Rank::forward(const StepBatch& batch, std::span<const sampling::RowAnswer> before,
                     std::span<sampling::RowAnswer> answers, float* kept) {
  const StepBatch::GroupRows& group = batch.groups[static_cast<size_t>(share_.at.dp_rank)];
  owners_.cut(batch, share_.layout.attn_tp());
  const LongInterval own = owners_.of(share_.tp_rank);
  const int64_t hidden = config_.hidden;
  activations_.grow(batch, own.size(), config_);
  float* attention_partial = room(attention_partial_, group.rows.size() * hidden);
  float* ffn_partial = room(ffn_partial_, batch.rows * hidden);
  const Interval layers = stage_.layers();

  if (stage_.is_first()) {
    embed(batch, own, before);
  } else {
    const auto size = static_cast<size_t>(own.size() * hidden);
    BATON_TRY(comms_.pipeline->receive(comms_.pipeline->rank() - 1, std::span(activations_.hidden).first(size)));
  }
  BATON_TRY(begin_attention(layers.begin, batch, own));
  for (int i = layers.begin; i < layers.end; ++i) {
    const Layer& layer = layers_[static_cast<size_t>(i - layers.begin)];
    layer.attention->forward(batch, group, activations_, pool_, scratch_, attention_partial);
    const comm::RowBounds of_group = owners_.of_group(share_.at.dp_rank, share_.layout.attn_tp());
    BATON_TRY(comms_.attention->reduce_scatter(attention_partial, of_group, hidden));
    add_to_hidden(attention_partial + (own.begin - group.rows.begin) * hidden, own);
    BATON_TRY(begin_ffn(i, own));

    layer.ffn->forward(batch.rows, activations_, scratch_, ffn_partial);
    BATON_TRY(comms_.stage->reduce_scatter(ffn_partial, owners_.rows, hidden));
    add_to_hidden(ffn_partial + own.begin * hidden, own);
    if (i + 1 < layers.end) BATON_TRY(begin_attention(i + 1, batch, own));
  }
  BATON_TRY(end_stage(batch, own));
  if (!stage_.is_last()) return {};
  return answer_rows(batch, answers, kept);
}

}  // namespace baton::model
