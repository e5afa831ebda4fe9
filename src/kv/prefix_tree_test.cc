#include "kv/prefix_tree.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <algorithm>
#include <map>
#include <optional>

#include "base/random.h"
#include "kv/lease_testing.h"

namespace baton::kv {
namespace {

using Tokens = std::vector<int32_t>;

class PrefixTreeTest : public testing::Test {
 protected:
  // Reserves pages for the full pages of `tokens` and leaves them to the tree alone.
  int insert(const Tokens& tokens, std::string_view salt = "") {
    Result<std::vector<PageLease>> pages = ledger_.reserve(static_cast<int>(tokens.size() / 2));
    BATON_CHECK(pages.ok(), "{}", pages.error().message);
    const int added = tree_.insert(tokens, std::move(*pages), salt);
    audit();
    return added;
  }
  std::vector<uint32_t> match(const Tokens& tokens, std::string_view salt = "") {
    const int64_t expected = tree_.cached_tokens(tokens, salt);
    const std::vector<uint32_t> found = numbers(tree_.match(tokens, salt));
    EXPECT_EQ(static_cast<int64_t>(found.size()) * 2, expected);
    audit();
    return found;
  }
  void audit() {
    tree_.audit();
    ledger_.audit();
  }

  PageLedger ledger_{16};
  PrefixTree tree_{ledger_, 2};
};

using Pages = std::vector<uint32_t>;

TEST_F(PrefixTreeTest, MatchesTheLongestPrefixOfFullPages) {
  EXPECT_EQ(insert({1, 2, 3, 4, 5, 6, 7}), 3);  // token 7 fills no page
  EXPECT_EQ(match({1, 2, 3, 4, 5, 6, 7, 8}), (Pages{0, 1, 2}));
  EXPECT_EQ(match({1, 2, 3, 4, 5}), (Pages{0, 1}));
  EXPECT_EQ(match({1, 2, 3, 9}), (Pages{0}));
  EXPECT_EQ(match({1}), Pages{});
  EXPECT_EQ(match({}), Pages{});
  EXPECT_EQ(match({2, 1}), Pages{});
  EXPECT_EQ(ledger_.counts(), (PageCounts{.free = 13, .cached = 3}));
}

TEST_F(PrefixTreeTest, BranchesShareTheirCommonPages) {
  insert({1, 1, 2, 2, 3, 3});
  EXPECT_EQ(insert({1, 1, 2, 2, 4, 4}), 1);
  //  [1 1 2 2] - [3 3]
  //            - [4 4]
  EXPECT_EQ(tree_.nodes(), 3);
  EXPECT_EQ(tree_.pages(), 4);
  EXPECT_EQ(match({1, 1, 2, 2, 3, 3}), (Pages{0, 1, 2}));
  EXPECT_EQ(match({1, 1, 2, 2, 4, 4}), (Pages{0, 1, 5}));  // 3 and 4 were duplicates of 0 and 1 and are free again
  EXPECT_EQ(ledger_.state(PageId(3)), PageState::kFree);
  EXPECT_EQ(insert({1, 1, 2, 2, 4, 4}), 0);
}

TEST_F(PrefixTreeTest, SaltsNeverShare) {
  insert({1, 1, 2, 2}, "tenant a");
  EXPECT_EQ(match({1, 1, 2, 2}, "tenant b"), Pages{});
  EXPECT_EQ(match({1, 1, 2, 2}, ""), Pages{});
  EXPECT_EQ(insert({1, 1, 2, 2}, "tenant b"), 2);
  EXPECT_EQ(match({1, 1, 2, 2}, "tenant a"), (Pages{0, 1}));
  EXPECT_EQ(match({1, 1, 2, 2}, "tenant b"), (Pages{2, 3}));
}

TEST_F(PrefixTreeTest, EvictsTheLeastRecentlyUsedLeafFromItsEnd) {
  insert({1, 1, 2, 2, 3, 3});  // pages 0 1 2
  insert({1, 1, 4, 4});        // page 4
  insert({5, 5});              // page 3, the shortest run
  (void)match({1, 1, 2, 2, 3, 3});
  EXPECT_EQ(tree_.evict(1), 1);  // [4 4] is oldest
  EXPECT_EQ(match({1, 1, 4, 4}), (Pages{0}));
  EXPECT_EQ(tree_.evict(1), 1);  // then [5 5]
  EXPECT_EQ(tree_.cached_tokens(Tokens{5, 5}, ""), 0);
  EXPECT_EQ(tree_.evict(1), 1);  // then the end of the longest prompt
  EXPECT_EQ(match({1, 1, 2, 2, 3, 3}), (Pages{0, 1}));
  EXPECT_EQ(tree_.evict(99), 2);
  EXPECT_EQ(tree_.nodes(), 0);
  EXPECT_EQ(ledger_.counts(), (PageCounts{.free = 16}));
  audit();
}

TEST_F(PrefixTreeTest, PagesInUseAndBeforePagesInUseStay) {
  insert({1, 1, 2, 2, 3, 3});
  {
    const std::vector<PageLease> user = tree_.match(Tokens{1, 1, 2, 2}, "");
    EXPECT_EQ(tree_.evictable_pages(), 1);
    EXPECT_EQ(tree_.evict(9), 1);
    EXPECT_EQ(ledger_.counts(), (PageCounts{.free = 14, .owned = 2}));
    audit();
  }
  EXPECT_EQ(tree_.evictable_pages(), 2);
  Result<std::vector<PageLease>> duplicate = ledger_.reserve(2);
  ASSERT_TRUE(duplicate.ok());
  std::vector<PageLease> given;
  for (const PageLease& page : *duplicate) given.push_back(page.share());
  std::vector<PageLease> last;
  {
    Result<std::vector<PageLease>> third = ledger_.reserve(1);
    ASSERT_TRUE(third.ok());
    last.push_back((*third)[0].share());
    given.push_back(std::move((*third)[0]));
  }
  EXPECT_EQ(tree_.insert(Tokens{1, 1, 2, 2, 7, 7}, std::move(given), ""), 1);
  EXPECT_EQ(ledger_.counts().cached, 2);  // the tree's own 0 and 1, before a page in use
  EXPECT_EQ(tree_.evictable_pages(), 0);
  EXPECT_EQ(tree_.evict(9), 0);
  last.clear();
  EXPECT_EQ(tree_.evict(9), 3);
  audit();
}

TEST_F(PrefixTreeTest, ClearLeavesPagesToTheirUsers) {
  insert({1, 1, 2, 2});
  const std::vector<PageLease> user = tree_.match(Tokens{1, 1}, "");
  tree_.clear();
  EXPECT_EQ(tree_.pages(), 0);
  EXPECT_EQ(ledger_.counts(), (PageCounts{.free = 15, .owned = 1}));
  EXPECT_EQ(match({1, 1}), Pages{});
  insert({1, 1});
  EXPECT_EQ(match({1, 1}).size(), 1u);
}

// Destroys the tree on a thread whose stack would not hold one frame a node.
TEST(PrefixTree, LongChainsNeedNoStack) {
  constexpr int kPages = 4000;
  PageLedger ledger(kPages);
  auto tree = std::make_unique<PrefixTree>(ledger, 1);
  const Tokens tokens(kPages, 1);
  Result<std::vector<PageLease>> pages = ledger.reserve(kPages);
  ASSERT_TRUE(pages.ok());
  tree->insert(tokens, std::move(*pages), "");
  for (size_t length = 1; length < kPages; length += 2)
    (void)tree->match(std::span(tokens).first(length), "");  // splits it
  EXPECT_EQ(tree->nodes(), kPages / 2 + 1);
  tree->audit();

  pthread_attr_t small_stack;
  ASSERT_EQ(pthread_attr_init(&small_stack), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&small_stack, 64 << 10), 0);
  pthread_t thread;
  const auto destroy = [](void* owner) -> void* {
    return static_cast<std::unique_ptr<PrefixTree>*>(owner)->reset(), nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &small_stack, destroy, &tree), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&small_stack);
  ledger.audit();
  EXPECT_EQ(ledger.counts().free, kPages);
}

