// Matrix products with a weight that was packed once.
//
// The packed form: columns of W^T (output features) in panels of 64, the last of 16, 32, 48 or 64; in a panel, for each
// k, the panel's columns side by side (float32), or for each pair of k, the columns' pairs (bfloat16). So every
// product, of one row or of hundreds, reads the weights as one sequential stream, nothing is reduced across a vector,
// and there is one copy of a weight. Products compute each element in the order of k whatever m is: a token's result
// does not depend on the batch it is computed in.
#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/worker_pool.h"
#include "kernels/kernels.h"

namespace baton {
namespace {

constexpr int64_t kPanel = 64;
constexpr int64_t kDepthBlock = 512;  // bytes of a panel's part: 128 KiB float32, so that it stays in L2 for all rows
constexpr int64_t kRowBlock = 96;     // rows of x that are reused from L2 while the panels pass
constexpr int64_t kInlineWork = 256 * 1024;  // multiplications below which waking helpers costs more than it gains

thread_local std::unique_ptr<WorkerPool> tls_pool;
thread_local Scratch tls_rounded;

}  // namespace

void set_gemm_threads(int threads) {
  BATON_CHECK(threads >= 1 && threads <= 1024, "gemm threads {}", threads);
  if (threads == (tls_pool ? tls_pool->parts() : 1)) return;
  tls_pool.reset();
  if (threads > 1) tls_pool = std::make_unique<WorkerPool>(threads - 1);
}

struct Linear::Impl {
  int64_t n, k;
  Compute compute;
  int64_t depth;         // rows of a panel: k, or pairs of k
  AlignedBuffer packed;  // 4-byte units: panel p begins at p * kPanel * depth

  [[nodiscard]] int64_t panels() const { return (n + kPanel - 1) / kPanel; }
  [[nodiscard]] int64_t panel_width(int64_t panel) const {
    return std::min(kPanel, round_up(n - panel * kPanel, kProductColumns));
  }

  void pack(const float* weight);
  void apply_rows(const void* a, int64_t a_stride, int64_t rows, int64_t first_panel, int64_t last_panel, float* y,
                  int64_t y_stride, bool bf16_product) const;
};

void Linear::Impl::pack(const float* weight) {
  depth = compute == Compute::kBF16 ? (k + 1) / 2 : k;
  const int64_t columns = (panels() - 1) * kPanel + panel_width(panels() - 1);
  packed = AlignedBuffer(static_cast<size_t>(columns) * static_cast<size_t>(depth) * 4);
  std::span<uint32_t> units = packed.as<uint32_t>();
  for (int64_t c = 0; c < n; ++c) {
    const int64_t panel = c / kPanel, width = panel_width(panel);
    uint32_t* at = units.data() + panel * kPanel * depth + c % kPanel;
    const float* row = weight + c * k;
    for (int64_t i = 0; i < depth; ++i, at += width) {
      if (compute == Compute::kF32) {
        *at = std::bit_cast<uint32_t>(row[i]);
      } else {
        const uint32_t low = to_bf16(row[2 * i]).bits, high = 2 * i + 1 < k ? to_bf16(row[2 * i + 1]).bits : 0;
        *at = low | high << 16;
      }
    }
  }
}

void Linear::Impl::apply_rows(const void* a, int64_t a_stride, int64_t rows, int64_t first_panel, int64_t last_panel,
                              float* y, int64_t y_stride, bool bf16_product) const {
  // Columns of the last panel beyond n go here.
  alignas(64) float edge[kRowBlock * kPanel];
  const auto multiply = compute == Compute::kF32 ? &multiply_f32
                        : bf16_product           ? &multiply_bf16_pairs
                                                 : &multiply_widened_pairs;
  const int64_t a_unit = compute == Compute::kBF16 && !bf16_product ? 8 : 4;  // bytes of one step of depth in a
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    const int64_t width = panel_width(panel), valid = std::min(kPanel, n - panel * kPanel);
    const bool whole = valid == width;
    float* c = whole ? y + panel * kPanel : edge;
    const int64_t c_stride = whole ? y_stride : kPanel;
    for (int64_t i = 0; i < depth; i += kDepthBlock)
      multiply(Product{.rows = rows,
                       .columns = width,
                       .depth = std::min(kDepthBlock, depth - i),
                       .a = static_cast<const std::byte*>(a) + i * a_unit,
                       .a_stride = a_stride,
                       .a_depth_stride = 1,
                       .b = packed.as<uint32_t>().data() + panel * kPanel * depth + i * width,
                       .b_stride = width,
                       .c = c,
                       .c_stride = c_stride,
                       .accumulate = i > 0});
    if (!whole)
      for (int64_t r = 0; r < rows; ++r)
        std::memcpy(y + r * y_stride + panel * kPanel, edge + r * kPanel, static_cast<size_t>(valid) * sizeof(float));
  }
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
  impl_->pack(weight.data());
}

int64_t Linear::n() const { return impl_->n; }
int64_t Linear::k() const { return impl_->k; }

void Linear::apply(const float* x, int64_t x_stride, int64_t m, float* y, int64_t y_stride) const {
  const Impl& w = *impl_;
  const bool bf16_product = w.compute == Compute::kBF16 && use_bf16_product();
  for (int64_t row = 0; row < m; row += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, m - row);
    const void* a = x + row * x_stride;
    int64_t a_stride = x_stride;
    if (w.compute == Compute::kBF16) {
      a_stride = w.depth;
      const int64_t padded = 2 * w.depth;
      if (bf16_product) {
        auto* rounded = tls_rounded.get<uint16_t>(rows * padded);
        for (int64_t r = 0; r < rows; ++r) {
          round_bf16_natively(x + (row + r) * x_stride, w.k, rounded + r * padded);
          if (w.k < padded) rounded[r * padded + w.k] = 0;
        }
        a = rounded;
      } else {
        auto* rounded = tls_rounded.get<float>(rows * padded);
        for (int64_t r = 0; r < rows; ++r) {
          round_to_bf16(x + (row + r) * x_stride, w.k, rounded + r * padded);
          if (w.k < padded) rounded[r * padded + w.k] = 0;
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
      const int64_t parts = tls_pool->parts();
      tls_pool->run([&](int i) { part(panels * i / parts, panels * (i + 1) / parts); });
    }
  }
}

}  // namespace baton
