// A pipeline stage: its ranks' weights and one pass of its layers.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "comm/rank_group.h"
#include "model/layers.h"
#include "model/moe.h"
#include "model/row_owners.h"
#include "sampling/vocabulary_sampler.h"

namespace baton::model {

// The groups in which a rank exchanges data: its stage, its DP group within the stage, and the ranks of its place in
// all stages.
struct RankComms {
  std::unique_ptr<comm::Comm> stage, attention, pipeline;
};

// What the ranks of a stage share: the groups they meet in. What is not split of a layer's weights every rank asks for,
// and its backend knows whether they share the memory.
//
// The rows of a DP group are cut over its ranks; the rank that has a row "owns" it. A layer is done in these steps:
//
// 1. Every rank: attention of its DP group's rows with its own heads, which gives partial sums.
// 2. Reduced and scattered over the DP group. Owners: add the sums to `hidden`, norm, choose experts.
// 3. Gathered over the stage. Every rank: its share of the FFN or of the experts for the rows of all groups, which
//    gives partial sums.
// 4. Reduced and scattered over the stage. Owners: add, norm, and the unsplit part of the next layer's attention.
// 5. Gathered over the DP group, the next layer begins.
//
// Where every rank owns all rows (RowOwners::everywhere) there is nothing to scatter or gather: 2 and 4 are one sum on
// every rank.
//
// A group without rows takes part. After its last layer a rank sends its rows of `hidden` to the rank of its place in
// the next stage.
//
// After the last layer every rank has the logits of its part of the vocabulary, and the ranks make tokens of them
// together (sampling/vocabulary_sampler.h).
class Stage {
 public:
  // pipelines[r]: the ranks number r of all stages.
  using Pipelines = std::vector<std::unique_ptr<comm::RankGroup>>;
  Stage(const layout::Layout& layout, const ModelConfig& config, int stage, const Pipelines& pipelines,
        int64_t everywhere_bytes_max);

  [[nodiscard]] comm::RankGroup& all() { return all_; }
  [[nodiscard]] RankComms comms(const RankShare& share, device::Home home, kernels::Backend& backend);
  // Of all groups of the stage's ranks, so that other stages end, too.
  void abort(const Error& failure);

  [[nodiscard]] Interval layers() const { return interval_; }
  [[nodiscard]] bool is_first() const { return interval_.begin == 0; }
  [[nodiscard]] bool is_last() const { return interval_.end == config_.layers; }
  [[nodiscard]] sampling::VocabularySampler& sampler() { return *sampler_; }

 private:
  const ModelConfig& config_;
  Interval interval_;
  comm::RankGroup all_;
  std::vector<std::unique_ptr<comm::RankGroup>> attention_groups_;
  const Pipelines& pipelines_;
  int64_t everywhere_bytes_max_;
  std::unique_ptr<sampling::VocabularySampler> sampler_;  // last stage
};

// One rank: its weights, its pages, its activations. Used by its thread.
class Rank {
 public:
  Rank(Stage& stage, const ModelConfig& config, const RankShare& share, KvPool pool, kernels::Compute compute,
       device::Home home, std::unique_ptr<kernels::Backend> backend)
      : stage_(stage),
        config_(config),
        share_(share),
        comms_(stage.comms(share, home, *backend)),
        pool_(pool),
        compute_(compute),
        backend_(std::move(backend)) {}

  // Loads this rank's share.
  Status load(const Weights& weights, RoutingReference* routing);
  // This rank's part of the stage's pass, in two calls. `before`: the answers of the step before, for tokens that it
  // drew; empty if it has not ended, and the device knows them. In the last stage the rows of logits become `answers`;
  // `kept` (logits rows, vocab), if not null, gets this rank's columns.
  Status begin(const StepBatch& batch, std::span<const sampling::RowAnswer> before, bool keeps);
  Status end(const StepBatch& batch, std::span<sampling::RowAnswer> answers, float* kept);
  // Whether the device still works on the oldest step that has begun and not ended, and draws its tokens itself.
  [[nodiscard]] bool draws_under_way() { return under_way_.front().draws_all && !backend_->draws_ended(); }
  // Whether a step may be begun while the one before it, whose tokens the device draws, has not ended: nothing of it
  // depends on what only the answers' taking tells.
  [[nodiscard]] bool may_follow(const StepBatch& batch) const;
  // backend.h
  [[nodiscard]] int64_t busy_ns() const { return backend_->busy_ns(); }

