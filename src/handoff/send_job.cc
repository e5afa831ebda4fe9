#include "handoff/send_job.h"

#include <algorithm>

#include "base/check.h"
#include "handoff/pairing.h"
#include "wire/frame_codec.h"

namespace baton::handoff {
namespace {
constexpr size_t kSumsUnderWayMax = 4096;  // what they need until they are taken is bounded
}  // namespace

int64_t send_grain(const layout::Planner& planner) {
  return std::max(planner.prefill().page_tokens, planner.decode().page_tokens);
}

SendJob::SendJob(std::shared_ptr<const layout::Planner> planner, const wire::Manifest& self, int dp_rank,
                 const wire::Manifest& peer, const wire::Grant& grant, std::span<const Pool> pools,
                 ConvertedKv* converted_kv, device::Streams& streams, uint64_t stripe_bytes, uint64_t post_bytes_max,
                 size_t post_blocks_max)
    : planner_(std::move(planner)),
      pools_(pools),
      converted_kv_(converted_kv),
      dp_rank_(dp_rank),
      streams_(streams),
      post_bytes_max_(post_bytes_max),
      post_blocks_max_(post_blocks_max),
      plan_(planner_->plan_for(grant.attempt)),
      coverage_(coverage_of(plan_, planner_->destination_ranks())),
      sums_(streams, wire::grant_digest(grant)),
      prompt_tokens_(grant.prompt_tokens),
      first_page_(grant.cached_tokens / planner_->decode().page_tokens),
      sent_(grant.cached_tokens),
      to_(sent_),
      end_(sent_),
      token_(sent_) {
  for (int r = 0; r < planner_->source_ranks(); ++r) source_world_.push_back(world_rank(self.layout, dp_rank, r));
  for (int r = 0; r < planner_->destination_ranks(); ++r) {
    destination_world_.push_back(world_rank(peer.layout, grant.dp_rank, r));
    destination_regions_.emplace_back(peer.regions[static_cast<size_t>(destination_world_.back())].id);
  }
  for (const wire::GrantedPage& page : grant.pages) destination_pages_.push_back(page.page);
  pages_ = static_cast<uint32_t>(static_cast<int64_t>(grant.pages.size()) - first_page_);
  checksums_.assign(coverage_.kinds.size() * pages_, 0);
  const int64_t grain = send_grain(*planner_);
  uint64_t grain_bytes = 1;
  for (const layout::Piece& piece : plan_.pieces) grain_bytes += layout::piece_bytes(*planner_, piece, 0, grain);
  stripe_tokens_ = grain * std::max<int64_t>(1, static_cast<int64_t>(stripe_bytes / grain_bytes));
  plan_.local_copies = {};  // decode's affair
  plan_.links = {};
}

void SendJob::extend(int64_t end, const std::vector<PageId>& source_pages) {
  BATON_CHECK(end > end_ && end <= prompt_tokens_, "{} after {} of {} tokens", end, end_, prompt_tokens_);
  end_ = end;
  if (end == prompt_tokens_) {
    zero_tail(source_pages);
  } else if (converted_kv_ != nullptr) {
    // Pages are converted once for sums and posts, so of grids that do not divide each other a part waits.
    const int64_t page = planner_->decode().page_tokens;
    end_ = end / page * page;
  }
}

SendJob::Step SendJob::step(uint64_t bytes, const std::vector<PageId>& source_pages) {
  Step step;
  if (sent_ == to_ && (!begin_range(bytes, source_pages, step.work) || step.work > 0)) return step;
  const std::vector<PageId>& pages = converted_kv_ == nullptr ? source_pages : converted_pages_;
  while (can_hash() && step.work < bytes) step.work += hash_one(pages);
  if (step.work > 0) {
    if (sums_.begun() >= kSumsUnderWayMax) take_sums();
    return step;
  }
  HandoffPost post;
  post.converted = converted_;  // of the range that it is of, which the last copy of it lets go
  while (post.blocks.size() < post_blocks_max_ && (taken_ < copies_.size() || make_copies(pages))) {
    layout::Copy& copy = copies_[taken_];
    const uint64_t length = std::min(copy.length, post_bytes_max_);
    if (!post.blocks.empty() && post.bytes + length > post_bytes_max_) break;
    const layout::Piece& piece = plan_.pieces[copies_of_];
    const auto destination = static_cast<size_t>(piece.destination);
    post.blocks.push_back({source_pool(piece.source).region, copy.source_offset, destination_regions_[destination],
                           copy.destination_offset, length});
    post.bytes += length;
    HandoffStats::Link& link =
        post.links[{source_world_[static_cast<size_t>(piece.source)], destination_world_[destination]}];
    link.bytes += length;
    ++link.copies;
    copy.source_offset += length;
    copy.destination_offset += length;
    copy.length -= length;
    if (copy.length == 0) ++taken_;
  }
  if (taken_ == copies_.size()) make_copies(pages);  // so that idle() is known
  step.work = (1 + post.blocks.size()) * 64;
  if (!post.blocks.empty()) step.post = std::move(post);
  return step;
}

bool SendJob::begin_range(uint64_t bytes, const std::vector<PageId>& source_pages, uint64_t& work) {
  piece_ = 0;
  token_ = sent_;
  to_ = end_;
  if (converted_kv_ == nullptr) {
    to_ = std::min(end_, (sent_ / stripe_tokens_ + 1) * stripe_tokens_);
    return true;
  }
  // Decode's pages are summed whole, so a range ends where one does.
  const int64_t page = planner_->prefill().page_tokens, decode_page = planner_->decode().page_tokens;
  const auto pages_to = [&](int64_t token) { return static_cast<size_t>((token + page - 1) / page); };
  const auto first = static_cast<size_t>(sent_ / page);
  const size_t least = pages_to(std::min(sent_ + decode_page, end_)) - first;
  const uint64_t page_bytes = static_cast<uint64_t>(page) * planner_->geometry().token_bytes();
  const size_t most = std::min(pages_to(end_) - first, std::max<size_t>(least, bytes / page_bytes));
  converted_ = converted_kv_->take(dp_rank_, least, most);
  if (converted_ == nullptr) {
    to_ = sent_;
    return false;
  }
  if (const int64_t reach = static_cast<int64_t>(first + converted_->pages.size()) * page; reach < end_)
    to_ = reach / decode_page * decode_page;
  convert(first, source_pages);
  work = converted_->pages.size() * page_bytes;
  return true;
}

// Whole pages: their values stand in the same order, whatever their type.
void SendJob::convert(size_t first, const std::vector<PageId>& source_pages) {
  converted_pages_.resize(source_pages.size());
  for (int r = 0; r < planner_->source_ranks(); ++r) {
    const Pool &from = computed_pool(r), &to = source_pool(r);
    const uint64_t size = from.shape.page_bytes(), converted_size = to.shape.page_bytes();
    if (size == 0) continue;
    std::vector<device::Conversion> conversions;
    for (size_t i = 0; i < converted_->pages.size(); ++i) {
      converted_pages_[first + i] = converted_->pages[i];
      conversions.push_back({source_pages[first + i].value() * size, converted_->pages[i].value() * converted_size,
                             converted_size / static_cast<uint64_t>(to.shape.geometry.element_size)});
    }
    streams_.of(from.memory).convert(from.memory, converted_kv_->from(), to.memory, converted_kv_->to(), conversions);
  }
  streams_.wait();  // the attempt may end before the next step, and its pages be used again
}

bool SendJob::make_copies(const std::vector<PageId>& pages) {
  copies_.clear();
  taken_ = 0;
  while (copies_.empty()) {
    if (piece_ == plan_.pieces.size()) {
      sent_ = to_;
      converted_.reset();
    }
    if (sent_ == to_) return false;
    const layout::Piece& piece = plan_.pieces[piece_];
    const int64_t cut =
        std::min(to_, layout::copies_cut(*planner_, piece, token_, static_cast<int64_t>(post_blocks_max_)));
    copies_ = layout::piece_copies(*planner_, piece, token_, cut, pages, destination_pages_);
    copies_of_ = piece_;
    token_ = cut;
    if (cut < to_) continue;
    ++piece_;
    token_ = sent_;
  }
  return true;
}

bool SendJob::can_hash() const {
  if (hashed_ == checksums_.size()) return false;
  const int64_t page = first_page_ + static_cast<int64_t>(hashed_ / coverage_.kinds.size());
  return std::min((page + 1) * planner_->decode().page_tokens, prompt_tokens_) <= to_;
}

uint64_t SendJob::hash_one(const std::vector<PageId>& pages) {
  const int64_t page_tokens = planner_->decode().page_tokens;
  const int64_t from = (first_page_ + static_cast<int64_t>(hashed_ / coverage_.kinds.size())) * page_tokens;
  const int64_t to = std::min(from + page_tokens, prompt_tokens_);
  const std::vector<layout::Piece>& pieces = coverage_.kinds[hashed_ % coverage_.kinds.size()];
  const auto pool_of = [&](const layout::Piece& piece) -> const Pool& { return source_pool(piece.source); };
  sums_.begin(pieces, pool_of, planner_->decode().page_tokens, from, to, pages);
  ++hashed_;
  uint64_t bytes = (1 + pieces.size()) * 64;
  for (const layout::Piece& piece : pieces) bytes += layout::piece_bytes(*planner_, piece, from, to);
  return bytes;
}

void SendJob::zero_tail(const std::vector<PageId>& source_pages) {
  const int64_t page_tokens = planner_->prefill().page_tokens;
  const int64_t used = prompt_tokens_ % page_tokens;
  if (used == 0 || page_tokens != planner_->decode().page_tokens) return;
  const PageId page = source_pages[static_cast<size_t>(prompt_tokens_ / page_tokens)];
  for (int r = 0; r < planner_->source_ranks(); ++r) {
    const Pool& pool = computed_pool(r);
    streams_.of(pool.memory).zero(pool.memory, layout::tail_runs(pool.shape, page, static_cast<int>(used)));
  }
  streams_.wait();  // the attempt may end before the next step, and its pages be used again
}

void SendJob::take_sums() {
  const std::vector<uint64_t> sums = sums_.take();
  std::copy(sums.begin(), sums.end(), checksums_.begin() + static_cast<ptrdiff_t>(summed_));
  summed_ += sums.size();
}

std::vector<uint64_t> SendJob::checksums() {
  BATON_CHECK(hashed_ == checksums_.size(), "{} of {} checksums made at commit", hashed_, checksums_.size());
  take_sums();
  std::vector<uint64_t> of_ranks;
  of_ranks.reserve(coverage_.kind_of.size() * pages_);
  for (const size_t kind : coverage_.kind_of) {
    for (size_t page = 0; page < pages_; ++page) of_ranks.push_back(checksums_[page * coverage_.kinds.size() + kind]);
  }
  return of_ranks;
}

}  // namespace baton::handoff
