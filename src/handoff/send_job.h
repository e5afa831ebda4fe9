// What a granted attempt writes: blocks cut into posts, and the checksums of the destination pages. Made a slice at a
// time, so that neither a long prompt nor a peer of many ranks holds up the thread or fills the memory. No I/O.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "device/stream.h"
#include "handoff/converted_kv.h"
#include "handoff/coverage.h"
#include "handoff/events.h"
#include "layout/plan.h"
#include "transport/transport.h"
#include "wire/frames.h"

namespace baton::handoff {

struct HandoffPost {
  std::shared_ptr<const ConvertedPages> converted;  // which its blocks are read from, if they are
  std::vector<transport::Block> blocks;
  uint64_t bytes = 0;
  std::map<std::pair<int, int>, HandoffStats::Link> links;  // (source world rank, destination world rank)
};

class SendJob {
 public:
  // `dp_rank` is the prefill group that computes. `converted_kv`: where KV is converted to decode's element type, if
  // that is another. It, `pools` and `streams` must outlive the job.
  SendJob(std::shared_ptr<const layout::Planner> planner, const wire::Manifest& self, int dp_rank,
          const wire::Manifest& peer, const wire::Grant& grant, std::span<const Pool> pools, ConvertedKv* converted_kv,
          device::Streams& streams, uint64_t stripe_bytes, uint64_t post_bytes_max, size_t post_blocks_max);

  // The KV of tokens up to `end` is in `source_pages`. Ends come in order; each but the last is a page's in both grids.
  // The tail of a last, partial page is zeroed here when whole pages travel, so that no older bytes of the page leave
  // the process (S12).
  void extend(int64_t end, const std::vector<PageId>& source_pages);
  // All that extend() allowed is in posts.
  [[nodiscard]] bool idle() const { return sent_ == end_; }

  // Converts or begins sums of about `bytes` bytes, or else makes the next post. Pages are read twice, by their sum and
  // by their post: what changes them between the two is found at decode, whichever comes first, and what changes them
  // before both is what decode gets and compares. So on a card neither waits for the other; the processor sums at once,
  // a stripe of some tokens at a time, so that the posts of one are under way while the next is summed.
  struct Step {
    uint64_t work = 0;  // in bytes hashed, or what takes as long; 0: no page for it is free
    std::optional<HandoffPost> post;
  };
  Step step(uint64_t bytes, const std::vector<PageId>& source_pages);

  // Layout as in Commit; every page's sum must have begun, and is waited for.
  [[nodiscard]] std::vector<uint64_t> checksums();
  [[nodiscard]] uint32_t checksum_pages() const { return pages_; }

 private:
  // Opens the next range, which ends at to_. False: no page for it is free.
  bool begin_range(uint64_t bytes, const std::vector<PageId>& source_pages, uint64_t& work);
  void convert(size_t first, const std::vector<PageId>& source_pages);
  [[nodiscard]] bool can_hash() const;
  void take_sums();
  uint64_t hash_one(const std::vector<PageId>& pages);
  // The next copies into copies_; false: there are no more up to to_.
  bool make_copies(const std::vector<PageId>& pages);
  void zero_tail(const std::vector<PageId>& source_pages);
  [[nodiscard]] const Pool& computed_pool(int r) const {
    return pools_[static_cast<size_t>(source_world_[static_cast<size_t>(r)])];
  }
  // What is summed and sent: the computed pages, or where they are converted to.
  [[nodiscard]] const Pool& source_pool(int r) const {
    if (converted_kv_ == nullptr) return computed_pool(r);
    return converted_kv_->pools()[static_cast<size_t>(source_world_[static_cast<size_t>(r)])];
  }

  std::shared_ptr<const layout::Planner> planner_;
  std::span<const Pool> pools_;
  ConvertedKv* converted_kv_;
  int dp_rank_;
  device::Streams& streams_;
  int64_t stripe_tokens_ = 0;
  uint64_t post_bytes_max_;
  size_t post_blocks_max_;
  layout::Plan plan_;
  Coverage coverage_;
  PageSums sums_;
  std::vector<int> source_world_, destination_world_;
  std::vector<transport::RegionId> destination_regions_;
  std::vector<PageId> destination_pages_;
  int64_t prompt_tokens_ = 0;
  int64_t first_page_ = 0;  // of decode's, after the cached ones
  uint32_t pages_ = 0;
  size_t hashed_ = 0, summed_ = 0;   // of checksums_: begun, taken
  std::vector<uint64_t> checksums_;  // page by page, in each the kinds
  // Tokens before sent_ are in posts, those before end_ may be. Of the range [sent_, to_), whose pages are converted_
  // where it is converted, all pieces before piece_ and that one up to token_ are in copies_ or posts.
  int64_t sent_ = 0, to_ = 0, end_ = 0;
  size_t piece_ = 0;
  int64_t token_ = 0;
  size_t copies_of_ = 0;  // the piece of copies_
  std::vector<layout::Copy> copies_;
  size_t taken_ = 0;  // of copies_
  std::shared_ptr<const ConvertedPages> converted_;
  std::vector<PageId> converted_pages_;  // in place of the sequence's, where they are converted now
};

// Cut points of an attempt's sends: the coarser page of the two grids.
[[nodiscard]] int64_t send_grain(const layout::Planner& planner);

}  // namespace baton::handoff
