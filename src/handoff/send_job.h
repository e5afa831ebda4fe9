// What a granted attempt writes: blocks cut into posts, and the checksums of the destination pages. No I/O.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "handoff/events.h"
#include "layout/plan.h"
#include "transport/transport.h"
#include "wire/frames.h"

namespace baton {

struct HandoffPost {
  std::vector<Block> blocks;
  uint64_t bytes = 0;
  std::map<std::pair<int, int>, HandoffStats::Link> links;  // (source world rank, destination world rank)
};

class SendJob {
 public:
  // `dp_rank` is the prefill group that computes. `pools` must outlive the job.
  SendJob(std::shared_ptr<const Planner> planner, const Manifest& self, int dp_rank, const Manifest& peer,
          const Grant& grant, std::span<const Pool> pools, uint64_t post_bytes_max, size_t post_blocks_max);

  // The posts of tokens [begin, end), whose KV is in `source_pages`. Ranges come in order and without gaps; each but
  // the last ends at a page of either grid. Hashes first, so that whatever changes the sources from here on is found at
  // decode; the tail of a last, partial page is zeroed when whole pages travel, so that no older bytes of the page
  // leave the process (S12).
  std::vector<HandoffPost> send(int64_t begin, int64_t end, const std::vector<PageId>& source_pages);

  // Layout as in Commit.
  [[nodiscard]] std::vector<uint64_t> checksums() const;
  [[nodiscard]] uint32_t checksum_pages() const { return pages_; }

 private:
  void hash_pages(int64_t end, const std::vector<PageId>& source_pages);
  void zero_tail(const std::vector<PageId>& source_pages);
  [[nodiscard]] const Pool& source_pool(int r) const {
    return pools_[static_cast<size_t>(source_world_[static_cast<size_t>(r)])];
  }

  std::shared_ptr<const Planner> planner_;
  std::span<const Pool> pools_;
  uint64_t post_bytes_max_;
  size_t post_blocks_max_;
  Plan plan_;
  std::vector<std::vector<Piece>> coverage_;  // by destination rank of the group
  std::vector<int> source_world_, destination_world_;
  std::vector<RegionId> destination_regions_;
  std::vector<PageId> destination_pages_;
  int64_t prompt_tokens_ = 0;
  int64_t first_page_ = 0;  // of decode's, after the cached ones
  int64_t hashed_ = 0;      // pages hashed
  uint32_t pages_ = 0;
  std::vector<uint64_t> checksums_;
};

// Cut points of an attempt's sends: the coarser page of the two grids.
[[nodiscard]] int64_t send_grain(const Planner& planner);

}  // namespace baton
