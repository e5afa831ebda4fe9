#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "base/cuda/cuda_check.h"
#include "comm/card_comm.h"

namespace baton::comm {
namespace {

struct Addends {
  const void* of_rank[kCardRanksMax];
  int ranks;
};

__device__ inline float value_of(float v) { return v; }
__device__ inline float value_of(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline void set(float* to, float v) { *to = v; }
__device__ inline void set(__nv_bfloat16* to, float v) { *to = __float2bfloat16_rn(v); }

// to (n) = the sum over ranks of what each has from element `first` on. `to` may be this rank's own.
template <class T>
__global__ void sum_of_ranks(Addends addends, int64_t first, int64_t n, T* to) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    float sum = 0;
    for (int r = 0; r < addends.ranks; ++r) sum += value_of(static_cast<const T*>(addends.of_rank[r])[first + i]);
    set(to + i, sum);
  }
}

class CardComm final : public Comm {
 public:
  CardComm(RankGroup& group, int rank, int card, cudaStream_t stream) : group_(group), rank_(rank), stream_(stream) {
    BATON_CHECK(group.size() <= kCardRanksMax, "{} ranks on cards", group.size());
    if (group.size() == 1) return;
    BATON_CUDA_CHECK(cudaSetDevice(card), "card {}", card);
    int cards = 0;
    BATON_CUDA_CHECK(cudaGetDeviceCount(&cards), "card {}", card);
    for (int other = 0; other < cards; ++other) {
      int can = 0;
      if (other == card || cudaDeviceCanAccessPeer(&can, card, other) != cudaSuccess || can == 0) continue;
      const cudaError_t code = cudaDeviceEnablePeerAccess(other, 0);
      if (code == cudaErrorPeerAccessAlreadyEnabled) {
        (void)cudaGetLastError();
      } else {
        BATON_CUDA_CHECK(code, "card {} and card {}", card, other);
      }
    }
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return group_.size(); }

  Status reduce_scatter(void* partial, tensor::DType dtype, RowBounds bounds, int64_t width) override {
    if (size() == 1) return {};
    BATON_ASSIGN(const auto all, meet({partial}));
    Addends addends{};
    addends.ranks = size();
    for (int r = 0; r < size(); ++r) addends.of_rank[r] = all[static_cast<size_t>(r)][0];
    const auto at = static_cast<size_t>(rank_);
    const int64_t first = (bounds[at] - bounds[0]) * width, n = (bounds[at + 1] - bounds[at]) * width;
    if (n == 0) return {};
    constexpr int kThreads = 256;
    const auto blocks = static_cast<unsigned>(std::min<int64_t>((n + kThreads - 1) / kThreads, 1024));
    if (dtype == tensor::DType::kBF16) {
      sum_of_ranks<<<blocks, kThreads, 0, stream_>>>(addends, first, n, static_cast<__nv_bfloat16*>(partial) + first);
    } else {
      BATON_CHECK(dtype == tensor::DType::kF32, "a sum of {}", tensor::dtype_name(dtype));
      sum_of_ranks<<<blocks, kThreads, 0, stream_>>>(addends, first, n, static_cast<float*>(partial) + first);
    }
    return failed(cudaGetLastError());
  }

  Status all_gather(std::span<const RowBuffer> buffers, RowBounds bounds) override {
    if (size() == 1) return {};
    BATON_CHECK(buffers.size() <= kBuffersMax, "{} buffers", buffers.size());
    RankGroup::Pointers mine{};
    for (size_t b = 0; b < buffers.size(); ++b) mine[b] = buffers[b].rows;
    BATON_ASSIGN(const auto all, meet(mine));
    for (size_t r = 0; r < all.size(); ++r) {
      if (r == static_cast<size_t>(rank_) || bounds[r] == bounds[r + 1]) continue;
      for (size_t b = 0; b < buffers.size(); ++b) {
        const size_t offset = static_cast<size_t>(bounds[r] - bounds[0]) * buffers[b].row_bytes;
        const size_t bytes = static_cast<size_t>(bounds[r + 1] - bounds[r]) * buffers[b].row_bytes;
        BATON_TRY(failed(cudaMemcpyAsync(static_cast<std::byte*>(buffers[b].rows) + offset,
                                         static_cast<const std::byte*>(all[r][b]) + offset, bytes, cudaMemcpyDefault,
                                         stream_)));
      }
    }
    return {};
  }

  Status send(int, std::span<const float>) override { return no_pipeline(); }
  Status receive(int, std::span<float>) override { return no_pipeline(); }
  void abort(Error failure) override { group_.abort(std::move(failure)); }
  [[nodiscard]] bool aborted() const override { return group_.aborted(); }

 private:
  // What this rank has written is there, and what it read of others it has read, before anybody goes on.
  Result<std::span<const RankGroup::Pointers>> meet(const RankGroup::Pointers& mine) {
    BATON_TRY(failed(cudaStreamSynchronize(stream_)));
    return group_.exchange(rank_, mine);
  }
  static Status failed(cudaError_t code) {
    if (code == cudaSuccess) return {};
    return error(ErrorCode::kUnavailable, "ranks on cards: {}", cuda_text(code));
  }
  static Error no_pipeline() { return error(ErrorCode::kIncompatible, "pipelines of cards are not supported"); }

  RankGroup& group_;
  int rank_;
  cudaStream_t stream_;
};

}  // namespace

std::unique_ptr<Comm> make_card_comm(RankGroup& group, int rank, int card, void* stream) {
  return std::make_unique<CardComm>(group, rank, card, static_cast<cudaStream_t>(stream));
}

}  // namespace baton::comm
