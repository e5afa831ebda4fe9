#include "comm/thread_comm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace baton::comm {

namespace {

// Floats that are summed at a time: a block stays in the first cache while the ranks' addends come.
constexpr int64_t kBlock = 1024;

// sum[i] += addend[i], in runs whose length the compiler knows and makes vectors of.
void add(int64_t n, const float* __restrict addend, float* __restrict sum) {
  constexpr int64_t kRun = 16;
  int64_t i = 0;
  for (; i + kRun <= n; i += kRun) {
    for (int64_t j = 0; j < kRun; ++j) sum[i + j] += addend[i + j];
  }
  for (; i < n; ++i) sum[i] += addend[i];
}

}  // namespace

Status ThreadComm::reduce_scatter(void* partial, tensor::DType dtype, RowBounds bounds, int64_t width) {
  BATON_CHECK(bounds.size() == static_cast<size_t>(size()) + 1, "{} bounds for {} ranks", bounds.size(), size());
  BATON_ASSIGN(const auto all, group_.exchange(rank_, {partial}));
  if (size() == 1) return {};
  BATON_CHECK(dtype == tensor::DType::kF32, "a sum of {}", tensor::dtype_name(dtype));
  const auto at = static_cast<size_t>(rank_);
  const int64_t end = (bounds[at + 1] - bounds[0]) * width;
  float sum[kBlock];
  for (int64_t begin = (bounds[at] - bounds[0]) * width; begin < end; begin += kBlock) {
    const int64_t n = std::min(kBlock, end - begin);
    for (size_t r = 0; r < all.size(); ++r) {
      const float* addend = static_cast<const float*>(all[r][0]) + begin;
      if (r == 0) {
        std::copy_n(addend, n, sum);
      } else {
        add(n, addend, sum);
      }
    }
    std::copy_n(sum, n, static_cast<float*>(partial) + begin);
  }
  return {};
}

Status ThreadComm::all_reduce(const void* partial, tensor::DType dtype, int64_t rows, int64_t width,
                              const SumsTarget& target) {
  BATON_CHECK(dtype == tensor::DType::kF32, "a sum of {}", tensor::dtype_name(dtype));
  BATON_ASSIGN(const auto all, group_.exchange(rank_, {partial}));
  std::vector<float> sum(static_cast<size_t>(width));
  for (int64_t row = 0; row < rows; ++row) {
    std::fill(sum.begin(), sum.end(), 0.0F);
    for (const auto& of_rank : all) add(width, static_cast<const float*>(of_rank[0]) + row * width, sum.data());
    float* residual = static_cast<float*>(target.residual) + row * width;
    add(width, sum.data(), residual);
    if (target.weight == nullptr) continue;
    double square = 0;
    for (int64_t i = 0; i < width; ++i) square += static_cast<double>(residual[i]) * residual[i];
    const auto scale = static_cast<float>(1 / std::sqrt(square / static_cast<double>(width) + target.eps));
    float* normed = static_cast<float*>(target.normed) + row * width;
    for (int64_t i = 0; i < width; ++i) normed[i] = residual[i] * scale * target.weight[i];
  }
  return {};
}

Status ThreadComm::all_gather(std::span<const RowBuffer> buffers, RowBounds bounds) {
  BATON_CHECK(bounds.size() == static_cast<size_t>(size()) + 1, "{} bounds for {} ranks", bounds.size(), size());
  BATON_CHECK(buffers.size() <= kBuffersMax, "{} buffers", buffers.size());
  RankGroup::Pointers mine{};
  for (size_t b = 0; b < buffers.size(); ++b) mine[b] = buffers[b].rows;
  BATON_ASSIGN(const auto all, group_.exchange(rank_, mine));
  for (size_t r = 0; r < all.size(); ++r) {
    if (r == static_cast<size_t>(rank_) || bounds[r] == bounds[r + 1]) continue;
    for (size_t b = 0; b < buffers.size(); ++b) {
      const size_t offset = static_cast<size_t>(bounds[r] - bounds[0]) * buffers[b].row_bytes;
      std::memcpy(static_cast<std::byte*>(buffers[b].rows) + offset, static_cast<const std::byte*>(all[r][b]) + offset,
                  static_cast<size_t>(bounds[r + 1] - bounds[r]) * buffers[b].row_bytes);
    }
  }
  return {};
}

}  // namespace baton::comm
