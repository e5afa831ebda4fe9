// KV of one element type on its way into pages of another: bounded pages in which prefill's stands as decode holds it,
// while it is summed and written.
#pragma once

#include <memory>
#include <vector>

#include "handoff/events.h"
#include "tensor/dtype.h"

namespace baton::handoff {

class ConvertedKv;

// Pages of a DP group, the same numbers on all its ranks. They are free again with the last owner: the job that fills
// and sums them, and each post that reads them.
class ConvertedPages {
 public:
  ConvertedPages(ConvertedKv& owner, int dp_rank, std::vector<PageId> numbers)
      : pages(std::move(numbers)), owner_(owner), dp_rank_(dp_rank) {}
  ~ConvertedPages();
  ConvertedPages(const ConvertedPages&) = delete;
  ConvertedPages& operator=(const ConvertedPages&) = delete;

  const std::vector<PageId> pages;

 private:
  ConvertedKv& owner_;
  int dp_rank_;
};

// Page memory beside an instance's pools, shaped as they are but of other elements. One thread's; outlives its pages.
class ConvertedKv {
 public:
  // For pools of `from`: at most `bytes_max` a rank, or what the largest page of a peer needs. The memory is of the
  // pools' homes and known to the transport.
  static Result<std::unique_ptr<ConvertedKv>> make(transport::Transport& transport, const std::vector<Pool>& pools,
                                                   int dp, tensor::DType from, tensor::DType to, uint64_t bytes_max);

  // By world rank.
  [[nodiscard]] const std::vector<Pool>& pools() const { return pools_; }
  [[nodiscard]] tensor::DType from() const { return from_; }
  [[nodiscard]] tensor::DType to() const { return to_; }
  // Between `least` and `most` pages, not so many that others of the group find none; null: fewer are free now.
  [[nodiscard]] std::shared_ptr<const ConvertedPages> take(int dp_rank, size_t least, size_t most);

 private:
  friend class ConvertedPages;
  ConvertedKv() = default;

  tensor::DType from_{}, to_{};
  std::vector<Pool> pools_;
  std::vector<device::Buffer> buffers_;  // of cards
  size_t pages_ = 0;
  std::vector<std::vector<PageId>> free_;  // by DP group
};

}  // namespace baton::handoff
