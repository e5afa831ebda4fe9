// The page memory of one DP group: its ledger and its prefix tree, which gives pages back when they are wanted.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kv/page_ledger.h"
#include "kv/prefix_tree.h"

namespace baton::scheduler {

class GroupMemory {
 public:
  // `cache` false: nothing is remembered and nothing matches.
  GroupMemory(int pages, int page_tokens, bool cache);

  [[nodiscard]] kv::PageLedger& ledger() { return *ledger_; }
  [[nodiscard]] const kv::PageLedger& ledger() const { return *ledger_; }
  // The most that reserve() can give.
  [[nodiscard]] int64_t available() const;

  // The length of the longest cached prefix of whole pages within tokens [0, limit).
  [[nodiscard]] int64_t cached_tokens(std::span<const int32_t> tokens, const std::string& salt, int64_t limit) const;
  // Shared leases on it.
  std::vector<kv::PageLease> match(std::span<const int32_t> tokens, const std::string& salt, int64_t limit);
  // `count` pages, evicting the least recently used prefixes as needed. kResourceExhausted: needed and available.
  Result<std::vector<kv::PageLease>> reserve(int count);
  // The KV of `tokens` is in `pages` (token order): keeps the whole pages of it for others.
  void remember(std::span<const int32_t> tokens, const std::string& salt, std::span<const kv::PageLease> pages);
  // After remember(): exchanges leases on whole pages for the tree's own of the same tokens, so that duplicates become
  // free and no cached page lies before one that only a sequence holds, where it could not be evicted. Not for pages
  // that a peer reads. Returns the leases given up.
  std::vector<kv::PageLease> adopt(std::span<const int32_t> tokens, const std::string& salt,
                                   std::vector<kv::PageLease>* pages);
  // Forgets every prefix that no sequence holds.
  void flush();
  void audit() const;

 private:
  int page_tokens_;
  bool cache_;
  std::unique_ptr<kv::PageLedger> ledger_;
  std::unique_ptr<kv::PrefixTree> tree_;  // after the ledger: its leases go first
};

}  // namespace baton::scheduler
