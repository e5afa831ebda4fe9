// Matrix products with a weight that was packed once.
//
// The packed form: columns of W^T (output features) in panels of 64 or 16, as wide as the register tile of the
// instruction set in use (product.h), the last one narrower by a multiple of 16; in a panel, for each k, the panel's
// columns side by side (float32), or for each pair of k, the columns' pairs (bfloat16). So every product, of one row or
// of hundreds, reads the weights as sequential streams, nothing is reduced across a vector, and there is one copy of a
// weight. Products compute each element in the order of k whatever m is: a token's result does not depend on the batch
// it is computed in.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>

#include "base/check.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/growing_buffer.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/worker_pool.h"
#include "kernels/kernels.h"

namespace baton::kernels {
namespace {

constexpr int64_t kRowBlock = 96;  // rows of x that are reused from L2 while the panels pass
constexpr int64_t kTileRows = 6;   // of a register tile
constexpr int64_t kPanelMax = 64;
constexpr int64_t kSharesPerThread = 8;  // of the panels of a product

thread_local std::unique_ptr<WorkerPool> tls_pool;
thread_local GrowingBuffer tls_rounded;

}  // namespace

void set_gemm_threads(int threads) {
  BATON_CHECK(threads >= 1 && threads <= 1024, "gemm threads {}", threads);
  if (threads == (tls_pool ? tls_pool->parts() : 1)) return;
  tls_pool.reset();
  if (threads > 1) tls_pool = std::make_unique<WorkerPool>(threads - 1);
}

void on_gemm_threads(const std::function<void(int part, int parts)>& fn) {
  if (tls_pool == nullptr) return fn(0, 1);
  const int parts = tls_pool->parts();
  tls_pool->run([&fn, parts](int part) { fn(part, parts); });
}

struct Linear::Impl {
  int64_t n, k;
  Compute compute;
  Blocking blocking;
  int64_t depth;                 // rows of a panel: k, or pairs of k
  tensor::AlignedBuffer packed;  // 4-byte units: panel p begins at p * blocking.columns * depth

  [[nodiscard]] int64_t panels() const { return (n + blocking.columns - 1) / blocking.columns; }
  [[nodiscard]] int64_t panel_width(int64_t panel) const {
    return std::min(blocking.columns, round_up(n - panel * blocking.columns, kProductColumns));
  }

