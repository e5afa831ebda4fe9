#include "model/layers.h"

namespace baton::model {

void Activations::grow(const StepBatch& batch, int64_t own_rows, const ModelConfig& config) {
  const int64_t rows = batch.rows;
  (void)room(hidden, own_rows * config.hidden);
  (void)room(normed, rows * config.hidden);
  if (config.is_mla()) {
    (void)room(q_latent, rows * config.q_lora);
    (void)room(kv_entry, rows * (config.kv_lora + config.qk_rope));
  }
  const auto choices = static_cast<size_t>(rows * config.moe.experts_per_token);
  if (expert.size() < choices) expert.resize(choices);
  (void)room(expert_weight, rows * config.moe.experts_per_token);
  (void)room(final_rows, batch.logits_rows * config.hidden);
  (void)room(logits_input, batch.logits_rows * config.hidden);
}

kernels::PagedKv KvPool::view(int layer, const uint32_t* pages) const {
  kernels::PagedKv kv;
  kv.pool = data;
  kv.page_stride = shape.page_bytes();
  kv.head_stride = shape.head_bytes();
  kv.layer_offset = static_cast<size_t>(layer - shape.layers.begin) * shape.layer_bytes();
  kv.v_offset = shape.v_offset();
  kv.pages = pages;
  kv.page_tokens = shape.page_tokens;
  kv.k_dim = shape.geometry.k_dim;
  kv.v_dim = shape.geometry.v_dim;
  kv.dtype = dtype;
  return kv;
}

Result<kernels::Linear> load_linear(const LayerContext& c, std::string_view name, int64_t n, int64_t k, Interval rows,
                                    Interval cols) {
  const int64_t size = int64_t{rows.size()} * cols.size();
  float* w = room(c.staging, size);
  BATON_TRY(c.weights.linear(c.name(name), n, k, rows, cols, w));
  return kernels::Linear({w, static_cast<size_t>(size)}, rows.size(), cols.size(), c.compute);
}

}  // namespace baton::model
