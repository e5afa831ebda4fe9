#include "kernels/cuda/card_weights.h"

#include <algorithm>
#include <atomic>
#include <optional>

#include "base/cuda/cuda_check.h"
#include "base/log.h"
#include "kernels/cuda/step_uploads.h"

namespace baton::kernels::cuda {
namespace {

// A slice in fp8, with its bytes or with what the card quantizes.
struct Fp8Part {
  const tensor::MatrixSlice* slice;
  tensor::StoredMatrix stored;  // data null: to be quantized
  tensor::ScaleBlock block;
  int64_t first_row, first_col;  // of the slice in its blocks
};

std::optional<Fp8Part> fp8_part(const tensor::MatrixSlice& slice) {
  if (slice.transposed || slice.dtype != tensor::DType::kF8E4M3) return std::nullopt;
  if (slice.unquantized != nullptr)
    return Fp8Part{&slice, {}, slice.block, slice.rows_of_unquantized.begin, slice.cols_of_unquantized.begin};
  tensor::StoredMatrix m = slice.stored();
  const tensor::BlockScales& s = m.scales;
  return Fp8Part{&slice, std::move(m), s.block, s.first_row, s.first_col};
}

// Whether [first, first + size) lies in one block.
bool in_one(int64_t first, int64_t size, int64_t block) { return first / block == (first + size - 1) / block; }

// The most rows, as a power of two, that have their scale in common wherever in the stack; null: columns do not.
std::optional<Fp8Layout> common_layout(std::span<const Fp8Part> parts) {
  Fp8Layout layout;
  layout.k = parts.front().slice->cols();
  if (layout.k % 8 != 0) return std::nullopt;
  const auto divides = [&](int64_t rows) { return rows % (int64_t{1} << layout.row_shift) == 0; };
  for (const Fp8Part& p : parts) {
    const bool one_across = in_one(p.first_col, layout.k, p.block.cols);
    if (!one_across && (p.first_col % kScaleBlock != 0 || p.block.cols % kScaleBlock != 0)) return std::nullopt;
    const bool one_down = in_one(p.first_row, p.slice->rows(), p.block.rows);
    while (!divides(layout.n) || (!one_down && !(divides(p.first_row) && divides(p.block.rows))))
      if (--layout.row_shift < 3) return std::nullopt;
    layout.n += p.slice->rows();
  }
  return layout;
}

void say_once(int64_t n, int64_t k) {
  static std::atomic<bool> said = false;
  if (!said.exchange(true))
    log_info(
        "float8 weights whose blocks are cut by this layout, or are no multiples of 8 rows by 128 columns, are kept in "
        "bfloat16: the first one is ({}, {})",
        n, k);
}

}  // namespace

template <class T>
std::shared_ptr<CardWeight> WeightLoader::load(std::span<const tensor::MatrixSlice> stacked, bool keep_fp8) {
  if (keep_fp8)
    if (auto weight = load_fp8(stacked)) return weight;
  int64_t n = 0;
  const int64_t k = stacked.front().cols();
  for (const tensor::MatrixSlice& slice : stacked) n += slice.rows();
  auto weight = std::make_shared<CardWeight>(n, k, allocate_on_card(static_cast<size_t>(n * k) * sizeof(T)));
  std::byte* to = weight->memory.get();
  for (const tensor::MatrixSlice& slice : stacked) {
    BATON_CHECK(slice.cols() == k, "a stack of {} and {} columns", k, slice.cols());
    load_values<T>(slice, to);
    to += static_cast<size_t>(slice.rows() * k) * sizeof(T);
  }
  return weight;
}
template std::shared_ptr<CardWeight> WeightLoader::load<float>(std::span<const tensor::MatrixSlice>, bool);
template std::shared_ptr<CardWeight> WeightLoader::load<bf16>(std::span<const tensor::MatrixSlice>, bool);

// The values of a slice, row after row.
template <class T>
void WeightLoader::load_values(const tensor::MatrixSlice& slice, std::byte* to) {
  const auto rows = static_cast<size_t>(slice.rows()), columns = static_cast<size_t>(slice.cols());
  constexpr bool kBf16 = std::is_same_v<T, bf16>;
  if (kBf16 && !slice.transposed && slice.uniform != nullptr)
    return make_uniform(slice.uniform(), slice.cols(), reinterpret_cast<bf16*>(to));
  const tensor::StoredMatrix m = slice.stored();
  if (!slice.transposed && m.dtype == (kBf16 ? tensor::DType::kBF16 : tensor::DType::kF32)) {
    staging().copy_rows(m.data, static_cast<size_t>(m.stride) * sizeof(T), columns * sizeof(T), rows, to);
    return;
  }
  std::vector<T> converted(rows * columns);
  std::vector<float> row(static_cast<size_t>(m.cols));
  for (int64_t r = 0; r < m.rows; ++r) {
    m.read(r, 0, m.cols, row.data());
    for (int64_t c = 0; c < m.cols; ++c) {
      const int64_t place = slice.transposed ? c * m.rows + r : r * m.cols + c;
      converted[static_cast<size_t>(place)] = T(row[static_cast<size_t>(c)]);
    }
  }
  staging().copy_rows(reinterpret_cast<const std::byte*>(converted.data()), columns * sizeof(T), columns * sizeof(T),
                      rows, to);
}

void WeightLoader::make_uniform(const tensor::UniformMatrix& m, int64_t cols, bf16* to) {
  const size_t bytes = m.row_keys.size() * sizeof(uint64_t);
  auto keys = allocate_on_card(bytes);
  BATON_CUDA_CHECK(cudaMemcpyAsync(keys.get(), m.row_keys.data(), bytes, cudaMemcpyHostToDevice, stream_), "{} keys",
                   m.row_keys.size());
  uniform_rows(stream_, reinterpret_cast<const uint64_t*>(keys.get()), static_cast<int64_t>(m.row_keys.size()),
               m.first_col, cols, m.scale, to);
  BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "{} rows", m.row_keys.size());
}