  void pack(const float* weight);
  void pack_panel(const float* weight, int64_t panel);
  void apply_rows(const void* a, int64_t a_stride, int64_t rows, int64_t first_panel, int64_t last_panel, float* y,
                  int64_t y_stride, bool bf16_product) const;
};

void Linear::Impl::pack(const float* weight) {
  depth = compute == Compute::kBF16 ? (k + 1) / 2 : k;
  const int64_t columns = (panels() - 1) * blocking.columns + panel_width(panels() - 1);
  packed = tensor::AlignedBuffer::unwritten(static_cast<size_t>(columns) * static_cast<size_t>(depth) * 4);
  const auto part = [this, weight](int at, int parts) {
    for (int64_t panel = panels() * at / parts; panel < panels() * (at + 1) / parts; ++panel) pack_panel(weight, panel);
  };
  n* k < kInlineWork ? part(0, 1) : on_gemm_threads(part);
}

// By squares of the panel that stay in the first cache while rows become columns.
void Linear::Impl::pack_panel(const float* weight, int64_t panel) {
  constexpr int64_t kSquare = 64;
  uint32_t square[kPanelMax][kSquare] = {};
  const int64_t per_unit = compute == Compute::kBF16 ? 2 : 1, width = panel_width(panel);
  const int64_t first = panel * blocking.columns, valid = std::min(width, n - first);
  uint32_t* out = packed.as<uint32_t>().data() + first * depth;
  for (int64_t begin = 0; begin < depth; begin += kSquare) {
    const int64_t units = std::min(kSquare, depth - begin), values = std::min(units * per_unit, k - begin * per_unit);
    for (int64_t c = 0; c < valid; ++c) {
      const float* row = weight + (first + c) * k + begin * per_unit;
      square[c][units - 1] = 0;  // the high half of an odd k's last pair
      if (compute == Compute::kBF16)
        bf16_from_floats(row, values, reinterpret_cast<uint16_t*>(square[c]));
      else
        std::memcpy(square[c], row, static_cast<size_t>(values) * sizeof(float));
    }
    for (int64_t i = 0; i < units; ++i, out += width)
      for (int64_t c = 0; c < width; ++c) out[c] = square[c][i];
  }
}

void Linear::Impl::apply_rows(const void* a, int64_t a_stride, int64_t rows, int64_t first_panel, int64_t last_panel,
                              float* y, int64_t y_stride, bool bf16_product) const {
  const auto multiply = compute == Compute::kF32 ? &multiply_f32
                        : bf16_product           ? &multiply_bf16_pairs
                                                 : &multiply_widened_pairs;
  const int64_t a_unit = compute == Compute::kBF16 && !bf16_product ? 8 : 4;  // bytes of one step of depth in a
  // Of the last panel, columns beyond n go to `edge`.
  alignas(64) float edge[kRowBlock * kPanelMax];
  const int64_t whole = n / blocking.columns, bulk = std::min(whole, last_panel) - first_panel;
  const bool has_tail = last_panel > whole, padded = n % kProductColumns != 0;
  const int64_t tail_column = whole * blocking.columns;
  const int64_t step = rows <= kTileRows ? depth : blocking.depth;  // one tile reads nothing twice
  for (int64_t i = 0; i < depth; i += step) {
    Product p{.rows = rows,
              .columns = blocking.columns,
              .panels = bulk,
              .depth = std::min(step, depth - i),
              .a = static_cast<const std::byte*>(a) + i * a_unit,
              .a_stride = a_stride,
              .a_depth_stride = 1,
              .b = packed.as<uint32_t>().data() + first_panel * blocking.columns * depth + i * blocking.columns,
              .b_stride = blocking.columns,
              .b_panel_stride = blocking.columns * depth,
              .c = y + first_panel * blocking.columns,
              .c_stride = y_stride,
              .accumulate = i > 0};
    multiply(p);
    if (!has_tail) continue;
    p.columns = p.b_stride = panel_width(whole);
    p.panels = 1;
    p.b = packed.as<uint32_t>().data() + tail_column * depth + i * p.columns;
    p.c = padded ? edge : y + tail_column;
    p.c_stride = padded ? kPanelMax : y_stride;
    multiply(p);
  }
  if (has_tail && padded)
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(y + r * y_stride + tail_column, edge + r * kPanelMax,
                  static_cast<size_t>(n - tail_column) * sizeof(float));
}

Linear::Linear() = default;
Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

Linear::Linear(std::span<const float> weight, int64_t n, int64_t k, Compute compute) : impl_(std::make_unique<Impl>()) {
  BATON_CHECK(n >= 1 && k >= 1 && weight.size() == static_cast<size_t>(n) * static_cast<size_t>(k),
              "weight of {} values for n {} k {}", weight.size(), n, k);
  impl_->n = n;
  impl_->k = k;
  impl_->compute = compute;
  impl_->blocking = product_blocking();
  impl_->pack(weight.data());
}

int64_t Linear::n() const { return impl_->n; }
int64_t Linear::k() const { return impl_->k; }

void Linear::apply(const float* x, int64_t x_stride, int64_t m, float* y, int64_t y_stride) const {
  const Impl& w = *impl_;
  const bool bf16_product = w.compute == Compute::kBF16 && use_bf16_product();
  // Blocks as equal as can be, of whole register tiles.
  const int64_t blocks = std::max<int64_t>(1, (m + kRowBlock - 1) / kRowBlock);
  const int64_t block_rows = round_up((m + blocks - 1) / blocks, kTileRows);
  for (int64_t row = 0; row < m; row += block_rows) {
    const int64_t rows = std::min(block_rows, m - row);
    const void* a = x + row * x_stride;
    int64_t a_stride = x_stride;
    if (w.compute == Compute::kBF16) {
      // A cache line more than the values take, as rows a power of two apart would share the sets of the first cache.
      a_stride = w.depth + 16;
      if (bf16_product) {
        auto* rounded = tls_rounded.get<uint16_t>(rows * 2 * a_stride);
        for (int64_t r = 0; r < rows; ++r) {
          round_bf16_natively(x + (row + r) * x_stride, w.k, rounded + r * 2 * a_stride);
          if (w.k < 2 * w.depth) rounded[r * 2 * a_stride + w.k] = 0;
        }
        a = rounded;
      } else {
        auto* rounded = tls_rounded.get<float>(rows * 2 * a_stride);
        for (int64_t r = 0; r < rows; ++r) {
          round_to_bf16(x + (row + r) * x_stride, w.k, rounded + r * 2 * a_stride);
          if (w.k < 2 * w.depth) rounded[r * 2 * a_stride + w.k] = 0;
        }
        a = rounded;
      }
    }
    const int64_t panels = w.panels();
    const auto part = [&](int64_t first, int64_t last) {
      w.apply_rows(a, a_stride, rows, first, last, y + row * y_stride, y_stride, bf16_product);
    };
    if (tls_pool == nullptr || panels == 1 || rows * w.n * w.k < kInlineWork) {
      part(0, panels);
    } else {
      // By small shares, taken as threads become free: one that the system holds up delays the others by one share. Who
      // computes a column changes none of its bits.
      const int64_t share = std::max<int64_t>(1, panels / (tls_pool->parts() * kSharesPerThread));
      std::atomic<int64_t> next{0};
      tls_pool->run([&](int) {
        for (int64_t first = next.fetch_add(share, std::memory_order_relaxed); first < panels;
             first = next.fetch_add(share, std::memory_order_relaxed))
          part(first, std::min(first + share, panels));
      });
    }
  }
}

void linear_heads(std::span<const Linear> weights, const float* x, int64_t x_stride, int64_t x_head_stride, int64_t m,
                  float* y, int64_t y_stride, int64_t y_head_stride) {
  for (const Linear& head : weights) {
    head.apply(x, x_stride, m, y, y_stride);
    x += x_head_stride;
    y += y_head_stride;
  }
}

}  // namespace baton::kernels
