// The KV pages of prompts seen before, by their tokens: a radix tree whose edges are runs of full pages. One tree a DP
// group, on the thread of its ledger. Matches compare token ids, not hashes, so two prompts never share a page by
// collision.
//
// The tree holds a lease of each of its pages and marks it in the ledger, so that a page no sequence uses counts as
// cached. Order of use is a counter of operations, not a clock, so the same operations evict the same pages.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/page_ledger.h"

namespace baton::kv {

// What can be evicted is known at any time, because the ledger tells the tree when its pages are used: a count, and the
// unused leaves by their last use. Evicting takes constant time a page.
class PrefixTree final : private PageUseObserver {
 public:
  // `ledger` outlives the tree and has no other. page_tokens >= 1.
  PrefixTree(PageLedger& ledger, int page_tokens);
  ~PrefixTree();
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

  // Leases of the pages of the longest cached prefix of `tokens`, full pages only, and marks them as just used. `salt`
  // separates tenants: nothing inserted under another salt is ever found (S12). A caller that must compute at least one
  // token (to have logits) passes the prompt without its last token.
  [[nodiscard]] std::vector<PageLease> match(std::span<const int32_t> tokens, std::string_view salt);
  // How many tokens match() would find; changes nothing.
  [[nodiscard]] int64_t cached_tokens(std::span<const int32_t> tokens, std::string_view salt) const;

  // Keeps the pages of the full pages of `tokens`: pages.size() == tokens.size() / page_tokens, checked. Where the tree
  // already has a page for the same tokens it keeps its own and drops the lease given. Returns how many pages are new
  // in the tree.
  int insert(std::span<const int32_t> tokens, std::vector<PageLease> pages, std::string_view salt);

  // Frees up to `pages` pages that only the tree holds, from the ends of the least recently used branches. Returns how
  // many: fewer when the rest is in use or lies before pages in use.
  int evict(int pages);
  // Forgets everything; pages in use stay with their users.
  void clear();

  [[nodiscard]] int pages() const { return pages_; }
  [[nodiscard]] int nodes() const { return nodes_; }
  // What evict() could free at most. At times less than the ledger's cached pages.
  [[nodiscard]] int evictable_pages() const { return evictable_; }

  // Checks the structure of the whole tree against the ledger, and recounts what is kept. O(tokens).
  void audit() const;

 private:
  struct Node;
  struct Less {
    using is_transparent = void;
    bool operator()(std::span<const int32_t> a, std::span<const int32_t> b) const;
  };
  using Tokens = std::span<const int32_t>;
  // Of a page of the tree: the node that has it, and how many pages come before it from the root on.
  struct Place {
    Node* node = nullptr;
    size_t depth = 0;
  };

  [[nodiscard]] Tokens first_page(Tokens tokens) const { return tokens.first(static_cast<size_t>(page_tokens_)); }
  [[nodiscard]] size_t common_pages(const Node& node, Tokens tokens) const;
  // The child that shares the first page with `tokens`; nullptr if none or `tokens` has no full page.
  [[nodiscard]] Node* child_of(const Node& node, Tokens tokens) const;
  Node& split(Node& node, size_t pages);
  void add_leaf(Node& parent, Tokens tokens, std::vector<PageLease> pages);
  void drop_last_page(Node& node);
  void touch(Node& node);
  void page_used(PageId page) override;
  void page_unused(PageId page) override;
  void note_blocked_child(Node* node, int change);
  void note_unused_leaf(Node& node);
  void remove_leaf(Node& leaf);
  [[nodiscard]] int count_evictable() const;
  [[nodiscard]] std::vector<Node*> parents_first() const;

  PageLedger& ledger_;
  const int page_tokens_;
  std::map<std::string, std::unique_ptr<Node>, std::less<>> roots_;  // by salt; a root has no pages
  uint64_t tick_ = 0;
  int pages_ = 0;
  int nodes_ = 0;
  int evictable_ = 0;
  std::vector<Place> places_;  // by page; of pages outside the tree meaningless
  // Leaves with a last page that only the tree holds, by their last use. No two have the same: an operation touches one
  // path, and of a path only one node is a leaf.
  std::map<uint64_t, Node*> unused_leaves_;
};

}  // namespace baton::kv