std::shared_ptr<CardWeight> WeightLoader::load_fp8(std::span<const tensor::MatrixSlice> stacked) {
  std::vector<Fp8Part> parts;
  for (const tensor::MatrixSlice& slice : stacked) {
    const auto part = fp8_part(slice);
    if (!part) return nullptr;
    parts.push_back(*part);
  }
  const auto layout = common_layout(parts);
  if (!layout) {
    say_once(stacked.front().rows(), stacked.front().cols());
    return nullptr;
  }
  const auto value_bytes = static_cast<size_t>(layout->n * layout->stride());
  const auto scale_bytes = static_cast<size_t>(layout->scale_rows() * layout->scale_stride()) * sizeof(float);
  auto weight = std::make_shared<CardWeight>(layout->n, layout->k, allocate_on_card(value_bytes));
  weight->layout = *layout;
  weight->scales = allocate_on_card(scale_bytes);
  BATON_CUDA_CHECK(cudaMemsetAsync(weight->memory.get(), 0, value_bytes, stream_), "{} zeros", value_bytes);
  BATON_CUDA_CHECK(cudaMemsetAsync(weight->scales.get(), 0, scale_bytes, stream_), "{} zeros", scale_bytes);
  auto* values = reinterpret_cast<fp8*>(weight->memory.get());
  auto* scales = reinterpret_cast<float*>(weight->scales.get());
  const int64_t granule = int64_t{1} << layout->row_shift;
  int64_t at = 0;
  for (const Fp8Part& p : parts) {
    const int64_t rows = p.slice->rows();
    if (p.stored.data == nullptr) {
      const tensor::MatrixSlice& whole = *p.slice->unquantized;
      std::byte* wide = scratch(static_cast<size_t>(whole.rows() * whole.cols()) * sizeof(bf16));
      load_values<bf16>(whole, wide);
      quantize_weight(stream_, reinterpret_cast<const bf16*>(wide), whole.rows(), whole.cols(), p.first_row, rows,
                      p.first_col, *layout, at, values, scales);
    } else {
      const tensor::BlockScales& s = p.stored.scales;
      std::vector<float> grid(static_cast<size_t>((rows + granule - 1) / granule * layout->scale_stride()));
      const tensor::StoredMatrix blocks{
          .data = s.data, .dtype = s.dtype, .rows = 0, .cols = s.stride, .stride = s.stride, .scales = {}, .owner = {}};
      for (int64_t r = 0; r < rows; r += granule)
        for (int64_t c = 0; c < layout->k; c += kScaleBlock)
          blocks.read((s.first_row + r) / s.block.rows, (s.first_col + c) / s.block.cols, 1,
                      &grid[static_cast<size_t>(r / granule * layout->scale_stride() + c / kScaleBlock)]);
      BATON_CUDA_CHECK(cudaMemcpyAsync(scales + at / granule * layout->scale_stride(), grid.data(),
                                       grid.size() * sizeof(float), cudaMemcpyHostToDevice, stream_),
                       "{} scales", grid.size());
      const auto stride = static_cast<size_t>(layout->stride()), width = static_cast<size_t>(layout->k);
      if (stride == width) {
        staging().copy_rows(static_cast<const std::byte*>(p.stored.data), static_cast<size_t>(p.stored.stride), width,
                            static_cast<size_t>(rows), reinterpret_cast<std::byte*>(values + at * layout->stride()));
      } else {
        BATON_CUDA_CHECK(cudaMemcpy2DAsync(values + at * layout->stride(), stride, p.stored.data,
                                           static_cast<size_t>(p.stored.stride), width, static_cast<size_t>(rows),
                                           cudaMemcpyHostToDevice, stream_),
                         "a weight of {} x {}", rows, layout->k);
      }
      BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "a weight of {} x {}", rows, layout->k);
    }
    at += rows;
  }
  return weight;
}

