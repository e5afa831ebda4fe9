// A paged pool for tests: pages in random order, gaps everywhere, guard bytes that must survive.
#pragma once

#include <array>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "base/random.h"
#include "kernels/kernels.h"

namespace baton::kernels {

struct KvShape {
  int page_tokens;
  int heads;
  int k_dim;
  int v_dim;
  tensor::DType dtype;
};

// A batch of one sequence.
inline std::array<PagedRows, 1> one_sequence(int64_t begin, int64_t tokens) {
  return {PagedRows{.begin = begin, .tokens = tokens}};
}

// Two layers, of which the view shows the second; eight bytes between what belongs to different layers, heads and
// pages.
class TestPool {
 public:
  TestPool(const KvShape& shape, int64_t tokens) {
    const size_t element = tensor::dtype_size(shape.dtype), gap = 8;
    const auto page_tokens = static_cast<size_t>(shape.page_tokens);
    const size_t layer = page_tokens * static_cast<size_t>(shape.k_dim + shape.v_dim) * element + gap;
    view_.head_stride = 2 * layer + gap;
    view_.layer_offset = layer;
    view_.page_stride = view_.head_stride * static_cast<size_t>(shape.heads) + gap;
    view_.v_offset = page_tokens * static_cast<size_t>(shape.k_dim) * element;
    const auto pages = static_cast<size_t>((tokens + shape.page_tokens - 1) / shape.page_tokens);
    bytes_.assign((2 * pages + 1) * view_.page_stride, std::byte{0x5a});
    pages_.resize(2 * pages + 1);
    std::iota(pages_.begin(), pages_.end(), 0U);
    Random random(static_cast<uint64_t>(tokens) + 17);
    for (size_t i = pages_.size(); i > 1; --i) std::swap(pages_[i - 1], pages_[random.below(i)]);
    view_.pool = bytes_.data();
    view_.pages = pages_.data();
    view_.page_tokens = shape.page_tokens;
    view_.k_dim = shape.k_dim;
    view_.v_dim = shape.v_dim;
    view_.dtype = shape.dtype;
  }
  TestPool(const TestPool&) = delete;
  TestPool& operator=(const TestPool&) = delete;

  [[nodiscard]] const PagedKv& view() const { return view_; }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
  std::vector<uint32_t> pages_;
  PagedKv view_;
};

}  // namespace baton::kernels
