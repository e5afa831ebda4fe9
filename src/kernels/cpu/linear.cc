// Matrix products with weights that were packed once (packed_weight.h). Products compute each element in the order of k
// whatever m is, and whatever a weight is stacked with: a token's result does not depend on the batch it is computed
// in.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/interval.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/growing_buffer.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/packed_weight.h"
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

// Rows of x as a product takes them.
struct Rows {
  const void* data;
  int64_t stride;  // as Product's
  int64_t count;
  int64_t unit;  // bytes of one step of depth
  void (*multiply)(const Product&);
};

// y (rows, n) = x * W^T for some of W's panels.
void multiply_panels(const PackedWeight& w, const Rows& x, LongInterval panels, float* y, int64_t y_stride) {
  const int64_t depth = w.depth(), columns = w.blocking().columns;
  // Of the last panel, columns beyond n go to `edge`.
  alignas(64) float edge[kRowBlock * kPanelMax];
  const int64_t whole = w.n() / columns, bulk = std::min(whole, panels.end) - panels.begin;
  const bool has_tail = panels.end > whole, padded = w.n() % kProductColumns != 0;
  const int64_t tail_column = whole * columns;
  const int64_t step = x.count <= kTileRows ? depth : w.blocking().depth;  // one tile reads nothing twice
  for (int64_t i = 0; i < depth; i += step) {
    Product p{.rows = x.count,
              .columns = columns,
              .panels = bulk,
              .depth = std::min(step, depth - i),
              .a = static_cast<const std::byte*>(x.data) + i * x.unit,
              .a_stride = x.stride,
              .a_depth_stride = 1,
              .b = w.units() + panels.begin * columns * depth + i * columns,
              .b_stride = columns,
              .b_panel_stride = columns * depth,
              .c = y + panels.begin * columns,
              .c_stride = y_stride,
              .accumulate = i > 0};
    x.multiply(p);
    if (!has_tail) continue;
    p.columns = p.b_stride = w.panel_width(whole);
    p.panels = 1;
    p.b = w.units() + tail_column * depth + i * p.columns;
    p.c = padded ? edge : y + tail_column;
    p.c_stride = padded ? kPanelMax : y_stride;
    x.multiply(p);
  }
  if (has_tail && padded)
    for (int64_t r = 0; r < x.count; ++r)
      std::memcpy(y + r * y_stride + tail_column, edge + r * kPanelMax,
                  static_cast<size_t>(w.n() - tail_column) * sizeof(float));
}

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
  struct Part {
    std::shared_ptr<const PackedWeight> weight;
    int64_t column, panel;  // its first, of y and of all panels
  };
  int64_t n = 0, k = 0, panels = 0;
  Compute compute;
  std::vector<Part> parts;  // of equal k and blocking, one below the other

  // Panels [first, last) of all.
  void apply_panels(const Rows& x, LongInterval range, float* y, int64_t y_stride) const;
};

void Linear::Impl::apply_panels(const Rows& x, LongInterval range, float* y, int64_t y_stride) const {
  for (const Part& part : parts) {
    const LongInterval own =
        intersect({range.begin - part.panel, range.end - part.panel}, LongInterval{0, part.weight->panels()});
    if (!own.empty()) multiply_panels(*part.weight, x, own, y + part.column, y_stride);
  }
}

Linear::Linear() = default;
Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

Linear::Linear(std::span<const tensor::MatrixSlice> stacked, Compute compute) : impl_(std::make_unique<Impl>()) {
  BATON_CHECK(!stacked.empty(), "a linear layer without a weight");
  impl_->k = stacked[0].cols();
  impl_->compute = compute;
  for (const tensor::MatrixSlice& slice : stacked) {
    BATON_CHECK(slice.cols() == impl_->k, "weights of k {} and {} in one stack", slice.cols(), impl_->k);
    impl_->parts.push_back({PackedWeight::of(slice, compute), impl_->n, impl_->panels});
    impl_->n += slice.rows();
    impl_->panels += impl_->parts.back().weight->panels();
  }
}

int64_t Linear::n() const { return impl_->n; }
int64_t Linear::k() const { return impl_->k; }

void Linear::apply(const float* x, int64_t x_stride, int64_t m, float* y, int64_t y_stride) const {
  const Impl& w = *impl_;
  for (const Impl::Part& part : w.parts) part.weight->wait();
  const bool bf16_product = w.compute == Compute::kBF16 && use_bf16_product();
  const int64_t depth = w.parts[0].weight->depth(), panels = w.panels;
  // Blocks as equal as can be, of whole register tiles.
  const int64_t blocks = std::max<int64_t>(1, (m + kRowBlock - 1) / kRowBlock);
  const int64_t block_rows = round_up((m + blocks - 1) / blocks, kTileRows);
  for (int64_t row = 0; row < m; row += block_rows) {
    Rows a{x + row * x_stride, x_stride, std::min(block_rows, m - row), 4, &multiply_f32};
    if (w.compute == Compute::kBF16) {
      // A cache line more than the values take, as rows a power of two apart would share the sets of the first cache.
      a.stride = depth + 16;
      if (bf16_product) {
        a.multiply = &multiply_bf16_pairs;
        auto* rounded = tls_rounded.get<uint16_t>(a.count * 2 * a.stride);
        for (int64_t r = 0; r < a.count; ++r) {
          round_bf16_natively(x + (row + r) * x_stride, w.k, rounded + r * 2 * a.stride);
          if (w.k < 2 * depth) rounded[r * 2 * a.stride + w.k] = 0;
        }
        a.data = rounded;
      } else {
        a.multiply = &multiply_widened_pairs;
        a.unit = 8;
        auto* rounded = tls_rounded.get<float>(a.count * 2 * a.stride);
        for (int64_t r = 0; r < a.count; ++r) {
          round_to_bf16(x + (row + r) * x_stride, w.k, rounded + r * 2 * a.stride);
          if (w.k < 2 * depth) rounded[r * 2 * a.stride + w.k] = 0;
        }
        a.data = rounded;
      }
    }
    const auto part = [&](int64_t first, int64_t last) {
      w.apply_panels(a, {first, last}, y + row * y_stride, y_stride);
    };
    if (tls_pool == nullptr || panels == 1 || a.count * w.n * w.k < kInlineWork) {
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
