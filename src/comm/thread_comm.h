// The exchange between rank threads of one process: each reads the others' buffers. Sums are of float32.
#pragma once

#include "comm/comm.h"
#include "comm/rank_group.h"

namespace baton::comm {

// Borrows the group, which all ranks share.
class ThreadComm final : public Comm {
 public:
  ThreadComm(RankGroup& group, int rank) : group_(group), rank_(rank) {}

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return group_.size(); }
  Status reduce_scatter(void* partial, tensor::DType dtype, RowBounds bounds, int64_t width) override;
  Status all_gather(std::span<const RowBuffer> buffers, RowBounds bounds) override;
  Status send(int to, std::span<const std::byte> bytes) override { return group_.post(rank_, to, bytes); }
  Status receive(int from, std::span<std::byte> bytes) override { return group_.fetch(from, rank_, bytes); }
  [[nodiscard]] bool recordable() const override { return size() == 1; }
  void abort(Error failure) override { group_.abort(std::move(failure)); }
  [[nodiscard]] bool aborted() const override { return group_.aborted(); }

 private:
  RankGroup& group_;
  int rank_;
};

}  // namespace baton::comm