void WeightLoader::release() {
  staging_.reset();
  if (scratch_ == nullptr) return;
  BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "before memory is let go");
  scratch_.reset();
  scratch_bytes_ = 0;
}

std::byte* WeightLoader::scratch(size_t bytes) {
  if (scratch_bytes_ < bytes) {
    BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "before memory is let go");
    scratch_.reset();
    scratch_ = allocate_on_card(bytes);
    scratch_bytes_ = bytes;
  }
  return scratch_.get();
}

std::shared_ptr<CardExperts> WeightLoader::stack(std::vector<GatedWeights>& experts, size_t value_bytes) {
  auto set = std::make_shared<CardExperts>();
  set->count = static_cast<int>(experts.size());
  if (experts.empty()) return set;
  // Both in fp8 or neither: a layout may cut the blocks of one.
  const auto in_fp8 = [&](const WeightPtr& w) { return static_cast<const CardWeight&>(*w).scales != nullptr; };
  const bool keep_fp8 = in_fp8(experts.front().gate_up) && in_fp8(experts.front().down);
  set->gate_up = one_after_another(experts, &GatedWeights::gate_up, value_bytes, keep_fp8);
  set->down = one_after_another(experts, &GatedWeights::down, value_bytes, keep_fp8);
  // The first use of an expert set is the end of its layer's loading.
  scratch_.reset();
  scratch_bytes_ = 0;
  return set;
}

std::shared_ptr<CardWeight> WeightLoader::one_after_another(std::vector<GatedWeights>& experts,
                                                            WeightPtr GatedWeights::*which, size_t value_bytes,
                                                            bool keep_fp8) {
  const auto of = [&](size_t e) -> const CardWeight& { return static_cast<const CardWeight&>(*(experts[e].*which)); };
  const CardWeight& first = of(0);
  const bool was_fp8 = first.scales != nullptr;
  const Fp8Layout layout = first.layout;
  const auto bytes = keep_fp8 ? static_cast<size_t>(layout.n * layout.stride())
                              : static_cast<size_t>(first.n() * first.k()) * value_bytes;
  const auto scale_bytes =
      keep_fp8 ? static_cast<size_t>(layout.scale_rows() * layout.scale_stride()) * sizeof(float) : 0;
  auto all = std::make_shared<CardWeight>(first.n(), first.k(), allocate_on_card(bytes * experts.size()));
  all->layout = layout;
  if (keep_fp8) all->scales = allocate_on_card(scale_bytes * experts.size());
  const auto copy = [&](const std::shared_ptr<std::byte>& from, std::byte* to, size_t size) {
    BATON_CUDA_CHECK(cudaMemcpyAsync(to, from.get(), size, cudaMemcpyDeviceToDevice, stream_), "{} bytes", size);
  };
  for (size_t e = 0; e < experts.size(); ++e) {
    BATON_CHECK((of(e).scales != nullptr) == was_fp8 && of(e).layout.row_shift == layout.row_shift, "expert {}", e);
    std::byte* to = all->memory.get() + e * bytes;
    if (was_fp8 && !keep_fp8) {
      dequantize_weight(stream_, of(e).fp8_weight(), reinterpret_cast<bf16*>(to));
      continue;
    }
    copy(of(e).memory, to, bytes);
    if (keep_fp8) copy(of(e).scales, all->scales.get() + e * scale_bytes, scale_bytes);
  }
  BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "{} experts", experts.size());
  for (GatedWeights& e : experts) (e.*which).reset();
  return all;
}

}  // namespace baton::kernels::cuda
