// The parts of a decoder layer. A part that has no dimension to split (norms, gates, MLA's down-projections) is
// computed once per token, by the rank that owns the row, and gathered. A split part is computed by every rank over its
// share and leaves a partial sum.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "layout/layout.h"
#include "model/model_config.h"
#include "model/sharding.h"
#include "model/step_batch.h"
#include "model/weights.h"

namespace baton::model {

// A step as the operations of one rank take it: the batch, the rows of the rank's DP group, and what of them lies in
// the backend's memory.
struct RankStep {
  const StepBatch& batch;
  const StepBatch::GroupRows& group;
  kernels::Backend& backend;
  const float* cos = nullptr;                  // (rows, rope half)
  const float* sin = nullptr;                  // (rows, rope half)
  const uint32_t* pages = nullptr;             // the block table
  kernels::Sequences all, absorbed, expanded;  // of the group

  // Both arguments outlive the step.
  RankStep(const StepBatch& batch, int dp_rank, kernels::Backend& backend);
  // Of `matrix`, which has a place for every row of the batch.
  [[nodiscard]] kernels::Matrix of_group(const kernels::Matrix& matrix) const {
    return matrix.row_range(group.rows.begin, group.rows.size());
  }
};

// A rank's activations. `hidden` has the rows that the rank owns; the others have a place for every row of the
// StepBatch, in which the owner writes its own and the others' are gathered (those of its DP group before attention,
// all before the FFN).
struct Activations {
  kernels::Matrix hidden;          // (own rows, hidden): the residual stream
  kernels::Matrix normed;          // (rows, hidden): input of the current block
  kernels::Matrix prepared;        // (rows, columns of the next two): MLA
  kernels::Matrix query;           // (rows, prepared_query()): of these, latents of the queries, or themselves
  kernels::Matrix kv_entry;        // (rows, kv_lora + qk_rope): and the new KV, not normed or turned yet
  int32_t* expert = nullptr;       // (rows, experts_per_token): MoE
  float* expert_weight = nullptr;  // (rows, experts_per_token)
  kernels::Matrix final_hidden;    // (own logits rows, hidden): of `hidden`, for the last norm
  kernels::Matrix final_rows;      // (logits rows, hidden): normed for the logits, in the order of the batch
  kernels::Matrix logits_input;    // (logits rows, hidden): the same in the order of the result's logits

  void grow(kernels::Backend& backend, const StepBatch& batch, int64_t own_rows, int64_t own_logits_rows,
            const ModelConfig& config, const layout::Layout& layout);

 private:
  kernels::GrowingMemory hidden_, normed_, prepared_, expert_, expert_weight_, final_hidden_, final_rows_,
      logits_input_;
};

// Columns that the owner of a row makes for its queries in one product with its KV entry: the queries' latents, or,
// where no rank has but a part of the heads, the queries. 0: every rank makes its part from `normed`.
[[nodiscard]] inline int prepared_query(const ModelConfig& config, const layout::Layout& layout) {
  if (config.q_lora > 0) return config.q_lora;
  return layout.attn_tp() == 1 ? config.heads * (config.qk_nope + config.qk_rope) : 0;
}

// What a rank computes with and nobody else reads.
struct RankBuffers {
  kernels::GrowingMemory query, absorbed_query, kv_entry, attention, latent;  // attention
  kernels::GrowingMemory gate_up, activated, gate_logits;                     // FFN
};
// The pages of one rank.
struct KvPool {
  std::byte* data = nullptr;
  layout::PageShape shape;
  tensor::DType dtype = tensor::DType::kBF16;
  // Where `layer` of the model finds the KV of sequences with this block table.
  [[nodiscard]] kernels::PagedKv view(int layer, const uint32_t* pages) const;
};

// Computed by the owner of a row, before the attention of a layer. None for GQA.
class AttentionPreparation {
 public:
  virtual ~AttentionPreparation() = default;
  // Reads `normed`, writes its own buffers of `activations`.
  virtual void prepare(const RankStep& step, LongInterval rows, Activations& activations) const = 0;
};

// A rank's heads of one layer.
class Attention {
 public:
  virtual ~Attention() = default;
  // partial (rows of the group, hidden) = this rank's addend of the block's output. Writes the KV of the group's
  // tokens.
  virtual void forward(const RankStep& step, const Activations& activations, const KvPool& pool, RankBuffers& scratch,
                       const kernels::Matrix& partial) const = 0;
};

// A rank's columns or experts of one layer.
class FeedForward {
 public:
  virtual ~FeedForward() = default;
  // partial (rows, hidden) = this rank's addend.
  virtual void forward(const RankStep& step, const Activations& activations, RankBuffers& scratch,
                       const kernels::Matrix& partial) const = 0;
};

// What loading one layer on one rank needs.
class RoutingReference;

struct LayerContext {
  const Weights& weights;
  kernels::Backend& backend;
  const ModelConfig& config;
  const RankShare& share;
  kernels::Compute compute;
  int layer = 0;
  RoutingReference* routing = nullptr;  // may be null
  [[nodiscard]] std::string name(std::string_view suffix) const {
    return fmt::format("model.layers.{}.{}", layer, suffix);
  }
};

// Loads rows x cols of a weight (n, k).
Result<kernels::WeightPtr> load_linear(const LayerContext& c, std::string_view name, int64_t n, int64_t k,
                                       Interval rows, Interval cols);
// Elements [range) of a vector of n.
Result<kernels::Constants<float>> load_vector(const LayerContext& c, std::string_view name, int64_t n, Interval range);
[[nodiscard]] inline kernels::RopePairs rope_pairs(const ModelConfig& config) {
  return config.rope_is_interleaved ? kernels::RopePairs::kInterleaved : kernels::RopePairs::kHalves;
}
[[nodiscard]] constexpr Interval whole(int n) { return {0, n}; }
// The columns or rows of `heads`, each `width` wide.
[[nodiscard]] constexpr Interval scaled(Interval heads, int width) { return {heads.begin * width, heads.end * width}; }

}  // namespace baton::model
