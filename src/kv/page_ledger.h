// Who owns each page of a DP group's pool. Bookkeeping only: no bytes here. One thread (the engine's) owns a ledger.
//
// States: free; owned (a lease holds it; leases count, so a prefix can be shared); granted (a live grant lets a peer
// write it); quarantined (its writers are not known to be quiet); cached (only the prefix tree holds it, evictable).
// Invariant, checked on every change (S10): free + owned + granted + quarantined + cached == total.
//
//   free --reserve--> owned --grant--> granted --settle--> owned --last lease dropped--> free
//                       |                 |
//                       |                 +--lease dropped--> quarantined --release_quarantined--> free (S2)
//                       +--only the tree's lease left--> cached --shared again--> owned
//
// Misuse is a bug and stops the process: an operation on a page in another state, or a lease of another ledger.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace baton::kv {

enum class PageState : uint8_t { kFree, kOwned, kGranted, kQuarantined, kCached };
[[nodiscard]] const char* page_state_name(PageState state);

struct PageCounts {
  int free = 0, owned = 0, granted = 0, quarantined = 0, cached = 0;
  [[nodiscard]] int total() const { return free + owned + granted + quarantined + cached; }
  constexpr bool operator==(const PageCounts&) const = default;
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
  // A second reference to the same page, which must be owned or cached.
  [[nodiscard]] PageLease share() const;

 private:
  friend class PageLedger;
  PageLease(PageLedger* ledger, PageId page) : ledger_(ledger), page_(page) {}
  PageLedger* ledger_ = nullptr;
  PageId page_{};
};

// The prefix tree, told of its own pages as their first user comes and their last one goes: cached -> owned and back.
// It must not change the ledger meanwhile.
class PageUseObserver {
 public:
  virtual void page_used(PageId page) = 0;
  virtual void page_unused(PageId page) = 0;

 protected:
  ~PageUseObserver() = default;
};

class PageLedger {
 public:
  explicit PageLedger(int pages);  // pages >= 1, all free
  ~PageLedger();                   // checks that no lease is alive; quarantined pages may be left
  PageLedger(const PageLedger&) = delete;
  PageLedger& operator=(const PageLedger&) = delete;

  // `count` >= 0 owned pages in ascending order: one run of adjacent pages (the shortest free one that fits) where
  // there is one, else as few runs as possible (adjacent pages merge into one copy). kResourceExhausted says needed and
  // available. O(runs log pages).
  Result<std::vector<PageLease>> reserve(int count);

  // owned -> granted and back; the lease must be the only reference. A granted page cannot be shared, cached or freed:
  // dropping its lease quarantines it.
  void grant(const PageLease& lease);
  void settle(const PageLease& lease);
  // Evidence that the writers of a quarantined page are quiet (Drained, our own fence, or the writer fenced): it
  // becomes free.
  void release_quarantined(PageId page);

  // The prefix tree's reference: a page that only the tree holds counts as cached. The tree marks a page while it holds
  // a lease of it, and unmarks it before it drops that lease.
  void mark_cached(PageId page, bool in_tree);
  // There is one at most; null: none. Not told of what mark_cached() does.
  void observe_use(PageUseObserver* observer);

  [[nodiscard]] PageState state(PageId page) const;
  // Raised each time a page leaves the free list, so 0 is a page never reserved; a message about an older generation is
  // stale (S8).
  [[nodiscard]] uint32_t generation(PageId page) const;
  [[nodiscard]] PageCounts counts() const { return counts_; }
  [[nodiscard]] int total() const { return static_cast<int>(entries_.size()); }
  // Leases on a page (the tree's included).
  [[nodiscard]] int references(PageId page) const;

  // Recounts everything from the pages: states against references, counts, and the free runs. O(pages), so for tests
  // and idle moments.
  void audit() const;

 private:
  friend class PageLease;
  struct PageRecord {
    PageState state = PageState::kFree;
    bool in_tree = false;
    int references = 0;
    uint32_t generation = 0;
  };
  [[nodiscard]] PageRecord& entry(PageId page);
  [[nodiscard]] const PageRecord& entry(PageId page) const;
  [[nodiscard]] PageRecord& entry_of(const PageLease& lease);
  void move_to(PageRecord& entry, PageState state);
  void retain(PageId page);
  void drop(PageId page);
  void check() const;

  void add_run(uint32_t begin, uint32_t end);
  void remove_run(uint32_t begin);
  void free_page(PageId page);
  uint32_t take_run(uint32_t wanted, std::vector<uint32_t>& taken);

  std::vector<PageRecord> entries_;
  PageCounts counts_;
  PageUseObserver* observer_ = nullptr;
  // The free pages as maximal runs: begin -> end, and (length, begin) to find the shortest that fits.
  std::map<uint32_t, uint32_t> free_runs_;
  std::set<std::pair<uint32_t, uint32_t>> free_runs_by_length_;
};

}  // namespace baton::kv
