// Who owns each page of a DP group's pool. Bookkeeping only: no bytes here. One thread (the engine's) owns a ledger.
//
// States: free; owned (a lease holds it; leases count, so a prefix can be shared); granted (a live grant lets a peer write it);
// quarantined (its writers are not known to be quiet); cached (only the prefix tree holds it, evictable).
// Invariant, checked on every change (S10): free + owned + granted + quarantined + cached == total.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace baton {

enum class PageState : uint8_t { kFree, kOwned, kGranted, kQuarantined, kCached };

struct PageCounts {
  int free = 0, owned = 0, granted = 0, quarantined = 0, cached = 0;
  [[nodiscard]] int total() const { return free + owned + granted + quarantined + cached; }
};

class PageLedger;

// One reference to one page, returned to the ledger when destroyed. Move only.
class PageLease {
 public:
  PageLease() = default;
  ~PageLease();
  PageLease(PageLease&& other) noexcept;
  PageLease& operator=(PageLease&& other) noexcept;

  [[nodiscard]] PageId page() const { return page_; }
  [[nodiscard]] bool empty() const { return ledger_ == nullptr; }
  // A second reference to the same page.
  [[nodiscard]] PageLease share() const;

 private:
  friend class PageLedger;
  PageLease(PageLedger* ledger, PageId page) : ledger_(ledger), page_(page) {}
  PageLedger* ledger_ = nullptr;
  PageId page_{};
};

class PageLedger {
 public:
  explicit PageLedger(int pages);
  ~PageLedger();  // checks that no lease is alive
  PageLedger(const PageLedger&) = delete;
  PageLedger& operator=(const PageLedger&) = delete;

  // `count` owned pages, in ascending runs where the free list allows (adjacent pages merge into one copy). kResourceExhausted says
  // needed and available.
  Result<std::vector<PageLease>> reserve(int count);

  // owned -> granted and back; the lease must be the only reference. A granted page cannot be shared, cached or freed: dropping its
  // lease quarantines it.
  void grant(const PageLease& lease);
  void settle(const PageLease& lease);
  // Evidence that the writers of a quarantined page are quiet (Drained, our own fence, or the writer fenced): it becomes free.
  void release_quarantined(PageId page);

  // The prefix tree's reference: a page that only the tree holds counts as cached.
  void mark_cached(PageId page, bool in_tree);

  [[nodiscard]] PageState state(PageId page) const;
  // Raised each time a page leaves the free list; a message about an older generation is stale (S8).
  [[nodiscard]] uint32_t generation(PageId page) const;
  [[nodiscard]] PageCounts counts() const { return counts_; }
  [[nodiscard]] int total() const;
  // Owned leases on a page (the tree's included).
  [[nodiscard]] int references(PageId page) const;

 private:
  friend class PageLease;
  struct Entry;
  void retain(PageId page);
  void drop(PageId page);
  void check() const;
  std::vector<Entry> entries_;
  std::vector<PageId> free_;
  PageCounts counts_;
};

}  // namespace baton
