#include "model/stage.h"

#include <algorithm>
#include <array>

#include "comm/card_comm.h"
#include "comm/thread_comm.h"
#include "kernels/kernels.h"
#include "model/feed_forward.h"
#include "model/gqa.h"
#include "model/mla.h"

namespace baton::model {

Stage::Stage(const layout::Layout& layout, const ModelConfig& config, int stage, const Pipelines& pipelines,
             int64_t everywhere_bytes_max)
    : config_(config),
      interval_(layout::stage_layers(config.layers, layout.pp, stage)),
      all_(layout.tp),
      pipelines_(pipelines),
      everywhere_bytes_max_(everywhere_bytes_max) {
  if (is_last()) {
    std::vector<Interval> shards;
    shards.reserve(static_cast<size_t>(layout.tp));
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

RankComms Stage::comms(const RankShare& share, device::Home home, kernels::Backend& backend) {
  const auto comm = [&](comm::RankGroup& group, int rank) -> std::unique_ptr<comm::Comm> {
    if (home.kind == device::DeviceKind::kCuda) return comm::make_card_comm(group, rank, home.index, backend.queue());
    return std::make_unique<comm::ThreadComm>(group, rank, everywhere_bytes_max_);
  };
  return {.stage = comm(all_, share.tp_rank),
          .attention = comm(*attention_groups_[static_cast<size_t>(share.at.dp_rank)], share.at.attn_tp_rank),
          .pipeline = comm(*pipelines_[static_cast<size_t>(share.tp_rank)], share.at.pp_stage)};
}

Result<Rank::Layer> Rank::load_layer(const LayerContext& c) {
  Layer layer;
  const int hidden = config_.hidden;
  const bool is_moe = config_.layer_is_moe[static_cast<size_t>(c.layer)];
  BATON_ASSIGN(layer.attention_norm, load_vector(c, "input_layernorm.weight", hidden, whole(hidden)));
  BATON_ASSIGN(layer.ffn_norm, load_vector(c, "post_attention_layernorm.weight", hidden, whole(hidden)));
  if (config_.is_mla()) {
    BATON_ASSIGN(layer.preparation, load_mla_preparation(c));
  }
  if (is_moe) {
    BATON_ASSIGN(layer.gate, ExpertGate::load(c));
  }
  BATON_ASSIGN(layer.attention, config_.is_mla() ? load_mla_attention(c) : load_gqa_attention(c));
  BATON_ASSIGN(layer.ffn, is_moe ? load_moe_ffn(c) : load_dense_ffn(c));
  return layer;
}

Status Rank::load_ends(const Weights& weights) {
  const int hidden = config_.hidden;
  if (stage_.is_first()) {
    BATON_ASSIGN(const tensor::MatrixSlice table,
                 weights.table("model.embed_tokens.weight", config_.vocab, config_.hidden));
    embedding_ = backend_->table(table);
  }
  if (!stage_.is_last()) return {};
  BATON_ASSIGN(const std::vector<float> norm, weights.vector("model.norm.weight", hidden, whole(hidden)));
  final_norm_ = backend_->constants(std::span<const float>(norm));
  if (share_.vocab.empty()) return {};
  const char* name = config_.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  BATON_ASSIGN(const tensor::MatrixSlice head,
               weights.matrix(name, config_.vocab, hidden, share_.vocab, whole(hidden)));
  lm_head_ = backend_->weight(head, compute_);
  return {};
}

Status Rank::load(const Weights& weights, RoutingReference* routing) {
  repeats_ = routing == nullptr;
  const Interval layers = stage_.layers();
  for (int i = layers.begin; i < layers.end; ++i) {
    // A model takes minutes to load: do not go on when another rank has failed.
    if (stage_.all().aborted()) return error(ErrorCode::kCancelled, "loading was given up");
    BATON_ASSIGN(Layer layer, load_layer({weights, *backend_, config_, share_, compute_, i, routing}));
    layers_.push_back(std::move(layer));
  }
  return load_ends(weights);
}

void Rank::upload_inputs(const StepBatch& batch, LongInterval rows, std::span<const sampling::RowAnswer> before) {
  const auto own = std::span(batch.tokens).subspan(static_cast<size_t>(rows.begin), static_cast<size_t>(rows.size()));
  inputs_.tokens.assign(own.begin(), own.end());
  for (int32_t& token : inputs_.tokens) {
    if (token < 0 && !before.empty()) token = before[static_cast<size_t>(-1 - token)].token.id;
  }
  // Of the rank's rows those that have logits, in the order of the batch; then all ranks', in that of the result.
  inputs_.own_logits.clear();
  inputs_.logits_source.resize(static_cast<size_t>(batch.logits_rows));
  int32_t at = 0;
  for (int64_t r = 0; r < batch.rows; ++r) {
    const int64_t row = batch.logits_row[static_cast<size_t>(r)];
    if (row < 0) continue;
    inputs_.logits_source[static_cast<size_t>(row)] = at++;
    if (rows.begin <= r && r < rows.end) inputs_.own_logits.push_back(static_cast<int32_t>(r - rows.begin));
  }
  const auto upload = [&](const std::vector<int32_t>& values) { return backend_->upload(std::span(values)); };
  inputs_.tokens_at = upload(inputs_.tokens);
  inputs_.own_logits_at = upload(inputs_.own_logits);
  inputs_.logits_source_at = upload(inputs_.logits_source);
}

Status Rank::end_block(comm::Comm& comm, const kernels::Matrix& partial, comm::RowBounds bounds,
                       const kernels::Constants<float>* next_norm, LongInterval own) {
  const kernels::Matrix& hidden = activations_.hidden;
  const kernels::Matrix normed = activations_.normed.row_range(own.begin, own.size());
  const auto eps = static_cast<float>(config_.rms_eps);
  if (owners_.everywhere) {
    return comms_.stage->all_reduce(
        partial.data, partial.dtype, partial.rows, partial.columns,
        {hidden.data, next_norm == nullptr ? nullptr : next_norm->data(), eps, normed.data});
  }
  BATON_TRY(comm.reduce_scatter(partial.data, partial.dtype, bounds, partial.columns));
  const kernels::Matrix sums = partial.row_range(own.begin - bounds[0], own.size());
  if (next_norm == nullptr) {
    backend_->add(sums, hidden);
  } else {
    backend_->add_rms_norm(sums, hidden, *next_norm, eps, normed);
  }
  return {};
}

Status Rank::gather(comm::Comm& comm, std::span<const comm::RowBuffer> buffers, comm::RowBounds bounds) {
  return owners_.everywhere ? Status() : comm.all_gather(buffers, bounds);
}

namespace {

// The rows of `matrix` from row `first` on.
comm::RowBuffer rows_of(const kernels::Matrix& matrix, int64_t first) {
  return {matrix.row_range(first, 0).data, matrix.row_bytes()};
}

}  // namespace

Status Rank::begin_attention(int i, const RankStep& step, LongInterval rows) {
  const AttentionPreparation* preparation = layer(i).preparation.get();
  if (preparation != nullptr) preparation->prepare(step, rows, activations_);

  const comm::RowBounds bounds = owners_.of_group(share_.at.dp_rank, share_.layout.attn_tp());
  const Activations& a = activations_;
  if (!config_.is_mla()) return gather(*comms_.attention, std::array{rows_of(a.normed, bounds[0])}, bounds);
  const comm::RowBuffer prepared = rows_of(a.prepared, bounds[0]);
  if (a.query.columns > 0) return gather(*comms_.attention, std::array{prepared}, bounds);
  return gather(*comms_.attention, std::array{rows_of(a.normed, bounds[0]), prepared}, bounds);
}

Status Rank::begin_ffn(int i, const kernels::Matrix* sums, LongInterval rows) {
  const ExpertGate* gate = layer(i).gate.get();
  const comm::RowBuffer normed = rows_of(activations_.normed, 0);
  if (gate == nullptr) return gather(*comms_.stage, std::array{normed}, owners_.rows);
  if (sums == nullptr) {
    gate->route(*backend_, rows, activations_, scratch_);
  } else {
    gate->norm_and_route(*backend_, *sums, layer(i).ffn_norm, static_cast<float>(config_.rms_eps), rows, activations_,
                         scratch_);
  }
  const auto choices = static_cast<size_t>(config_.moe.experts_per_token);
  const std::array buffers{normed, comm::RowBuffer{activations_.expert, choices * sizeof(int32_t)},
                           comm::RowBuffer{activations_.expert_weight, choices * sizeof(float)}};
  return gather(*comms_.stage, buffers, owners_.rows);
}

Status Rank::end_model() {
  const Activations& a = activations_;
  backend_->gather_rows(a.hidden, inputs_.own_logits_at, a.final_hidden);
  const int64_t first = owners_.logits_of(share_.tp_rank).begin;
  backend_->rms_norm(a.final_hidden, final_norm_, static_cast<float>(config_.rms_eps),
                     a.final_rows.row_range(first, a.final_hidden.rows));
  BATON_TRY(gather(*comms_.stage, std::array{rows_of(a.final_rows, 0)}, owners_.logits));
  backend_->gather_rows(a.final_rows, inputs_.logits_source_at, a.logits_input);
  return {};
}

kernels::Matrix Rank::logits_block(int64_t count) {
  return logits_.matrix(*backend_, tensor::DType::kF32, count, share_.vocab.size());
}

void Rank::make_logits(int64_t begin, int64_t count) {
  if (lm_head_ == nullptr) return;
  backend_->linear(*lm_head_, activations_.logits_input.row_range(begin, count), logits_block(count));
}

Status Rank::answer_rows(const StepBatch& batch, bool first_made, std::span<sampling::RowAnswer> answers, float* kept) {
  const int64_t width = share_.vocab.size(), most = backend_->logits_rows_at_once();
  const std::span<const sampling::RowWanted> all(batch.wanted);
  for (int64_t begin = 0; begin < batch.logits_rows; begin += most) {
    const int64_t count = std::min(most, batch.logits_rows - begin);
    const auto rows = all.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    if (!first_made || begin > 0) make_logits(begin, count);
    const kernels::Matrix block = logits_block(count);
    if (kept != nullptr && lm_head_ != nullptr) {
      BATON_TRY(backend_->finish());
      const float* logits = backend_->on_host(block);
      for (int64_t r = 0; r < count; ++r)
        std::copy_n(logits + r * width, width, kept + (begin + r) * config_.vocab + share_.vocab.begin);
    }
    if (std::all_of(rows.begin(), rows.end(), [](const auto& row) { return row.recipe == nullptr; })) continue;
    BATON_TRY(draw(rows, block, answers.subspan(static_cast<size_t>(begin), static_cast<size_t>(count))));
    if (begin + count < batch.logits_rows) BATON_TRY(stage_.all().barrier());
  }
  return backend_->finish();
}

void Rank::begin_draws(const StepBatch& batch, UnderWay* step) {
  using sampling::VocabularySampler;
  const std::span<const sampling::RowWanted> rows(batch.wanted);
  const bool whole = share_.layout.tp == 1, all = VocabularySampler::device_draws(rows, whole);
  const auto drawn = [whole](const sampling::RowWanted& wanted) {
    return wanted.recipe != nullptr && VocabularySampler::device_draws({&wanted, 1}, whole);
  };
  // A rank without a part of the vocabulary draws nothing: the others must not either.
  if (std::ranges::all_of(rows, [](const sampling::RowWanted& wanted) { return wanted.recipe == nullptr; })) return;
  // Ranks that share the vocabulary take the same turns for all rows.
  if (lm_head_ == nullptr || !(all || (whole && std::any_of(rows.begin(), rows.end(), drawn)))) return;
  draws_.clear();
  edits_.clear();
  for (const sampling::RowWanted& wanted : rows)
    draws_.push_back(drawn(wanted) ? sampling::draw_of(wanted, &edits_) : sampling::RowDraw{});
  step->draws = backend_->begin_draws(logits_block(batch.logits_rows), draws_, edits_);
  step->draws_all = step->draws && all;
}

bool Rank::may_follow(const StepBatch& batch) const {
  return repeats_ && share_.layout.world() == 1 && batch.rows > 0 && batch.logits_rows > 0 &&
         batch.logits_rows <= backend_->logits_rows_at_once() &&
         sampling::VocabularySampler::device_draws(batch.wanted, true) &&
         std::none_of(batch.wanted.begin(), batch.wanted.end(), [](const sampling::RowWanted& wanted) {
           return wanted.recipe != nullptr && wanted.recipe->reads_history();
         });
}

Status Rank::end_draws(const UnderWay& step, std::span<const sampling::RowWanted> rows,
                       std::span<sampling::RowAnswer> answers) {
  sampling::VocabularySampler& sampler = stage_.sampler();
  drawn_.resize(rows.size());
  BATON_TRY(backend_->end_draws(drawn_));
  sampler.reserve(share_.tp_rank, rows.size());
  for (size_t r = 0; r < rows.size(); ++r) sampler.take_drawn(share_.tp_rank, static_cast<int>(r), drawn_[r]);
  if (!step.draws_all) {
    rest_.assign(rows.begin(), rows.end());
    for (sampling::RowWanted& wanted : rest_) {
      if (wanted.recipe != nullptr && sampling::VocabularySampler::device_draws({&wanted, 1}, true))
        wanted.recipe = nullptr;
    }
    BATON_TRY(weigh(rest_, logits_block(static_cast<int64_t>(rows.size()))));
  }
  BATON_TRY(stage_.all().barrier());
  const LongInterval own = row_part({0, static_cast<int64_t>(rows.size())}, share_.layout.tp, share_.tp_rank);
  sampler.finish(rows, {static_cast<int>(own.begin), static_cast<int>(own.end)}, answers);
  return {};
}

Status Rank::draw(std::span<const sampling::RowWanted> rows, const kernels::Matrix& block,
                  std::span<sampling::RowAnswer> answers) {
  stage_.sampler().reserve(share_.tp_rank, rows.size());
  BATON_TRY(weigh(rows, block));
  const LongInterval own = row_part({0, static_cast<int64_t>(rows.size())}, share_.layout.tp, share_.tp_rank);
  stage_.sampler().finish(rows, {static_cast<int>(own.begin), static_cast<int>(own.end)}, answers);
  return {};
}

Status Rank::weigh(std::span<const sampling::RowWanted> rows, const kernels::Matrix& block) {
  using sampling::VocabularySampler;
  VocabularySampler& sampler = stage_.sampler();
  const int count = static_cast<int>(rows.size());
  BATON_TRY(backend_->finish());
  const float* logits = lm_head_ == nullptr ? nullptr : backend_->on_host(block);
  // Every rank takes the same turns, since they depend on what is wanted alone.
  const auto on_all_rows = [&](auto call) -> Status {
    kernels::on_gemm_threads([&](int part, int parts) {
      const LongInterval some = row_part({0, count}, parts, part);
      (sampler.*call)(share_.tp_rank, rows, {static_cast<int>(some.begin), static_cast<int>(some.end)}, logits,
                      block.columns);
    });
    return stage_.all().barrier();
  };
  BATON_TRY(on_all_rows(&VocabularySampler::find_best));
  if (VocabularySampler::needs_weights(rows)) BATON_TRY(on_all_rows(&VocabularySampler::weigh));
  if (VocabularySampler::needs_picks(rows)) BATON_TRY(on_all_rows(&VocabularySampler::pick));
  return {};
}

Status Rank::compute(const RankStep& step, LongInterval own) {
  const tensor::DType sums_type = backend_->sums();
  const int64_t hidden = config_.hidden;
  const kernels::Matrix attention_partial =
      attention_partial_.matrix(*backend_, sums_type, step.group.rows.size(), hidden);
  const kernels::Matrix ffn_partial = ffn_partial_.matrix(*backend_, sums_type, step.batch.rows, hidden);
  const Interval layers = stage_.layers();
  if (stage_.is_first()) backend_->look_up(*embedding_, inputs_.tokens_at, activations_.hidden);
  backend_->rms_norm(activations_.hidden, layer(layers.begin).attention_norm, static_cast<float>(config_.rms_eps),
                     activations_.normed.row_range(own.begin, own.size()));
  BATON_TRY(begin_attention(layers.begin, step, own));
  for (int i = layers.begin; i < layers.end; ++i) {
    layer(i).attention->forward(step, activations_, pool_, scratch_, attention_partial);
    const comm::RowBounds of_group = owners_.of_group(share_.at.dp_rank, share_.layout.attn_tp());
    if (layer(i).gate == nullptr || owners_.everywhere) {
      BATON_TRY(end_block(*comms_.attention, attention_partial, of_group, &layer(i).ffn_norm, own));
      BATON_TRY(begin_ffn(i, nullptr, own));
    } else {
      BATON_TRY(comms_.attention->reduce_scatter(attention_partial.data, attention_partial.dtype, of_group,
                                                 attention_partial.columns));
      const kernels::Matrix sums = attention_partial.row_range(own.begin - of_group[0], own.size());
      BATON_TRY(begin_ffn(i, &sums, own));
    }

    layer(i).ffn->forward(step, activations_, scratch_, ffn_partial);
    const bool last = i + 1 == layers.end;
    BATON_TRY(end_block(*comms_.stage, ffn_partial, owners_.rows, last ? nullptr : &layer(i + 1).attention_norm, own));
    if (!last) BATON_TRY(begin_attention(i + 1, step, own));
  }
  return stage_.is_last() ? end_model() : Status();
}

Status Rank::begin(const StepBatch& batch, std::span<const sampling::RowAnswer> before, bool keeps) {
  owners_.cut(batch, share_.layout.attn_tp());
  // Whoever follows a reference meets each row once.
  owners_.everywhere = share_.layout.dp == 1 && repeats_ &&
                       comms_.stage->sums_everywhere(
                           batch.rows, config_.hidden * static_cast<int64_t>(tensor::dtype_size(backend_->sums())));
  const LongInterval own = owners_.of(share_.tp_rank);
  const RankStep step(batch, share_.at.dp_rank, *backend_);
  activations_.grow(*backend_, batch, own.size(), owners_.logits_of(share_.tp_rank).size(), config_, share_.layout);
  upload_inputs(batch, own, before);
  UnderWay& now = under_way_.emplace_back();
  now.with_logits = stage_.is_last() && batch.logits_rows <= backend_->logits_rows_at_once();
  const bool recordable = comms_.attention->recordable() && comms_.stage->recordable();
  // Memory that grew for this step is there: from now on ranks wait for each other on their cards.
  if (recordable && share_.layout.tp > 1) BATON_TRY(stage_.all().barrier());
  comm::Comm& pipeline = *comms_.pipeline;
  const std::span hidden(static_cast<std::byte*>(activations_.hidden.data),
                         static_cast<size_t>(own.size()) * activations_.hidden.row_bytes());
  if (!stage_.is_first()) BATON_TRY(pipeline.receive(pipeline.rank() - 1, hidden));
  // Of decode alone: what a prompt is computed with depends on its length and on what is cached.
  const bool repeats = repeats_ && recordable && batch.is_decode;
  const auto operations = [&]() -> Status {
    BATON_TRY(compute(step, own));
    if (now.with_logits) make_logits(0, batch.logits_rows);
    return {};
  };
  BATON_TRY(backend_->run(owners_.shape(batch.logits_rows), repeats, operations));
  if (!stage_.is_last()) return pipeline.send(pipeline.rank() + 1, hidden);
  if (!keeps && now.with_logits && batch.logits_rows > 0) begin_draws(batch, &now);
  return {};
}

Status Rank::end(const StepBatch& batch, std::span<sampling::RowAnswer> answers, float* kept) {
  const UnderWay now = under_way_.front();
  under_way_.pop_front();
  if (now.draws) return end_draws(now, batch.wanted, answers);
  if (!stage_.is_last()) return backend_->finish();
  return answer_rows(batch, now.with_logits, answers, kept);
}

}  // namespace baton::model