TEST(PrefixTreeDeathTest, MisuseStops) {
  PageLedger ledger(2);
  PrefixTree tree(ledger, 2);
  EXPECT_DEATH(tree.insert(Tokens{1, 1}, {}, ""), "2 tokens in 0 pages of 2");
  EXPECT_DEATH((void)tree.evict(-1), "evict");
  EXPECT_DEATH(PrefixTree(ledger, 0), "pages of 0 tokens");
  Result<std::vector<PageLease>> pages = ledger.reserve(1);
  ASSERT_TRUE(pages.ok());
  std::vector<PageLease> first, second;
  first.push_back((*pages)[0].share());
  second.push_back(std::move((*pages)[0]));
  tree.insert(Tokens{1, 1}, std::move(first), "");
  EXPECT_DEATH(tree.insert(Tokens{2, 2}, std::move(second), ""), "already in the tree");
}

// The tree beside a map from every cached prefix to its page.
class Model {
 public:
  Model(int pages, uint64_t seed) : random_(seed), ledger_(pages), tree_(ledger_, kPageTokens) {}

  void step() {
    const uint64_t what = random_.below(10);
    if (what < 5) {
      run_sequence();
    } else if (what < 7) {
      if (!held_.empty()) held_.erase(held_.begin() + static_cast<ptrdiff_t>(random_.below(held_.size())));
    } else if (what < 9) {
      const auto wanted = static_cast<int>(random_.below(5));
      ASSERT_EQ(tree_.evict(wanted), evict(wanted));
    } else if (random_.below(20) == 0) {
      tree_.clear();
      model_.clear();
    }
    compare();
  }

 private:
  static constexpr int kPageTokens = 2;
  using Key = std::pair<std::string, Tokens>;  // salt, tokens up to the end of the page
  struct Cached {
    PageId page;
    uint64_t used = 0;
  };

