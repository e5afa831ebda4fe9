#include "kv/page_ledger.h"

#include <gtest/gtest.h>

#include <optional>

#include "base/random.h"
#include "kv/lease_testing.h"

namespace baton::kv {
namespace {

std::vector<PageLease> must_reserve(PageLedger& ledger, int count) {
  Result<std::vector<PageLease>> leases = ledger.reserve(count);
  BATON_CHECK(leases.ok(), "{}", leases.error().message);
  return std::move(*leases);
}

TEST(PageLedger, ReservesTheShortestRunThatFits) {
  PageLedger ledger(16);
  std::vector<PageLease> all = must_reserve(ledger, 16);
  for (const int page : {1, 2, 3, 6, 7, 10, 12, 13, 14, 15}) all[static_cast<size_t>(page)] = PageLease();
  ledger.audit();  // free: 1-3, 6-7, 10, 12-15
  EXPECT_EQ(numbers(must_reserve(ledger, 1)), (std::vector<uint32_t>{10}));
  EXPECT_EQ(numbers(must_reserve(ledger, 2)), (std::vector<uint32_t>{6, 7}));
  EXPECT_EQ(numbers(must_reserve(ledger, 3)), (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(numbers(must_reserve(ledger, 4)), (std::vector<uint32_t>{12, 13, 14, 15}));
  // No run of six: the longest, then the shortest that has the other two; in ascending order.
  EXPECT_EQ(numbers(must_reserve(ledger, 6)), (std::vector<uint32_t>{6, 7, 12, 13, 14, 15}));
  EXPECT_EQ(numbers(must_reserve(ledger, 0)), (std::vector<uint32_t>{}));
  ledger.audit();
}

TEST(PageLedger, FreedNeighboursJoin) {
  PageLedger ledger(5);
  std::vector<PageLease> all = must_reserve(ledger, 5);
  for (const size_t page : {1u, 3u, 2u, 0u, 4u}) all[page] = PageLease();
  ledger.audit();
  EXPECT_EQ(numbers(must_reserve(ledger, 5)), (std::vector<uint32_t>{0, 1, 2, 3, 4}));
}

TEST(PageLedger, ExhaustionSaysTheNumbers) {
  PageLedger ledger(4);
  const std::vector<PageLease> held = must_reserve(ledger, 3);
  const auto refused = ledger.reserve(2);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(refused.error().message, "2 KV pages needed, 1 of 4 free (3 owned, 0 granted, 0 quarantined, 0 cached)");
  EXPECT_EQ(ledger.counts(), (PageCounts{.free = 1, .owned = 3}));
}

TEST(PageLedger, GenerationRisesEachTimeAPageLeavesTheFreeList) {
  PageLedger ledger(1);
  const PageId page(0);
  EXPECT_EQ(ledger.generation(page), 0u);
  for (uint32_t generation = 1; generation <= 3; ++generation) {
    std::vector<PageLease> lease = must_reserve(ledger, 1);
    EXPECT_EQ(ledger.generation(page), generation);
    ledger.grant(lease[0]);
    ledger.settle(lease[0]);
    const PageLease shared = lease[0].share();
    lease.clear();
    EXPECT_EQ(ledger.generation(page), generation);
  }
  EXPECT_EQ(ledger.state(page), PageState::kFree);
}

TEST(PageLedger, DroppedGrantIsQuarantinedUntilEvidence) {
  PageLedger ledger(2);
  std::vector<PageLease> leases = must_reserve(ledger, 2);
  ledger.grant(leases[0]);
  ledger.grant(leases[1]);
  EXPECT_EQ(ledger.counts(), (PageCounts{.granted = 2}));
  leases.clear();
  EXPECT_EQ(ledger.counts(), (PageCounts{.quarantined = 2}));
  EXPECT_FALSE(ledger.reserve(1).ok());
  ledger.release_quarantined(PageId(1));
  EXPECT_EQ(numbers(must_reserve(ledger, 1)), (std::vector<uint32_t>{1}));
  ledger.audit();
}

TEST(PageLedger, MovedLeasesDropOnce) {
  PageLedger ledger(2);
  std::vector<PageLease> leases = must_reserve(ledger, 2);
  PageLease a = std::move(leases[0]);
  EXPECT_TRUE(leases[0].empty());
  a = std::move(leases[1]);  // drops page 0
  EXPECT_EQ(ledger.state(PageId(0)), PageState::kFree);
  PageLease& self = a;
  a = std::move(self);
  EXPECT_EQ(ledger.references(PageId(1)), 1);
}

TEST(PageLedger, PageThatOnlyTheTreeHoldsIsCached) {
  PageLedger ledger(1);
  std::vector<PageLease> user = must_reserve(ledger, 1);
  const PageId page = user[0].page();
  PageLease tree = user[0].share();
  ledger.mark_cached(page, true);
  EXPECT_EQ(ledger.state(page), PageState::kOwned);
  user.clear();
  EXPECT_EQ(ledger.state(page), PageState::kCached);
  {
    const PageLease again = tree.share();
    EXPECT_EQ(ledger.state(page), PageState::kOwned);
  }
  EXPECT_EQ(ledger.state(page), PageState::kCached);
  ledger.mark_cached(page, false);
  EXPECT_EQ(ledger.state(page), PageState::kOwned);
  tree = PageLease();
  EXPECT_EQ(ledger.state(page), PageState::kFree);
}

// The ledger beside a plain list of pages, under random operations.
class Model {
 public:
  Model(int pages, uint64_t seed) : random_(seed), ledger_(pages), pages_(static_cast<size_t>(pages)) {}

  void step() {
    switch (random_.below(7)) {
      case 0:
        reserve();
        break;
      case 1:
        if (Held* h = any(PageState::kOwned)) share(*h);
        break;
      case 2:
        if (!held_.empty()) drop(random_.below(held_.size()));
        break;
      case 3:
        if (Held* h = any(PageState::kOwned); h != nullptr && model(*h).references == 1)
          set(*h, PageState::kGranted, &PageLedger::grant);
        break;
      case 4:
        if (Held* h = any(PageState::kGranted)) set(*h, PageState::kOwned, &PageLedger::settle);
        break;
      case 5:
        if (!held_.empty()) drop(random_.below(held_.size()));
        break;
      case 6:
        release();
        break;
    }
    compare();
  }

  void finish() {
    while (!held_.empty()) drop(held_.size() - 1);
    for (size_t i = 0; i < pages_.size(); ++i) release();
    compare();
    for (const Page& page : pages_) ASSERT_NE(page.state, PageState::kOwned);
  }

 private:
  struct Page {
    PageState state = PageState::kFree;
    int references = 0;
    uint32_t generation = 0;
  };
  using Held = PageLease;

  Page& model(const PageLease& lease) { return pages_[lease.page().value()]; }

  Held* any(PageState state) {
    if (held_.empty()) return nullptr;
    Held& h = held_[random_.below(held_.size())];
    return model(h).state == state ? &h : nullptr;
  }

  void reserve() {
    const auto count = static_cast<int>(random_.below(6));
    int free = 0;
    for (const Page& page : pages_) free += page.state == PageState::kFree ? 1 : 0;
    auto leases = ledger_.reserve(count);
    ASSERT_EQ(leases.ok(), count <= free);
    if (!leases.ok()) return;
    ASSERT_EQ(leases->size(), static_cast<size_t>(count));
    for (size_t i = 0; i < leases->size(); ++i) {
      PageLease& lease = (*leases)[i];
      Page& page = model(lease);
      ASSERT_EQ(page.state, PageState::kFree);
      if (i > 0) {
        ASSERT_GT(lease.page(), held_.back().page());
      }
      page = {PageState::kOwned, 1, page.generation + 1};
      held_.push_back(std::move(lease));
    }
  }

  void share(const Held& h) {
    ++model(h).references;
    PageLease second = h.share();
    held_.push_back(std::move(second));
  }

  void drop(size_t at) {
    Page& page = model(held_[at]);
    if (--page.references == 0)
      page.state = page.state == PageState::kGranted ? PageState::kQuarantined : PageState::kFree;
    std::swap(held_[at], held_.back());
    held_.pop_back();
  }

  void set(const Held& h, PageState state, void (PageLedger::*change)(const PageLease&)) {
    (ledger_.*change)(h);
    model(h).state = state;
  }

  void release() {
    for (size_t i = 0; i < pages_.size(); ++i) {
      if (pages_[i].state != PageState::kQuarantined) continue;
      ledger_.release_quarantined(PageId(static_cast<uint32_t>(i)));
      pages_[i].state = PageState::kFree;
      return;
    }
  }

  void compare() {
    ledger_.audit();
    for (size_t i = 0; i < pages_.size(); ++i) {
      const PageId id(static_cast<uint32_t>(i));
      ASSERT_EQ(ledger_.state(id), pages_[i].state) << "page " << i;
      ASSERT_EQ(ledger_.references(id), pages_[i].references) << "page " << i;
      ASSERT_EQ(ledger_.generation(id), pages_[i].generation) << "page " << i;
    }
  }

  Random random_;
  PageLedger ledger_;
  std::vector<Page> pages_;
  std::vector<Held> held_;
};

TEST(PageLedger, RandomOperationsMatchThePlainModel) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Model model(static_cast<int>(4 + seed), seed);
    for (int i = 0; i < 2000; ++i) {
      model.step();
      if (testing::Test::HasFatalFailure()) return;
    }
    model.finish();
  }
}

TEST(PageLedgerDeathTest, MisuseStops) {
  PageLedger ledger(4), other(1);
  const std::vector<PageLease> foreign = must_reserve(other, 1);
  const std::vector<PageLease> leases = must_reserve(ledger, 3);
  const PageLease second = leases[1].share();
  EXPECT_DEATH(ledger.grant(foreign[0]), "another ledger");
  EXPECT_DEATH(ledger.grant(PageLease()), "a lease of nothing");
  EXPECT_DEATH(ledger.grant(leases[1]), "grant of page 1: owned, 2 references");
  EXPECT_DEATH(ledger.settle(leases[0]), "settle of page 0: owned");
  EXPECT_DEATH(ledger.release_quarantined(PageId(0)), "owned, not quarantined");
  EXPECT_DEATH(ledger.release_quarantined(PageId(3)), "free, not quarantined");
  EXPECT_DEATH((void)ledger.state(PageId(4)), "page 4 of 4");
  EXPECT_DEATH(ledger.mark_cached(PageId(3), true), "mark_cached of page 3: free");
  EXPECT_DEATH(ledger.mark_cached(PageId(0), false), "not in the tree");
  EXPECT_DEATH((void)ledger.reserve(-1), "reserve");
  EXPECT_DEATH((void)PageLease().share(), "empty lease");
  ledger.grant(leases[0]);
  EXPECT_DEATH(ledger.grant(leases[0]), "grant of page 0: granted");
  EXPECT_DEATH((void)leases[0].share(), "share of page 0: granted");
  EXPECT_DEATH(ledger.mark_cached(PageId(0), true), "mark_cached of page 0: granted");
  EXPECT_DEATH(PageLedger(0), "a ledger of 0 pages");
}

TEST(PageLedgerDeathTest, TreeMustUnmarkBeforeItDrops) {
  PageLedger ledger(1);
  std::vector<PageLease> lease = must_reserve(ledger, 1);
  ledger.mark_cached(lease[0].page(), true);
  EXPECT_DEATH(ledger.grant(lease[0]), "grant of page 0: cached");
  EXPECT_DEATH(lease.clear(), "in the tree");
  ledger.mark_cached(lease[0].page(), false);
}

TEST(PageLedgerDeathTest, EndsOnlyWithoutLeases) {
  EXPECT_DEATH(
      {
        std::optional<PageLedger> ledger(std::in_place, 2);
        const std::vector<PageLease> lease = must_reserve(*ledger, 1);
        ledger.reset();
      },
      "leases alive: owned 1 granted 0 cached 0");
}

}  // namespace
}  // namespace baton::kv
