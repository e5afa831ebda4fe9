// A weight in the form that products read: columns of W^T (output features) in panels of 64 or 16, as wide as the
// register tile of the instruction set in use (product.h), the last one narrower by a multiple of 16; in a panel, for
// each k, the panel's columns side by side (float32), or for each pair of k, the columns' pairs (bfloat16). So every
// product, of one row or of hundreds, reads the weights as sequential streams, and nothing is reduced across a vector.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>

#include "kernels/cpu/product.h"
#include "kernels/kernels.h"
#include "tensor/aligned_buffer.h"
#include "tensor/matrix_slice.h"

namespace baton::kernels {

class PackedWeight {
 public:
  // The slice packed. Of slices with an identity there is one at a time in the process: who comes while it lives shares
  // it, and does not wait for the thread that packs it. Any thread.
  static std::shared_ptr<const PackedWeight> of(const tensor::MatrixSlice& slice, Compute compute);
  // Not packed yet: for of().
  PackedWeight(const tensor::MatrixSlice& slice, Compute compute);
  ~PackedWeight();
  PackedWeight(const PackedWeight&) = delete;
  PackedWeight& operator=(const PackedWeight&) = delete;

  // Before the first look at units().
  void wait() const {
    if (!packed_.load(std::memory_order_acquire)) packed_.wait(false, std::memory_order_acquire);
  }

  [[nodiscard]] int64_t n() const { return n_; }
  [[nodiscard]] int64_t k() const { return k_; }
  // Rows of a panel: k, or pairs of k.
  [[nodiscard]] int64_t depth() const { return compute_ == Compute::kBF16 ? (k_ + 1) / 2 : k_; }
  [[nodiscard]] const Blocking& blocking() const { return blocking_; }
  [[nodiscard]] int64_t panels() const { return (n_ + blocking_.columns - 1) / blocking_.columns; }
  [[nodiscard]] int64_t panel_width(int64_t panel) const {
    return std::min(blocking_.columns, round_up(n_ - panel * blocking_.columns, kProductColumns));
  }
  // Panel p begins at p * blocking().columns * depth().
  [[nodiscard]] const uint32_t* units() const { return reinterpret_cast<const uint32_t*>(buffer_.data()); }

 private:
  void pack(const tensor::MatrixSlice& slice);
  template <typename Value>
  void pack_panel(const tensor::StoredMatrix& m, bool transposed, int64_t panel);

  const int64_t n_, k_;
  const Compute compute_;
  const Blocking blocking_;
  std::string key_;  // under which others find it, or empty
  tensor::AlignedBuffer buffer_;
  std::atomic<bool> packed_{false};
};

}  // namespace baton::kernels
