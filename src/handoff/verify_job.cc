#include "handoff/verify_job.h"

#include <algorithm>

#include "base/check.h"
#include "handoff/pairing.h"
#include "wire/frame_codec.h"

namespace baton::handoff {
namespace {
// Made ahead of the copying.
constexpr int64_t kCopiesAtOnce = 1024;
}  // namespace

ReceivePlan::ReceivePlan(std::shared_ptr<const layout::Planner> planner, const wire::Manifest& self,
                         const wire::Grant& grant, std::span<const Pool> pools)
    : planner_(std::move(planner)),
      pools_(pools),
      plan_(planner_->plan_for(grant.attempt)),
      prompt_tokens_(grant.prompt_tokens),
      cached_tokens_(grant.cached_tokens),
      digest_(wire::grant_digest(grant)) {
  for (int r = 0; r < planner_->destination_ranks(); ++r) world_.push_back(world_rank(self.layout, grant.dp_rank, r));
  for (const wire::GrantedPage& page : grant.pages) pages_.push_back(page.page);
  for (const layout::Piece& piece : plan_.pieces)
    bytes_ += layout::piece_bytes(*planner_, piece, cached_tokens_, prompt_tokens_);
}

std::vector<transport::WindowRange> ReceivePlan::window() const {
  std::vector<transport::WindowRange> ranges;
  const auto first = static_cast<size_t>(cached_tokens_ / planner_->decode().page_tokens);
  for (size_t r = 0; r < world_.size(); ++r) {
    const Pool& own = pool(static_cast<int>(r));
    const uint64_t page_bytes = own.shape.page_bytes();
    if (page_bytes == 0) continue;
    for (size_t i = first; i < pages_.size(); ++i) {
      const uint64_t offset = pages_[i].value() * page_bytes;
      if (i > first && ranges.back().offset + ranges.back().length == offset) {
        ranges.back().length += page_bytes;
      } else {
        ranges.push_back({own.region, offset, page_bytes});
      }
    }
  }
  return ranges;
}

Status ReceivePlan::check_counts(const wire::Commit& commit) const {
  const auto pages = static_cast<int64_t>(pages_.size()) - cached_tokens_ / planner_->decode().page_tokens;
  const auto ranks = static_cast<int64_t>(world_.size());
  if (commit.bytes != bytes_)
    return error(ErrorCode::kCorrupt, "prefill committed {} bytes, the plan has {}", commit.bytes, bytes_);
  if (commit.copies > commit.bytes)
    return error(ErrorCode::kCorrupt, "prefill committed {} copies of {} bytes", commit.copies, commit.bytes);
  if (commit.checksum_pages != static_cast<uint64_t>(pages) ||
      commit.checksums.size() != static_cast<uint64_t>(pages * ranks))
    return error(ErrorCode::kCorrupt, "prefill committed {} checksums of {} pages, {} of {} expected",
                 commit.checksums.size(), commit.checksum_pages, pages * ranks, pages);
  return {};
}

VerifyJob::VerifyJob(const ReceivePlan& plan, wire::Commit commit, device::Streams& streams)
    : plan_(plan),
      commit_(std::move(commit)),
      streams_(streams),
      token_(plan.cached_tokens_),
      coverage_(coverage_of(plan.plan_, static_cast<int>(plan.world_.size()))),
      sums_(streams, plan.digest_) {}

bool VerifyJob::step(uint64_t bytes) {
  for (uint64_t worked = 0; worked < bytes;) {
    if (taken_ < copies_.size() || make_copies()) {
      worked += copy_some(bytes - worked);
    } else if (status_ && checked_ < commit_.checksums.size()) {
      worked += check_some(bytes - worked);
    } else {
      return true;
    }
  }
  return false;
}

bool VerifyJob::make_copies() {
  copies_.clear();
  taken_ = 0;
  const std::vector<layout::LocalCopy>& locals = plan_.plan_.local_copies;
  while (copies_.empty() && local_ < locals.size()) {
    const layout::LocalCopy& local = locals[local_];
    const int64_t cut =
        std::min(plan_.prompt_tokens_, layout::copies_cut(*plan_.planner_, local, token_, kCopiesAtOnce));
    copies_ = baton::layout::local_copies(*plan_.planner_, local, token_, cut, plan_.pages_);
    copies_of_ = local_;
    token_ = cut;
    if (cut < plan_.prompt_tokens_) continue;
    ++local_;
    token_ = plan_.cached_tokens_;
  }
  return !copies_.empty();
}

uint64_t VerifyJob::copy_some(uint64_t bytes) {
  const layout::LocalCopy& local = plan_.plan_.local_copies[copies_of_];
  const size_t first = taken_;
  uint64_t worked = 0;
  for (; taken_ < copies_.size() && worked < bytes; ++taken_) {
    local_bytes_ += copies_[taken_].length;
    worked += copies_[taken_].length + 64;
  }
  local_copies_ += taken_ - first;
  const device::Memory& to = plan_.pool(local.destination).memory;
  streams_.of(to).copy(plan_.pool(local.source).memory, to, std::span(copies_).subspan(first, taken_ - first));
  streams_.wait();  // the attempt may end before the next step, and its pages be used again
  return worked;
}

std::pair<int64_t, int64_t> VerifyJob::tokens_of(uint64_t index) const {
  const int64_t page_tokens = plan_.planner_->decode().page_tokens;
  const int64_t from = plan_.cached_tokens_ + static_cast<int64_t>(index % commit_.checksum_pages) * page_tokens;
  return {from, std::min(from + page_tokens, plan_.prompt_tokens_)};
}

uint64_t VerifyJob::check_some(uint64_t bytes) {
  uint64_t worked = 0;
  for (uint64_t index = checked_; index < commit_.checksums.size() && worked < bytes; ++index) worked += sum_one(index);
  for (const uint64_t sum : sums_.take()) {
    if (status_) compare(sum);
  }
  return worked;
}

uint64_t VerifyJob::sum_one(uint64_t index) {
  const uint64_t rank = index / commit_.checksum_pages;
  const auto [from, to] = tokens_of(index);
  const Pool& pool = plan_.pool(static_cast<int>(rank));
  const auto pool_of = [&](const layout::Piece&) -> const Pool& { return pool; };
  sums_.begin(coverage_.kinds[coverage_.kind_of[rank]], pool_of, plan_.planner_->decode().page_tokens, from, to,
              plan_.pages_);
  return std::max<uint64_t>(pool.shape.page_bytes(), 1);
}

void VerifyJob::compare(uint64_t sum) {
  const auto [from, to] = tokens_of(checked_);
  const uint64_t rank = checked_ / commit_.checksum_pages;
  const uint64_t expected = commit_.checksums[checked_++];
  if (sum == expected) return;
  status_ =
      error(ErrorCode::kCorrupt, "the KV of tokens {} to {} on decode rank {} sums to {:016x}, prefill sent {:016x}",
            from, to, rank, sum, expected);
}

}  // namespace baton::handoff