  Tokens draw_tokens() {
    Tokens tokens(random_.below(14));
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_.below(2));
    return tokens;
  }

  std::vector<PageId> match(const std::string& salt, const Tokens& tokens, bool touch) {
    std::vector<PageId> pages;
    if (touch) ++tick_;
    for (size_t end = kPageTokens; end <= tokens.size(); end += kPageTokens) {
      const auto found = model_.find({salt, Tokens(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(end))});
      if (found == model_.end()) break;
      if (touch) found->second.used = tick_;
      pages.push_back(found->second.page);
    }
    return pages;
  }

  bool in_use(PageId page) const {
    return std::any_of(held_.begin(), held_.end(), [page](const std::vector<PageLease>& sequence) {
      return std::any_of(sequence.begin(), sequence.end(),
                         [page](const PageLease& lease) { return lease.page() == page; });
    });
  }

  bool is_leaf(std::map<Key, Cached>::const_iterator entry) const {
    const auto next = std::next(entry);  // an extension, if any, comes right behind its prefix
    if (next == model_.end() || next->first.first != entry->first.first) return true;
    const Tokens& tokens = entry->first.second;
    return next->first.second.size() < tokens.size() ||
           !std::equal(tokens.begin(), tokens.end(), next->first.second.begin());
  }

  int evict(int wanted) {
    int evicted = 0;
    for (; evicted < wanted; ++evicted) {
      auto oldest = model_.end();
      for (auto entry = model_.begin(); entry != model_.end(); ++entry) {
        if (!is_leaf(entry) || in_use(entry->second.page)) continue;
        if (oldest == model_.end() || entry->second.used < oldest->second.used) oldest = entry;
      }
      if (oldest == model_.end()) break;
      model_.erase(oldest);
    }
    return evicted;
  }

  // What a scheduler does: match, reserve the rest (evicting when short), compute, insert, hold for a while.
  void run_sequence() {
    const std::string salt = random_.below(4) == 0 ? "other" : "";
    const Tokens tokens = draw_tokens();
    const size_t full = tokens.size() / kPageTokens;
    std::vector<PageLease> sequence = tree_.match(tokens, salt);
    const std::vector<PageId> expected = match(salt, tokens, true);
    ASSERT_EQ(sequence.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(sequence[i].page(), expected[i]);
    if (random_.below(4) == 0) sequence.clear();  // computes all again, and inserts duplicates
    held_.push_back(std::move(sequence));
    const auto missing = static_cast<int>(full - held_.back().size());
    const int shortfall = missing - ledger_.counts().free;
    if (shortfall > 0) {
      ASSERT_EQ(tree_.evict(shortfall), evict(shortfall));
    }
    Result<std::vector<PageLease>> fresh = ledger_.reserve(missing);
    if (!fresh.ok()) return held_.pop_back();
    for (PageLease& lease : *fresh) held_.back().push_back(std::move(lease));
    insert(salt, tokens, held_.back());
    if (random_.below(2) == 0) held_.pop_back();
  }

  void insert(const std::string& salt, const Tokens& tokens, const std::vector<PageLease>& sequence) {
    std::vector<PageLease> given;
    given.reserve(sequence.size());
    for (const PageLease& lease : sequence) given.push_back(lease.share());
    int added = 0;
    if (!given.empty()) ++tick_;
    for (size_t i = 0; i < given.size(); ++i) {
      const Tokens prefix(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>((i + 1) * kPageTokens));
      const auto [entry, is_new] = model_.try_emplace({salt, prefix}, Cached{given[i].page()});
      entry->second.used = tick_;
      added += is_new ? 1 : 0;
    }
    ASSERT_EQ(tree_.insert(tokens, std::move(given), salt), added);
  }

  void compare() {
    tree_.audit();
    ledger_.audit();
    ASSERT_EQ(tree_.pages(), static_cast<int>(model_.size()));
    // As many pages, and these: what was evicted is what the model evicts.
    for (const auto& [key, entry] : model_)
      ASSERT_EQ(tree_.cached_tokens(key.second, key.first), static_cast<int64_t>(key.second.size()));
    int cached = 0;
    for (const auto& [key, entry] : model_) cached += in_use(entry.page) ? 0 : 1;
    ASSERT_EQ(ledger_.counts().cached, cached);
    const Tokens probe = draw_tokens();
    ASSERT_EQ(tree_.cached_tokens(probe, ""), static_cast<int64_t>(match("", probe, false).size()) * kPageTokens);
    const std::map<Key, Cached> kept = model_;
    ASSERT_EQ(tree_.evictable_pages(), evict(1 << 20));
    model_ = kept;
  }

  Random random_;
  PageLedger ledger_;
  PrefixTree tree_;
  std::map<Key, Cached> model_;
  std::vector<std::vector<PageLease>> held_;
  uint64_t tick_ = 0;
};

TEST(PrefixTree, RandomOperationsMatchTheMapModel) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Model model(static_cast<int>(10 + 2 * seed), seed);
    for (int i = 0; i < 500; ++i) {
      model.step();
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace baton::kv
