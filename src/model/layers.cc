#include "model/layers.h"

namespace baton::model {

RankStep::RankStep(const StepBatch& step, int dp_rank, kernels::Backend& with)
    : batch(step), group(step.groups[static_cast<size_t>(dp_rank)]), backend(with) {
  backend.begin_step();
  cos = backend.upload(std::span<const float>(batch.cos));
  sin = backend.upload(std::span<const float>(batch.sin));
  pages = backend.upload(std::span<const uint32_t>(batch.pages));
  all = backend.sequences(batch.all(group));
  absorbed = backend.sequences(batch.absorbed(group));
  expanded = backend.sequences(batch.expanded(group));
}

void Activations::grow(kernels::Backend& backend, const StepBatch& batch, int64_t own_rows, int64_t own_logits_rows,
                       const ModelConfig& config, const layout::Layout& layout) {
  const tensor::DType dtype = backend.activations(), sums = backend.sums();
  const int64_t rows = batch.rows, width = config.hidden;
  hidden = hidden_.matrix(backend, sums, own_rows, width);
  normed = normed_.matrix(backend, dtype, rows, width);
  if (config.is_mla()) {
    const int columns = prepared_query(config, layout), entry = config.kv_lora + config.qk_rope;
    prepared = prepared_.matrix(backend, dtype, rows, columns + entry);
    query = prepared.column_range(0, columns);
    kv_entry = prepared.column_range(columns, entry);
  }
  expert = expert_.room<int32_t>(backend, rows * config.moe.experts_per_token);
  expert_weight = expert_weight_.room<float>(backend, rows * config.moe.experts_per_token);
  final_hidden = final_hidden_.matrix(backend, sums, own_logits_rows, width);
  final_rows = final_rows_.matrix(backend, dtype, batch.logits_rows, width);
  logits_input = logits_input_.matrix(backend, dtype, batch.logits_rows, width);
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

Result<kernels::WeightPtr> load_linear(const LayerContext& c, std::string_view name, int64_t n, int64_t k,
                                       Interval rows, Interval cols) {
  BATON_ASSIGN(const tensor::MatrixSlice weight, c.weights.linear(c.name(name), n, k, rows, cols));
  return c.backend.weight(weight, c.compute);
}

Result<kernels::Constants<float>> load_vector(const LayerContext& c, std::string_view name, int64_t n, Interval range) {
  BATON_ASSIGN(const std::vector<float> values, c.weights.vector(c.name(name), n, range));
  return c.backend.constants(std::span<const float>(values));
}

}  // namespace baton::model
