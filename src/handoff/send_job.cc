#include "handoff/send_job.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "handoff/coverage.h"
#include "handoff/pairing.h"

namespace baton {

int64_t send_grain(const Planner& planner) {
  return std::max(planner.prefill().page_tokens, planner.decode().page_tokens);
}

SendJob::SendJob(std::shared_ptr<const Planner> planner, const Manifest& self, int dp_rank, const Manifest& peer,
                 const Grant& grant, std::span<const Pool> pools, uint64_t post_bytes_max, size_t post_blocks_max)
    : planner_(std::move(planner)),
      pools_(pools),
      post_bytes_max_(post_bytes_max),
      post_blocks_max_(post_blocks_max),
      plan_(planner_->plan_for(grant.attempt)),
      prompt_tokens_(grant.prompt_tokens),
      first_page_(grant.cached_tokens / planner_->decode().page_tokens) {
  for (int r = 0; r < planner_->source_ranks(); ++r) source_world_.push_back(world_rank(self.layout, dp_rank, r));
  for (int r = 0; r < planner_->destination_ranks(); ++r) {
    destination_world_.push_back(world_rank(peer.layout, grant.dp_rank, r));
    destination_regions_.emplace_back(peer.regions[static_cast<size_t>(destination_world_.back())].id);
    coverage_.push_back(pieces_of(plan_, r));
  }
  for (const GrantedPage& page : grant.pages) destination_pages_.push_back(page.page);
  pages_ = static_cast<uint32_t>(static_cast<int64_t>(grant.pages.size()) - first_page_);
  checksums_.assign(static_cast<size_t>(planner_->destination_ranks()) * pages_, 0);
}

std::vector<HandoffPost> SendJob::send(int64_t begin, int64_t end, const std::vector<PageId>& source_pages) {
  if (end == prompt_tokens_) zero_tail(source_pages);
  hash_pages(end, source_pages);
  std::vector<HandoffPost> posts;
  const auto add = [&](const Piece& piece, uint64_t from, uint64_t to, uint64_t length) {
    if (posts.empty() || posts.back().blocks.size() >= post_blocks_max_ ||
        posts.back().bytes + length > post_bytes_max_)
      posts.emplace_back();
    HandoffPost& post = posts.back();
    const auto destination = static_cast<size_t>(piece.destination);
    post.blocks.push_back({source_pool(piece.source).region, from, destination_regions_[destination], to, length});
    post.bytes += length;
    HandoffStats::Link& link =
        post.links[{source_world_[static_cast<size_t>(piece.source)], destination_world_[destination]}];
    link.bytes += length;
    ++link.copies;
  };
  for (const Piece& piece : plan_.pieces) {
    for (Copy copy : piece_copies(*planner_, piece, begin, end, source_pages, destination_pages_)) {
      while (copy.length > 0) {
        const uint64_t length = std::min(copy.length, post_bytes_max_);
        add(piece, copy.source_offset, copy.destination_offset, length);
        copy.source_offset += length;
        copy.destination_offset += length;
        copy.length -= length;
      }
    }
  }
  return posts;
}

void SendJob::hash_pages(int64_t end, const std::vector<PageId>& source_pages) {
  const int64_t page_tokens = planner_->decode().page_tokens;
  for (; hashed_ < pages_; ++hashed_) {
    const int64_t from = (first_page_ + hashed_) * page_tokens;
    const int64_t to = std::min(from + page_tokens, prompt_tokens_);
    if (to > end) return;
    for (size_t r = 0; r < coverage_.size(); ++r) {
      const auto pool_of = [&](const Piece& piece) {
        return PoolView{source_pool(piece.source).bytes, &planner_->source_shape(piece.source)};
      };
      checksums_[r * pages_ + static_cast<size_t>(hashed_)] = checksum(coverage_[r], pool_of, from, to, source_pages);
    }
  }
}

void SendJob::zero_tail(const std::vector<PageId>& source_pages) {
  const int64_t page_tokens = planner_->prefill().page_tokens;
  const int64_t used = prompt_tokens_ % page_tokens;
  if (used == 0 || page_tokens != planner_->decode().page_tokens) return;
  const uint64_t page = source_pages[static_cast<size_t>(prompt_tokens_ / page_tokens)].value();
  const auto left = static_cast<uint64_t>(page_tokens - used);
  for (int r = 0; r < planner_->source_ranks(); ++r) {
    const Pool& pool = source_pool(r);
    const PageShape& shape = pool.shape;
    const auto element = static_cast<uint64_t>(shape.geometry.element_size);
    const uint64_t k_bytes = left * static_cast<uint64_t>(shape.geometry.k_dim) * element;
    const uint64_t v_bytes = left * static_cast<uint64_t>(shape.geometry.v_dim) * element;
    for (int head = shape.heads.begin; head < shape.heads.end; ++head) {
      for (int layer = shape.layers.begin; layer < shape.layers.end; ++layer) {
        std::byte* base = pool.bytes.data() + page * shape.page_bytes();
        std::memset(base + shape.k_offset(layer, head, static_cast<int>(used)), 0, k_bytes);
        if (v_bytes > 0) std::memset(base + shape.v_offset(layer, head, static_cast<int>(used)), 0, v_bytes);
      }
    }
  }
}

std::vector<uint64_t> SendJob::checksums() const {
  BATON_CHECK(hashed_ == pages_, "{} of {} pages hashed at commit", hashed_, pages_);
  return checksums_;
}

}  // namespace baton
