#include "scheduler/group_memory.h"

#include <algorithm>

namespace baton::scheduler {

GroupMemory::GroupMemory(int pages, int page_tokens, bool cache)
    : page_tokens_(page_tokens),
      cache_(cache),
      ledger_(std::make_unique<kv::PageLedger>(pages)),
      tree_(std::make_unique<kv::PrefixTree>(*ledger_, page_tokens)) {}

int64_t GroupMemory::available() const { return int64_t{ledger_->counts().free} + tree_->evictable_pages(); }

int64_t GroupMemory::cached_tokens(std::span<const int32_t> tokens, const std::string& salt, int64_t limit) const {
  return cache_ ? tree_->cached_tokens(tokens.first(static_cast<size_t>(limit)), salt) : 0;
}

std::vector<kv::PageLease> GroupMemory::match(std::span<const int32_t> tokens, const std::string& salt, int64_t limit) {
  if (!cache_) return {};
  return tree_->match(tokens.first(static_cast<size_t>(limit)), salt);
}

Result<std::vector<kv::PageLease>> GroupMemory::reserve(int count) {
  const int missing = count - ledger_->counts().free;
  if (missing > 0) tree_->evict(missing);
  return ledger_->reserve(count);
}

void GroupMemory::remember(std::span<const int32_t> tokens, const std::string& salt,
                           std::span<const kv::PageLease> pages) {
  const size_t whole = tokens.size() / static_cast<size_t>(page_tokens_);
  if (!cache_ || whole == 0) return;
  std::vector<kv::PageLease> leases;
  leases.reserve(whole);
  for (const kv::PageLease& lease : pages.first(whole)) leases.push_back(lease.share());
  tree_->insert(tokens.first(whole * static_cast<size_t>(page_tokens_)), std::move(leases), salt);
}

std::vector<kv::PageLease> GroupMemory::adopt(std::span<const int32_t> tokens, const std::string& salt,
                                              std::vector<kv::PageLease>* pages) {
  std::vector<kv::PageLease> ours = match(tokens, salt, static_cast<int64_t>(tokens.size()));
  std::swap_ranges(ours.begin(), ours.end(), pages->begin());
  return ours;
}

void GroupMemory::flush() { tree_->clear(); }

void GroupMemory::audit() const {
  tree_->audit();
  ledger_->audit();
}

}  // namespace baton::scheduler