 private:
  struct Layer {
    kernels::Constants<float> attention_norm, ffn_norm;  // (hidden)
    std::unique_ptr<AttentionPreparation> preparation;
    std::unique_ptr<ExpertGate> gate;  // of a MoE layer
    std::unique_ptr<Attention> attention;
    std::unique_ptr<FeedForward> ffn;
  };
  Result<Layer> load_layer(const LayerContext& context);
  Status load_ends(const Weights& weights);
  [[nodiscard]] const Layer& layer(int i) const { return layers_[static_cast<size_t>(i - share_.layers.begin)]; }
  // The rows are those that this rank owns.
  //
  // What the operations read beside the step: the tokens, and which rows have logits.
  void upload_inputs(const StepBatch& batch, LongInterval rows, std::span<const sampling::RowAnswer> before);
  // From the tokens, or from `hidden` of the stage before, to the normed rows of the logits, or to `hidden`.
  Status compute(const RankStep& step, LongInterval rows);
  // When `normed` has the rows.
  Status begin_attention(int layer, const RankStep& step, LongInterval rows);
  // When `normed` has the rows, or, of a layer with experts, from the `sums` that attention adds to them.
  Status begin_ffn(int layer, const kernels::Matrix* sums, LongInterval rows);
  Status end_model();
  // Logits of rows [begin, begin + count) of those that have some, of the rank's part of the vocabulary.
  [[nodiscard]] kernels::Matrix logits_block(int64_t count);
  void make_logits(int64_t begin, int64_t count);
  // From the normed rows to answers; of the first block the logits may be made already. The ranks meet several times.
  Status answer_rows(const StepBatch& batch, bool first_made, std::span<sampling::RowAnswer> answers, float* kept);
  struct UnderWay {
    bool with_logits = false;  // they are made
    bool draws = false;        // the device draws
    bool draws_all = false;    // every token of the step
  };
  // By the device, from the logits of all rows: `draws` and `draws_all`.
  void begin_draws(const StepBatch& batch, UnderWay* step);
  Status end_draws(const UnderWay& step, std::span<const sampling::RowWanted> rows,
                   std::span<sampling::RowAnswer> answers);
  // What is wanted of some rows, from their logits, by the processor; and all of it but the answers.
  Status draw(std::span<const sampling::RowWanted> rows, const kernels::Matrix& logits,
              std::span<sampling::RowAnswer> answers);
  Status weigh(std::span<const sampling::RowWanted> rows, const kernels::Matrix& logits);
  // Of the rank's rows: hidden += the sums of `partial` over the ranks of `comm`, and then, but for the last block,
  // normed = rms_norm(hidden).
  Status end_block(comm::Comm& comm, const kernels::Matrix& partial, comm::RowBounds bounds,
                   const kernels::Constants<float>* next_norm, LongInterval own);
  Status gather(comm::Comm& comm, std::span<const comm::RowBuffer> buffers, comm::RowBounds bounds);

  Stage& stage_;
  const ModelConfig& config_;
  RankShare share_;
  RankComms comms_;
  KvPool pool_;
  kernels::Compute compute_;
  std::unique_ptr<kernels::Backend> backend_;
  std::vector<Layer> layers_;
  std::shared_ptr<const kernels::Table> embedding_;  // (vocab, hidden); first stage
  kernels::Constants<float> final_norm_;             // last stage
  kernels::WeightPtr lm_head_;  // (local vocab, hidden); last stage, or none without tokens of the vocabulary
  RowOwners owners_;            // of the pass
  Activations activations_;
  RankBuffers scratch_;
  // Two, since ranks of other groups may still read the FFN's while this rank's next attention writes.
  kernels::GrowingMemory attention_partial_, ffn_partial_;
  kernels::GrowingMemory logits_;  // (rows of a block, local vocab)
  bool repeats_ = false;           // nobody but ranks and their backends takes part in a step
  // Of the step under way, here and in the backend's memory.
  struct Inputs {
    std::vector<int32_t> tokens;         // of the rank's rows
    std::vector<int32_t> own_logits;     // which of the rank's rows have logits
    std::vector<int32_t> logits_source;  // (logits rows): where each is among final_rows
    const int32_t *tokens_at = nullptr, *own_logits_at = nullptr, *logits_source_at = nullptr;
  } inputs_;
  std::deque<UnderWay> under_way_;  // steps begun and not ended, two at the most
  std::vector<sampling::RowDraw> draws_;
  std::vector<sampling::LogitEdit> edits_;
  std::vector<sampling::RowDrawn> drawn_;
  std::vector<sampling::RowWanted> rest_;  // of the rows that the device does not draw
};

}  // namespace baton::model
