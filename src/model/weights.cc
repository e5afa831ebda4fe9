#include "model/weights.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>

namespace baton::model {

namespace {

constexpr int kQuantBlock = 128;  // of --quantization fp8

// Per element: routed and shared experts dominate, then attention; embeddings are not loaded but mapped.
uint64_t attention_parameters(const ModelConfig& c) {
  const auto hidden = static_cast<uint64_t>(c.hidden);
  const auto heads = static_cast<uint64_t>(c.heads);
  if (!c.is_mla()) {
    const auto head_dim = static_cast<uint64_t>(c.head_dim);
    return hidden * head_dim * 2 * (heads + static_cast<uint64_t>(c.kv_heads));
  }
  const auto qk = static_cast<uint64_t>(c.qk_nope + c.qk_rope);
  const auto q_lora = static_cast<uint64_t>(c.q_lora);
  const uint64_t q = q_lora > 0 ? q_lora * (hidden + heads * qk) : hidden * heads * qk;
  const uint64_t kv = static_cast<uint64_t>(c.kv_lora + c.qk_rope) * hidden +
                      static_cast<uint64_t>(c.kv_lora) * heads * static_cast<uint64_t>(c.qk_nope + c.v_head);
  return q + kv + heads * static_cast<uint64_t>(c.v_head) * hidden;
}

}  // namespace

uint64_t parameter_count(const ModelConfig& c) {
  // In 128 bits: the largest values that a config may state give more than 64.
  using Wide = unsigned __int128;
  const auto hidden = static_cast<Wide>(c.hidden);
  const auto experts = static_cast<Wide>(c.moe.experts);
  Wide total = hidden * static_cast<Wide>(c.vocab) + hidden;  // lm_head and the last norm
  for (int layer = 0; layer < c.layers; ++layer) {
    total += attention_parameters(c) + 2 * hidden;
    if (c.layer_is_moe[static_cast<size_t>(layer)]) {
      total += 3 * hidden * static_cast<Wide>(c.moe.expert_ffn) * (experts + static_cast<Wide>(c.moe.shared_experts));
      total += experts * hidden;
    } else {
      total += 3 * hidden * static_cast<Wide>(c.ffn);
    }
  }
  return static_cast<uint64_t>(std::min<Wide>(total, kParametersMax));
}

struct Weights::Progress {
  std::function<void(uint64_t, uint64_t)> report;
  uint64_t element_bytes = 2;
  uint64_t total = 0;  // bytes
  std::mutex mutex;
  uint64_t done = 0;
  std::set<std::string> vectors;  // that were read: ranks share none of them
};

Result<std::unique_ptr<Weights>> Weights::open(const ExecutorOptions& options, const ModelConfig& config) {
  static std::atomic<uint64_t> opened{0};
  std::unique_ptr<Weights> weights(new Weights());
  weights->number_ = ++opened;
  if (options.load_format == LoadFormat::kDummy) {
    weights->source_ = make_dummy_weights(options.seed);
  } else {
    BATON_ASSIGN(weights->source_, open_checkpoint_weights(options.model_path, config.fp8_block));
  }
  weights->quantize_ = options.quantize_fp8 && !(config.fp8_weights && options.load_format == LoadFormat::kAuto);
  weights->progress_ = std::make_shared<Progress>();
  weights->progress_->report = options.progress;
  weights->progress_->element_bytes = config.fp8_weights ? 1 : tensor::dtype_size(config.torch_dtype);
  weights->progress_->total = parameter_count(config) * weights->progress_->element_bytes;
  return weights;
}

void Weights::count(int64_t elements) const {
  if (!progress_->report) return;
  std::lock_guard lock(progress_->mutex);
  progress_->done =
      std::min(progress_->done + static_cast<uint64_t>(elements) * progress_->element_bytes, progress_->total - 1);
  progress_->report(progress_->done, progress_->total);
}

bool Weights::first_read(const std::string& vector) const {
  std::lock_guard lock(progress_->mutex);
  return progress_->vectors.insert(vector).second;
}

void Weights::finish_progress() const {
  if (!progress_->report) return;
  std::lock_guard lock(progress_->mutex);
  progress_->report(progress_->total, progress_->total);
}

tensor::MatrixSlice Weights::named(std::string_view form, const std::string& name, Interval rows, Interval cols,
                                   tensor::MatrixSlice slice) const {
  slice.identity =
      fmt::format("{} {} {} [{}, {}) [{}, {})", number_, form, name, rows.begin, rows.end, cols.begin, cols.end);
  const int64_t size = slice.stored_rows * slice.stored_cols;
  const auto counted = [this, size](auto make) {
    return [this, size, make = std::move(make)] {
      auto made = make();
      count(size);
      return made;
    };
  };
  if (slice.unquantized != nullptr) {
    // The one or the other is called, so that each counts.
    auto whole = *slice.unquantized;
    if (whole.uniform != nullptr) whole.uniform = counted(whole.uniform);
    whole.stored = counted(whole.stored);
    slice.unquantized = std::make_shared<const tensor::MatrixSlice>(std::move(whole));
  }
  if (slice.uniform != nullptr) slice.uniform = counted(slice.uniform);
  slice.stored = counted(slice.stored);
  return slice;
}

Result<tensor::MatrixSlice> Weights::matrix(const std::string& name, int64_t n, int64_t k, Interval rows,
                                            Interval cols) const {
  BATON_ASSIGN(tensor::MatrixSlice slice, source_->matrix(name, n, k, rows, cols));
  return named("as stored", name, rows, cols, std::move(slice));
}

Result<tensor::MatrixSlice> Weights::table(const std::string& name, int64_t n, int64_t k) const {
  return source_->table(name, n, k);  // not counted, as parameter_count() does not
}

Result<std::vector<float>> Weights::vector(const std::string& name, int64_t n, Interval range) const {
  BATON_ASSIGN(std::vector<float> w, source_->vector(name, n, range));
  if (first_read(fmt::format("{} [{}, {})", name, range.begin, range.end))) count(range.size());
  return w;
}

Result<tensor::MatrixSlice> Weights::linear(const std::string& name, int64_t n, int64_t k, Interval rows,
                                            Interval cols) const {
  if (!quantize_) return matrix(name, n, k, rows, cols);
  const auto widen = [](Interval i, int64_t size) {
    const int end = (i.end + kQuantBlock - 1) / kQuantBlock * kQuantBlock;
    return Interval{i.begin / kQuantBlock * kQuantBlock, static_cast<int>(std::min<int64_t>(end, size))};
  };
  const Interval wide_rows = widen(rows, n), wide_cols = widen(cols, k);
  BATON_ASSIGN(const tensor::MatrixSlice wide, source_->matrix(name, n, k, wide_rows, wide_cols));
  const auto within = [](Interval i, Interval all) { return LongInterval{i.begin - all.begin, i.end - all.begin}; };
  tensor::MatrixSlice slice;
  slice.stored_rows = rows.size();
  slice.stored_cols = cols.size();
  slice.dtype = tensor::DType::kF8E4M3;
  slice.unquantized = std::make_shared<const tensor::MatrixSlice>(wide);
  slice.block = {kQuantBlock, kQuantBlock};
  slice.rows_of_unquantized = within(rows, wide_rows);
  slice.cols_of_unquantized = within(cols, wide_cols);
  slice.stored = [wide = wide.stored, block = slice.block, own_rows = slice.rows_of_unquantized,
                  own_cols = slice.cols_of_unquantized] {
    return tensor::quantize_fp8(wide(), block).cut(own_rows, own_cols);
  };
  return named("quantized", name, rows, cols, std::move(slice));
}

}  // namespace baton::model
