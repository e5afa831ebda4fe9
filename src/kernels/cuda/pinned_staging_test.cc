#include "kernels/cuda/pinned_staging.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/cuda/cuda_check.h"
#include "base/random.h"
#include "kernels/cuda/step_uploads.h"
#include "kernels/kernels.h"

namespace baton::kernels::cuda {
namespace {

TEST(PinnedStaging, RowsOfAnySizeArriveDense) {
  int cards = 0;
  if (cudaGetDeviceCount(&cards) != cudaSuccess || cards == 0) GTEST_SKIP() << "no card";
  struct Case {
    size_t stride, row, rows, buffer;
  };
  const Case cases[] = {
      {1, 1, 1, 64},
      {10, 10, 100, 64},
      {100, 30, 77, 64},
      {1000, 999, 50, 64},
      {4096, 4096, 700, 1 << 20},
      {9000, 4096, 900, 1 << 20},
      {3 << 20, 3 << 20, 5, 2 << 20},
      {5 << 20, (3 << 20) + 1, 4, 2 << 20},
  };
  cudaStream_t stream = nullptr;
  BATON_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  set_gemm_threads(3);
  Random random{3};
  for (const Case& c : cases) {
    PinnedStaging staging(stream, c.buffer);
    std::vector<std::byte> from(c.stride * c.rows);
    for (std::byte& b : from) b = static_cast<std::byte>(random.next());
    std::vector<std::byte> right;
    for (size_t r = 0; r < c.rows; ++r)
      right.insert(right.end(), from.begin() + static_cast<int64_t>(r * c.stride),
                   from.begin() + static_cast<int64_t>(r * c.stride + c.row));
    const auto card = allocate_on_card(2 * right.size());
    for (const size_t at : {size_t{0}, right.size()}) {
      staging.copy_rows(from.data(), c.stride, c.row, c.rows, card.get() + at);
      if (at > 0) std::fill(from.begin(), from.end(), std::byte{0});  // has been read
    }
    std::vector<std::byte> arrived(2 * right.size());
    BATON_CUDA_CHECK(cudaMemcpyAsync(arrived.data(), card.get(), arrived.size(), cudaMemcpyDeviceToHost, stream), "");
    BATON_CUDA_CHECK(cudaStreamSynchronize(stream), "");
    right.insert(right.end(), right.begin(), right.begin() + static_cast<int64_t>(right.size()));
    EXPECT_EQ(arrived == right, true) << c.stride << " " << c.row << " " << c.rows;
  }
  set_gemm_threads(1);
  BATON_CUDA_CHECK(cudaStreamDestroy(stream), "a stream");
}

}  // namespace
}  // namespace baton::kernels::cuda
