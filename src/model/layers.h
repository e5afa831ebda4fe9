// The parts of a decoder layer. A part that has no dimension to split (norms, gates, MLA's down-projections) is
// computed once per token, by the rank that owns the row, and gathered. A split part is computed by every rank over its
// share and leaves a partial sum.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "layout/layout.h"
#include "model/model_config.h"
#include "model/sharding.h"
#include "model/step_batch.h"
#include "model/weights.h"

namespace baton::model {

// A rank's activations. `hidden` has the rows that the rank owns; the others have a place for every row of the
// StepBatch, in which the owner writes its own and the others' are gathered (those of its DP group before attention,
// all before the FFN).
struct Activations {
  std::vector<float> hidden;         // (own rows, hidden): the residual stream
  std::vector<float> normed;         // (rows, hidden): input of the current block
  std::vector<float> q_latent;       // (rows, q_lora): MLA
  std::vector<float> kv_entry;       // (rows, kv_lora + qk_rope): MLA's new KV
  std::vector<int32_t> expert;       // (rows, experts_per_token): MoE
  std::vector<float> expert_weight;  // (rows, experts_per_token)
  std::vector<float> final_rows;     // (logits rows, hidden): normed for the logits, in the order of the batch
  std::vector<float> logits_input;   // (logits rows, hidden): the same in the order of the result's logits

  void grow(const StepBatch& batch, int64_t own_rows, const ModelConfig& config);
};

// What a rank computes with and nobody else reads; buffers grow to a high-water mark and stay.
struct RankBuffers {
  std::vector<float> query, absorbed_query, attention, latent;  // attention
  std::vector<float> gate_up, activated;                        // FFN
};
// Room for n floats; what was there is lost.
[[nodiscard]] inline float* room(std::vector<float>& buffer, int64_t n) {
  if (buffer.size() < static_cast<size_t>(n)) buffer.resize(static_cast<size_t>(n));
  return buffer.data();
}

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
  virtual void prepare(const StepBatch& batch, LongInterval rows, Activations& activations) const = 0;
};

// A rank's heads of one layer.
class Attention {
 public:
  virtual ~Attention() = default;
  // partial (rows of the group, hidden) = this rank's addend of the block's output. Writes the KV of the group's
  // tokens.
  virtual void forward(const StepBatch& batch, const StepBatch::GroupRows& group, const Activations& activations,
                       const KvPool& pool, RankBuffers& scratch, float* partial) const = 0;
};

// A rank's columns or experts of one layer.
class FeedForward {
 public:
  virtual ~FeedForward() = default;
  // partial (rows, hidden) = this rank's addend.
  virtual void forward(int64_t rows, const Activations& activations, RankBuffers& scratch, float* partial) const = 0;
};

// What loading one layer on one rank needs.
class RoutingReference;

struct LayerContext {
  const Weights& weights;
  const ModelConfig& config;
  const RankShare& share;
  kernels::Compute compute;
  int layer = 0;
  RoutingReference* routing = nullptr;  // may be null
  std::vector<float>& staging;          // where a weight lies until it is packed; the same memory for all of them
  [[nodiscard]] std::string name(std::string_view suffix) const {
    return fmt::format("model.layers.{}.{}", layer, suffix);
  }
};

// Loads rows x cols of a weight (n, k).
Result<kernels::Linear> load_linear(const LayerContext& c, std::string_view name, int64_t n, int64_t k, Interval rows,
                                    Interval cols);
[[nodiscard]] constexpr Interval whole(int n) { return {0, n}; }
// The columns or rows of `heads`, each `width` wide.
[[nodiscard]] constexpr Interval scaled(Interval heads, int width) { return {heads.begin * width, heads.end * width}; }

}  // namespace baton::model
