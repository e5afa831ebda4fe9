// The exchange between rank threads of one process: each reads the others' buffers. Sums are of float32.
#pragma once

#include "comm/comm.h"
#include "comm/rank_group.h"

namespace baton::comm {

// Borrows the group, which all ranks share.
class ThreadComm final : public Comm {
 public:
  // everywhere_bytes_max: up to so many bytes are summed on every rank, which does each one's work on all of them: of
  // use where ranks have processors of their own and wait long for each other.
  ThreadComm(RankGroup& group, int rank, int64_t everywhere_bytes_max = 0)
      : group_(group), rank_(rank), everywhere_bytes_max_(everywhere_bytes_max) {}

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return group_.size(); }
  Status reduce_scatter(void* partial, tensor::DType dtype, RowBounds bounds, int64_t width) override;
  Status all_gather(std::span<const RowBuffer> buffers, RowBounds bounds) override;
  Status send(int to, std::span<const std::byte> bytes) override { return group_.post(rank_, to, bytes); }
  Status receive(int from, std::span<std::byte> bytes) override { return group_.fetch(from, rank_, bytes); }
  [[nodiscard]] bool recordable() const override { return size() == 1; }
  [[nodiscard]] bool sums_everywhere(int64_t rows, int64_t row_bytes) const override {
    return rows * row_bytes <= everywhere_bytes_max_;
  }
  Status all_reduce(const void* partial, tensor::DType dtype, int64_t rows, int64_t width,
                    const SumsTarget& target) override;
  void abort(Error failure) override { group_.abort(std::move(failure)); }
  [[nodiscard]] bool aborted() const override { return group_.aborted(); }

 private:
  RankGroup& group_;
  int rank_;
  int64_t everywhere_bytes_max_;
};

}  // namespace baton::comm
