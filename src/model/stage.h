// A pipeline stage: its ranks' weights and one pass of its layers.
#pragma once

#include <memory>
#include <vector>

#include "comm/rank_group.h"
#include "model/layers.h"
#include "model/moe.h"
#include "sampling/vocabulary_sampler.h"

namespace baton::model {

// What the ranks of a stage share: the groups they meet in, and the weights that are not split.
//
// The rows of a DP group are cut over its ranks; the rank that has a row "owns" it. A layer is done in these steps:
//
// 1. Every rank: attention of its DP group's rows with its own heads, which gives partial sums.
// 2. After a barrier of the DP group, owners: add the partial sums to `hidden` in rank order, norm, choose experts.
// 3. After a barrier of the stage, every rank: its share of the FFN or of the experts for the rows of all groups (they
//    need no gathering, being in shared memory), which gives partial sums.
// 4. After a barrier of the stage, owners: add, norm, and the unsplit part of the next layer's attention.
// 5. After a barrier of the DP group, the next layer begins.
//
// After the last layer every rank has the logits of its part of the vocabulary, and the ranks make tokens of them
// together (sampling/vocabulary_sampler.h).
class Stage {
 public:
  Stage(const layout::Layout& layout, const ModelConfig& config, int stage);

  [[nodiscard]] comm::RankGroup& all() { return all_; }
  [[nodiscard]] comm::RankGroup& attention_group(int dp_rank) {
    return *attention_groups_[static_cast<size_t>(dp_rank)];
  }
  void abort(const Error& failure);

  // Weights of one layer that no rank splits.
  struct SharedLayer {
    std::vector<float> attention_norm, ffn_norm;  // (hidden)
    std::unique_ptr<AttentionPreparation> preparation;
    std::unique_ptr<ExpertGate> gate;  // of a MoE layer
  };
  Status load_shared_layer(const LayerContext& context);
  Status load_ends(const Weights& weights);

  [[nodiscard]] const SharedLayer& layer(int i) const { return layers_[static_cast<size_t>(i - interval_.begin)]; }
  [[nodiscard]] Interval layers() const { return interval_; }
  [[nodiscard]] bool is_first() const { return interval_.begin == 0; }
  [[nodiscard]] bool is_last() const { return interval_.end == config_.layers; }
  [[nodiscard]] const RowReader& embedding() const { return embedding_; }
  [[nodiscard]] const std::vector<float>& final_norm() const { return final_norm_; }
  [[nodiscard]] sampling::VocabularySampler& sampler() { return *sampler_; }

 private:
  const ModelConfig& config_;
  Interval interval_;
  comm::RankGroup all_;
  std::vector<std::unique_ptr<comm::RankGroup>> attention_groups_;
  std::vector<SharedLayer> layers_;
  RowReader embedding_;                                   // first stage
  std::vector<float> final_norm_;                         // last stage
  std::unique_ptr<sampling::VocabularySampler> sampler_;  // last stage
};

// One rank: its weights, its pages, its scratch. Used by its thread.
class Rank {
 public:
  Rank(Stage& stage, const ModelConfig& config, const RankShare& share, KvPool pool, kernels::Compute compute)
      : stage_(stage), config_(config), share_(share), pool_(pool), compute_(compute) {}

  // Loads this rank's share, and of the stage's shared layers every tp-th. The stage is complete when all its ranks
  // have returned.
  Status load(const Weights& weights, RoutingReference* routing);
  // This rank's part of the stage's pass. `before`: the answers of the step before, for tokens that it drew. In the
  // last stage the rows of logits become `answers`; `kept` (logits rows, vocab), if not null, gets this rank's columns.
  Status forward(const StepBatch& batch, Activations& activations, std::span<const sampling::RowAnswer> before,
                 std::span<sampling::RowAnswer> answers, float* kept);

 private:
  struct Layer {
    std::unique_ptr<Attention> attention;
    std::unique_ptr<FeedForward> ffn;
  };
  void embed(const StepBatch& batch, LongInterval rows, std::span<const sampling::RowAnswer> before,
             Activations& activations) const;
  void begin_attention(int layer, const StepBatch& batch, LongInterval rows, Activations& activations) const;
  void begin_ffn(int layer, LongInterval rows, Activations& activations) const;
  void end_stage(const StepBatch& batch, LongInterval rows, Activations& activations) const;
  // From the normed rows to answers. The ranks meet several times.
  Status answer_rows(const StepBatch& batch, const Activations& activations, std::span<sampling::RowAnswer> answers,
                     float* kept);
  // hidden[rows] += the partial sums, which begin at row `first`.
  void add_partials(std::span<const comm::RankGroup::Pointers> partials, int64_t first, LongInterval rows,
                    Activations& activations);

  Stage& stage_;
  const ModelConfig& config_;
  RankShare share_;
  KvPool pool_;
  kernels::Compute compute_;
  std::vector<Layer> layers_;
  kernels::Linear lm_head_;  // (local vocab, hidden); last stage
  RankBuffers scratch_;
  // Two, since ranks of other groups may still read the FFN's while this rank's next attention writes.
  std::vector<float> attention_partial_, ffn_partial_, sum_;
  std::vector<float> logits_;  // (rows of a block, local vocab)
};

}  // namespace baton::model
